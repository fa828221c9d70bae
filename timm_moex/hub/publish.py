"""A folder becomes a Hub repo: one commit, one tag, and its pin in the manifest."""

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, HfApi, constants, get_token
from huggingface_hub.errors import RepositoryNotFoundError

from ..utils.files import write_atomically
from .card import LOCAL_SOURCE, read_front_matter
from .download import HubError, sha256_of, translate_errors
from .verify import FILES, find_released, verify_folder

__all__ = ["File", "Published", "plan", "publish"]


@dataclass(frozen=True)
class File:
    """A file as it is to lie on the Hub; `content` is the file here, or bytes where it is changed on the way."""

    name: str
    content: Path | bytes

    @property
    def size(self) -> int:
        return len(self.content) if isinstance(self.content, bytes) else self.content.stat().st_size

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest() if isinstance(self.content, bytes) else sha256_of(self.content)

    @property
    def git_oid(self) -> str:
        """git's name of the content, by which the Hub knows small files."""
        content = self.content if isinstance(self.content, bytes) else self.content.read_bytes()
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass(frozen=True)
class Published:
    """What `publish` did.

    Attributes:
        revision: The commit that `tag` is at; with it the weights can be pinned.
        changed: Whether anything was uploaded or tagged.
        manifest: The manifest that now has hub id and revision; None where there is none for the folder.
    """

    repo_id: str
    tag: str
    revision: str
    changed: bool
    manifest: Path | None


def plan(folder: str | Path, repo_id: str, license: str | None = None) -> list[File]:
    """All that would be uploaded; the card names the repo, and the licence if it had none.

    Raises:
        HubError: The folder does not verify, `repo_id` is none, or nobody said a licence.
    """
    folder = Path(folder)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo_id):
        raise HubError(f"repo_id={repo_id!r}: ORG/NAME was expected")
    found = find_released(folder)
    if problems := verify_folder(folder, found[1] if found else None):
        raise HubError(f"{folder} is not published: {'; '.join(problems)}")
    files: dict[str, Path | bytes] = {name: folder / name for name in FILES if (folder / name).is_file()}
    card = (folder / "README.md").read_text().replace(LOCAL_SOURCE, f"hf-hub:{repo_id}")
    stated = read_front_matter(card).get("license")
    if stated is None and license is None:
        raise HubError(f"{folder / 'README.md'} states no license; give --license (an SPDX identifier: apache-2.0, …)")
    if stated is not None and license not in (None, stated):
        raise HubError(f"license={license!r}, but {folder / 'README.md'} states {stated!r}")
    if stated is None:
        card = card.replace("---\n", f"---\nlicense: {license}\n", 1)
    files["README.md"] = card.encode()
    return [File(name, content) for name, content in files.items()]


def publish(
    folder: str | Path, repo_id: str, *, private: bool = False, tag: str = "v1", license: str | None = None
) -> Published:
    """Upload a folder as one commit and tag it. A second call changes nothing; an interrupted one can be repeated.

    The token is the one of `hf auth login` or HF_TOKEN.

    Args:
        folder: In the Hub's layout, as `save_folder` writes it.
        repo_id: "ORG/NAME"; is created if need be.
        private: Whether the new repo is to be private; an old one must be already.
        tag: Name of this state of the repo. A tag never moves: other files need another one.
        license: For the card, where it states none.

    Raises:
        HubError: See `plan`; no token; the tag is taken by other files; the Hub refused or the connection failed.
    """
    files = plan(folder, repo_id, license)
    token = get_token()
    if token is None:
        raise HubError("there is no token: log in with `hf auth login`, or set HF_TOKEN to one that may write")
    api = HfApi(token=token, library_name="timm_moex")
    with translate_errors(f"hf-hub:{repo_id}"):
        _create(api, repo_id, private)
        revision = _tagged(api, repo_id, tag)
        changed = revision is None
        if revision is None:
            add = [CommitOperationAdd(file.name, file.content) for file in files]
            revision = api.create_commit(repo_id, add, commit_message=f"Add {Path(folder).name}").oid
            api.create_tag(repo_id, tag=tag, revision=revision)
        elif differing := _differing(api, repo_id, revision, files):
            raise HubError(
                f"{repo_id}: tag {tag!r} is there already, with another {', '.join(differing)}. What was published "
                "under a tag stays; give another one with --tag"
            )
    return Published(repo_id, tag, revision, changed, _pin(folder, repo_id, revision))


def _create(api: HfApi, repo_id: str, private: bool) -> None:
    try:
        info = api.model_info(repo_id)
    except RepositoryNotFoundError:
        api.create_repo(repo_id, private=private, exist_ok=True)
        return
    if private and not info.private:
        raise HubError(f"{repo_id} exists and is public; make it private at {constants.ENDPOINT}/{repo_id}/settings")


def _tagged(api: HfApi, repo_id: str, tag: str) -> str | None:
    """The commit a tag is at."""
    return next((ref.target_commit for ref in api.list_repo_refs(repo_id).tags if ref.name == tag), None)


def _differing(api: HfApi, repo_id: str, revision: str, files: list[File]) -> list[str]:
    """Names of the files that are not in the repo as they are here."""
    there = {info.path: info for info in api.get_paths_info(repo_id, [file.name for file in files], revision=revision)}

    def is_same(file: File) -> bool:
        info = there.get(file.name)
        return info is not None and (info.lfs.sha256 == file.sha256 if info.lfs else info.blob_id == file.git_oid)

    return [file.name for file in files if not is_same(file)]


def _pin(folder: str | Path, repo_id: str, revision: str) -> Path | None:
    """Write repo and commit into the manifest next to the folder, if it has an entry."""
    found = find_released(folder)
    if found is None:
        return None
    path, entry = found
    manifest: dict[str, Any] = json.loads(path.read_text())
    row = next(row for row in manifest["checkpoints"] if row["name"] == entry.name)
    if (row["hub_id"], row["revision"]) != (repo_id, revision):
        row |= {"hub_id": repo_id, "revision": revision}
        write_atomically(path, lambda file: file.write((json.dumps(manifest, indent=2) + "\n").encode()))
    return path
