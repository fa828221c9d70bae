"""Publish a folder as a Hub repo (one commit, one tag, a pin in the manifest), or a manifest as a collection."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, HfApi, get_token
from huggingface_hub.constants import CONFIG_NAME
from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import validate_repo_id

from ..utils.files import sha256_of, write_atomically
from .card import LOCAL_SOURCE, check_front_matter, parse_card
from .download import WEIGHTS, HubError, endpoint, translate_errors
from .folder import FILES, README
from .manifest import MANIFEST, ReleasedWeights, read_manifest, weights_dir
from .verify import find_released, verify_folder

__all__ = ["File", "Plan", "Published", "PublishedAll", "plan", "plan_all", "publish", "publish_all"]

TITLE = "Moment Exchange (MoEx)"
DESCRIPTION = "timm models trained with and without MoEx (CVPR 2021), with recipe, baseline and learning curve."


@dataclass(frozen=True)
class File:
    """A file to upload; `content` is its local path, or bytes if publishing changes it."""

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
        """git's blob hash of the content, which the Hub reports for small files."""
        content = self.content if isinstance(self.content, bytes) else self.content.read_bytes()
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass(frozen=True)
class Plan:
    """Everything that publishing a folder will do.

    Attributes:
        folder: The verified folder.
        repo_id: "ORG/NAME".
        tag: Tag for this version of the repo.
        files: The files to upload, with the repo (and a missing licence) filled in in the card.
        manifest: The manifest next to the folder, if it has an entry for the folder.
        released: The folder's entry in it.
    """

    folder: Path
    repo_id: str
    tag: str
    files: list[File]
    manifest: Path | None
    released: ReleasedWeights | None

    @property
    def card(self) -> str:
        """README.md as uploaded."""
        return next(file.content.decode() for file in self.files if isinstance(file.content, bytes))


@dataclass(frozen=True)
class Published:
    """Result of `publish`.

    Attributes:
        revision: The commit that `tag` points to, for pinning the weights.
        changed: Whether anything was uploaded or tagged.
        manifest: The manifest with the folder's hub id and revision; None if it has no entry for the folder.
    """

    repo_id: str
    tag: str
    revision: str
    changed: bool
    manifest: Path | None


@dataclass(frozen=True)
class PublishedAll:
    """Result of `publish_all`: each checkpoint's repo, the collection's address, and the repos added to it."""

    repos: list[Published]
    collection: str
    added: list[str]


def plan(folder: str | Path, repo_id: str, *, tag: str = "v1", license: str | None = None) -> Plan:
    """Verify a folder and determine what `publish` will upload.

    Args:
        folder: A folder in the Hub's layout, as `save_folder` writes it.
        repo_id: "ORG/NAME".
        tag: Tag for this version of the repo.
        license: Licence for the card, if neither the card nor config.json states one.

    Raises:
        HubError: The folder fails verification, `repo_id` or `tag` is invalid, or no licence is stated.
    """
    folder = Path(folder)
    _check_repo_id(repo_id)
    _check_tag(tag)
    manifest, released = find_released(folder) or (None, None)
    if problems := verify_folder(folder, released):
        raise HubError(f"{folder} is not published: {'; '.join(problems)}")
    if not (folder / WEIGHTS).is_file():
        raise HubError(f"{folder} is not published: it has no {WEIGHTS}; publish from a checkout, which has it")
    card = parse_card((folder / README).read_text(encoding="utf-8"))
    config = json.loads((folder / CONFIG_NAME).read_text(encoding="utf-8"))
    stated = card.data.get("license") or config["pretrained_cfg"].get("license")
    if stated is None and license is None:
        raise HubError(f"{folder / README} states no license; give --license (an SPDX identifier: apache-2.0, …)")
    if stated is not None and license not in (None, stated):
        raise HubError(f"license={license!r}, but {folder} states {stated!r}")
    card.data["license"] = stated or license
    card.text = card.text.replace(LOCAL_SOURCE, f"hf-hub:{repo_id}")
    contents: dict[str, Path | bytes] = {name: folder / name for name in FILES if (folder / name).is_file()}
    contents[README] = str(card).encode()
    return Plan(folder, repo_id, tag, [File(*item) for item in contents.items()], manifest, released)


def plan_all(org: str, root: str | Path | None = None, *, tag: str = "v1") -> list[Plan]:
    """Verify every checkpoint of a manifest and determine what `publish_all` will upload.

    Args:
        org: Organisation or user; a checkpoint NAME goes to the repo "org/NAME".
        root: Folder of manifest.json and the checkpoints; None for the folder of this package.
        tag: Tag for this version of the repos.

    Raises:
        HubError: A folder fails verification or has no weights, a checkpoint is pinned to another organisation's repo,
            or `org` or `tag` is invalid.
        ValueError: The manifest is invalid or lists no checkpoints.

    Example:
        >>> [planned.repo_id for planned in plan_all("ORG")][:2]
        ['ORG/resnet20_cifar.fmnist_sample', 'ORG/tf_efficientnet_lite0.mixstyle_emoji8']
    """
    root = Path(root or weights_dir())
    entries = read_manifest(root / MANIFEST)
    if not entries:
        raise ValueError(f"{root / MANIFEST} has no checkpoints to publish")
    for entry in entries:
        if entry.hub_id not in (None, f"{org}/{entry.name}"):
            raise HubError(
                f"org={org!r}: {entry.name} is already published as {entry.hub_id}; use --repo-id to move its pin"
            )
    return [plan(root / entry.name, f"{org}/{entry.name}", tag=tag) for entry in entries]


def _check_repo_id(repo_id: str) -> None:
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise HubError(f"repo_id={repo_id!r}: expected ORG/NAME ({error})") from error
    if repo_id.count("/") != 1 or {".", ".."} & set(repo_id.split("/")):
        raise HubError(f"repo_id={repo_id!r}: expected ORG/NAME")


def _check_tag(tag: str) -> None:
    """Check a tag against git's rules for reference names."""
    forbidden = set(" ~^:?*[\\") | {chr(code) for code in range(32)} | {chr(127)}
    parts = tag.split("/")
    bad = forbidden & set(tag) or ".." in tag or "@{" in tag or tag.endswith(".") or tag == "@"
    if bad or any(not part or part.startswith((".", "-")) or part.endswith(".lock") for part in parts):
        raise HubError(f"tag={tag!r}: expected the name of a git tag, such as v1")


def publish(
    folder: str | Path, repo_id: str, *, private: bool = False, tag: str = "v1", license: str | None = None
) -> Published:
    """Upload a folder as one commit and tag it. Repeating a call is safe, whether it was interrupted or not.

    The token comes from `hf auth login` or HF_TOKEN.

    Args:
        folder, repo_id, license: See `plan`. The repo is created if it does not exist.
        private: Create a new repo as private; an existing repo must already be private.
        tag: Tag for this version of the repo. A tag never moves: changed files need a new one.

    Raises:
        HubError: See `plan`. Also if there is no token, the tag exists with different files, the Hub refuses, or the
            connection fails.
    """
    planned, api = plan(folder, repo_id, tag=tag, license=license), _api()
    check_front_matter(planned.card)
    return _send(planned, api, private)


def _api() -> HfApi:
    token = get_token()
    if token is None:
        raise HubError("no token found: log in with `hf auth login`, or set HF_TOKEN to a token with write access")
    return HfApi(token=token, library_name="timm_moex")


def _send(planned: Plan, api: HfApi, private: bool) -> Published:
    repo_id, tag = planned.repo_id, planned.tag
    with translate_errors(f"hf-hub:{repo_id}"):
        _create(api, repo_id, private)
        tags = {ref.name: ref.target_commit for ref in api.list_repo_refs(repo_id).tags}
        revision = tags.get(tag)
        changed = revision is None
        if revision is None:
            add = [CommitOperationAdd(file.name, file.content) for file in planned.files]
            revision = api.create_commit(repo_id, add, commit_message=f"Add {planned.folder.name}").oid
            api.create_tag(repo_id, tag=tag, revision=revision)
        elif differing := _differing(api, repo_id, revision, planned.files):
            raise HubError(
                f"{repo_id}: tag {tag!r} already exists with a different {', '.join(differing)}. A published tag never "
                "changes; choose another one with --tag"
            )
    return Published(repo_id, tag, revision, changed, _pin(planned, revision))


def _create(api: HfApi, repo_id: str, private: bool) -> None:
    try:
        info = api.model_info(repo_id)
    except RepositoryNotFoundError:
        api.create_repo(repo_id, private=private, exist_ok=True)
        return
    if private and not info.private:
        raise HubError(f"{repo_id} exists and is public; make it private at {endpoint()}/{repo_id}/settings")


def _differing(api: HfApi, repo_id: str, revision: str, files: list[File]) -> list[str]:
    """Return the names of the files that are missing in the repo or differ there."""
    infos = api.get_paths_info(repo_id, [file.name for file in files], revision=revision)
    there = {info.path: info for info in infos if isinstance(info, RepoFile)}

    def is_same(file: File) -> bool:
        info = there.get(file.name)
        return info is not None and (info.lfs.sha256 == file.sha256 if info.lfs else info.blob_id == file.git_oid)

    return [file.name for file in files if not is_same(file)]


def _pin(planned: Plan, revision: str) -> Path | None:
    """Write repo and commit into the manifest next to the folder, if it has an entry."""
    if planned.manifest is None or planned.released is None:
        return None
    manifest: dict[str, Any] = json.loads(planned.manifest.read_text(encoding="utf-8"))
    row = next(row for row in manifest["checkpoints"] if row["name"] == planned.released.name)
    if (row["hub_id"], row["revision"]) != (planned.repo_id, revision):
        row |= {"hub_id": planned.repo_id, "revision": revision}
        content = (json.dumps(manifest, indent=2) + "\n").encode()
        write_atomically(planned.manifest, lambda file: file.write(content))
    return planned.manifest


def publish_all(org: str, root: str | Path | None = None, *, private: bool = False, tag: str = "v1") -> PublishedAll:
    """Publish every checkpoint of a manifest, pin each in it, and gather their repos in a collection.

    All folders are verified before the first upload. Repeating a call is safe, whether it was interrupted or not:
    published checkpoints stay pinned.

    Args:
        org, root, tag: See `plan_all`.
        private: Create new repos and a new collection as private.

    Raises:
        HubError, ValueError: See `plan_all` and `publish`.
    """
    planned, api = plan_all(org, root, tag=tag), _api()
    for each in planned:
        check_front_matter(each.card)
    repos = [_send(each, api, private) for each in planned]
    notes = {
        each.repo_id: f"Top-1 {each.released.top1['value']:.2f} % on {each.released.dataset} ({each.released.split})"
        for each in planned
        if each.released
    }
    return PublishedAll(repos, *_gather(api, org, notes, private))


def _gather(api: HfApi, org: str, notes: dict[str, str], private: bool) -> tuple[str, list[str]]:
    """Add each repo to the collection; return its address and the repos that were new."""
    with translate_errors(f"hf-hub:collections/{org}"):
        collection = api.create_collection(
            TITLE, namespace=org, description=DESCRIPTION, private=private, exists_ok=True
        )
        added = [repo_id for repo_id in notes if repo_id not in {item.item_id for item in collection.items}]
        for repo_id in added:
            api.add_collection_item(collection.slug, repo_id, "model", note=notes[repo_id], exists_ok=True)
    return collection.url, added
