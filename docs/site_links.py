"""MkDocs hook: show example scripts whole, copy pictures from benchmarks/results/, and add version and repository.

The pages themselves link to files of the repository, so that they can also be read there.
"""

import re
from pathlib import Path

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
SCRIPT = re.compile(r"^- \[[^\]]*\]\(\.\./examples/(\w+\.py)\)$", re.MULTILINE)
PICTURE = re.compile(r"\]\(\.\./benchmarks/results/([\w-]+\.png)\)")


def _show(match: re.Match) -> str:
    code = (ROOT / "examples" / match.group(1)).read_text(encoding="utf-8")
    return "\n    ".join([f'??? example "{match.group(1)}"', "```python", *code.rstrip().splitlines(), "```"])


def on_config(config):
    """Show the version in the footer, and link the repository once pyproject.toml has its address."""
    version = re.search(r'^__version__ = "(.+)"$', (ROOT / "timm_moex/version.py").read_text(), re.MULTILINE)
    address = re.search(r'^repository = "(.*)"$', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    config.copyright = f"timm_moex {version.group(1)} · Apache-2.0"
    config.repo_url = address.group(1) or None
    config.repo_name = "timm_moex" if config.repo_url else None
    return config


def on_files(files: Files, config) -> Files:
    """Add the pictures that pages link to."""
    pages = [page.content_string for page in files.documentation_pages()]
    for name in sorted({name for page in pages for name in PICTURE.findall(page)}):
        source = str(ROOT / "benchmarks/results" / name)
        files.append(File.generated(config, f"figures/{name}", abs_src_path=source))
    return files


def on_page_markdown(markdown: str, **_) -> str:
    """Replace links to scripts by the scripts, and point pictures at their copies."""
    return SCRIPT.sub(_show, PICTURE.sub(r"](figures/\1)", markdown))
