"""Package metadata that depends on the repository's public address: project URLs, and the links of README.md.

The address is `repository` in pyproject.toml. While it is empty, there are no URLs and the links stay relative.
"""

import re
from pathlib import Path

from hatchling.metadata.plugin.interface import MetadataHookInterface

PICTURES = (".png", ".svg", ".jpg", ".webp", ".gif")


def absolute_links(text: str, repository: str) -> str:
    """Point the relative links and pictures of a Markdown page at a repository in GitHub's layout.

    Code blocks are left unchanged.
    """

    def absolute(match: re.Match) -> str:
        start, target = match.groups()
        view = "raw" if target.partition("#")[0].endswith(PICTURES) else "blob"
        return f"{start}{repository}/{view}/HEAD/{target}"

    parts = re.split(r"(^```.*?^```$)", text, flags=re.MULTILINE | re.DOTALL)
    for i in range(0, len(parts), 2):
        parts[i] = re.sub(r'(\]\(|(?:src|srcset|href)=")(?![a-z]+:|#)([^)"\s]+)', absolute, parts[i])
    return "".join(parts)


class RepositoryMetadataHook(MetadataHookInterface):
    """Sets `readme` and `urls`."""

    PLUGIN_NAME = "custom"

    def update(self, metadata: dict) -> None:
        """Fill in the fields that pyproject.toml declares as dynamic."""
        repository = self.config["repository"].rstrip("/")
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        if repository:
            text = absolute_links(text, repository)
            metadata["urls"] = {
                "Repository": repository,
                "Issues": f"{repository}/issues",
                "Changelog": f"{repository}/blob/HEAD/CHANGELOG.md",
            }
        metadata["readme"] = {"content-type": "text/markdown", "text": text}
