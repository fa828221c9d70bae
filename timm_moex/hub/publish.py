"""Publish a folder as a Hub repo (one commit, one tag, a pin in the manifest), or a manifest as a collection."""

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import CommitOperationAdd, HfApi, get_token
from huggingface_hub.constants import CONFIG_NAME
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import validate_repo_id
from huggingface_hub.utils.sha import git_hash

from ..utils.files import write_atomically
from ..utils.reraise import reraise_as
from .card import LOCAL_SOURCE, check_front_matter, parse_card
from .download import WEIGHTS, HubError, endpoint, translate_errors
from .folder import FILES, README
from .manifest import MANIFEST, ReleasedWeights, read_manifest, weights_dir
from .verify import find_released, verify_folder

__all__ = ["Plan", "Published", "PublishedAll", "plan", "plan_all", "publish", "publish_all"]

TITLE = "Moment Exchange (MoEx)"
DESCRIPTION = "timm models trained with and without MoEx (CVPR 2021), with recipe, baseline and learning curve."
# Forbidden by git in the name of a tag
_NO_TAG = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//|/[.-]|\.lock(/|$)|[./]$|^[./-]|^@?$")


class Plan(NamedTuple):
    """Everything that publishing a folder will do. The repo, and the licence if missing, are filled in on the card.

    `released` is the folder's entry in the manifest next to it, if there is one.
    """

    folder: Path
    repo_id: str
    tag: str
    card: str
    files: list[CommitOperationAdd]
    released: ReleasedWeights | None


class Published(NamedTuple):
    """Result of `publish`: the commit of the tag, whether anything was uploaded or tagged, and the manifest, if any.

    The manifest then states the folder's repo and commit; None if it has no entry for the folder.
    """

    repo_id: str
    tag: str
    revision: str
    changed: bool
    manifest: Path | None


class PublishedAll(NamedTuple):
    """Result of `publish_all`: each checkpoint's repo, the collection's address, and the repos added to it."""

    repos: list[Published]
    collection: str
    added: list[str]


def plan(folder: str | Path, repo_id: str, *, tag: str = "v1", license: str | None = None) -> Plan:
    """Verify a folder in the Hub's layout and determine what `publish` will upload; for the arguments, see there.

    Raises:
        HubError: The folder fails verification, `repo_id` or `tag` is invalid, or no licence is stated.
    """
    folder = Path(folder)
    with reraise_as(HubError, f"repo_id={repo_id!r}: expected ORG/NAME"):
        validate_repo_id(repo_id)
        if repo_id.count("/") != 1:
            raise ValueError("the organisation or user is missing")
    if _NO_TAG.search(tag):
        raise HubError(f"tag={tag!r}: expected the name of a git tag, such as v1")
    released = find_released(folder)
    if problems := verify_folder(folder, released):
        raise HubError(f"{folder} cannot be published: {'; '.join(problems)}")
    if not (folder / WEIGHTS).is_file():
        raise HubError(f"{folder} cannot be published: it has no {WEIGHTS}; publish from a checkout, which has it")
    card = parse_card((folder / README).read_text(encoding="utf-8"))
    config = json.loads((folder / CONFIG_NAME).read_text(encoding="utf-8"))
    stated = card.data.get("license") or config["pretrained_cfg"].get("license")
    if stated is None and license is None:
        raise HubError(f"{folder / README} states no licence; use --license (an SPDX identifier: apache-2.0, …)")
    if stated is not None and license not in (None, stated):
        raise HubError(f"license={license!r}, but {folder} states {stated!r}")
    card.data["license"] = stated or license
    card.text = card.text.replace(LOCAL_SOURCE, f"hf-hub:{repo_id}")
    contents: dict[str, Path | bytes] = {name: folder / name for name in FILES if (folder / name).is_file()}
    contents[README] = str(card).encode()
    files = [CommitOperationAdd(name, content) for name, content in contents.items()]
    return Plan(folder, repo_id, tag, str(card), files, released)


def plan_all(org: str, root: str | Path | None = None, *, tag: str = "v1") -> list[Plan]:
    """Verify every checkpoint of a manifest and determine what `publish_all` will upload; for the arguments, see there.

    Raises:
        HubError: See `plan`. Also if a checkpoint is pinned to another organisation's repo.
        ValueError: The manifest is invalid or lists no checkpoints.
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


def publish(
    folder: str | Path, repo_id: str, *, private: bool = False, tag: str = "v1", license: str | None = None
) -> Published:
    """Upload a folder as one commit and tag it. Repeating a call is safe, whether it was interrupted or not.

    The token comes from `hf auth login` or HF_TOKEN. The repo is created if it does not exist; `private` applies to a
    new repo, and an existing one must already be private. A tag never moves: changed files need a new one. `license` is
    for the card, if neither the card nor config.json states one.

    Raises:
        HubError: See `plan`. Also if there is no token, the tag exists with different files, the Hub refuses, or the
            connection fails.
    """
    [published] = _publish([plan(folder, repo_id, tag=tag, license=license)], _api(), private)
    return published


def publish_all(org: str, root: str | Path | None = None, *, private: bool = False, tag: str = "v1") -> PublishedAll:
    """Publish every checkpoint NAME of a manifest as "org/NAME", pin each in it, and gather them in a collection.

    All folders are verified before the first upload. Repeating a call is safe, whether it was interrupted or not:
    published checkpoints stay pinned. `root` is the folder of manifest.json and the checkpoints; None for this
    package's. `private` applies to new repos and a new collection.

    Raises:
        HubError, ValueError: See `plan_all` and `publish`.
    """
    plans, api = plan_all(org, root, tag=tag), _api()
    repos = _publish(plans, api, private)
    notes = {
        each.repo_id: f"Top-1 {each.released.top1['value']:.2f} % on {each.released.dataset} ({each.released.split})"
        for each in plans
        if each.released
    }
    return PublishedAll(repos, *_gather(api, org, notes, private))


def _api() -> HfApi:
    token = get_token()
    if token is None:
        raise HubError("no token found: log in with `hf auth login`, or set HF_TOKEN to a token with write access")
    return HfApi(token=token, library_name="timm_moex")


def _publish(plans: list[Plan], api: HfApi, private: bool) -> list[Published]:
    for planned in plans:
        check_front_matter(planned.card)
    return [_send(planned, api, private) for planned in plans]


def _send(planned: Plan, api: HfApi, private: bool) -> Published:
    repo_id, tag = planned.repo_id, planned.tag
    with translate_errors(f"hf-hub:{repo_id}"):
        if not api.repo_exists(repo_id):
            api.create_repo(repo_id, private=private, exist_ok=True)
        elif private and not api.model_info(repo_id).private:
            raise HubError(f"{repo_id} exists and is public; make it private at {endpoint()}/{repo_id}/settings")
        tags = {ref.name: ref.target_commit for ref in api.list_repo_refs(repo_id).tags}
        revision = tags.get(tag)
        changed = revision is None
        if revision is None:
            revision = api.create_commit(repo_id, planned.files, commit_message=f"Add {planned.folder.name}").oid
            api.create_tag(repo_id, tag=tag, revision=revision)
        elif differing := _differing(api, repo_id, revision, planned.files):
            raise HubError(
                f"{repo_id}: tag {tag!r} already exists with a different {', '.join(differing)}. A published tag never "
                "changes; choose another one with --tag"
            )
    return Published(repo_id, tag, revision, changed, _pin(planned, revision))


def _differing(api: HfApi, repo_id: str, revision: str, files: list[CommitOperationAdd]) -> list[str]:
    """Return the names of the files that are missing in the repo or differ there."""
    infos = api.get_paths_info(repo_id, [file.path_in_repo for file in files], revision=revision)
    there = {info.path: info for info in infos if isinstance(info, RepoFile)}

    def is_same(file: CommitOperationAdd) -> bool:
        info = there.get(file.path_in_repo)
        if info and info.lfs:
            return info.lfs.sha256 == file.upload_info.sha256.hex()
        with file.as_file() as content:
            return info is not None and info.blob_id == git_hash(content.read())

    return [file.path_in_repo for file in files if not is_same(file)]


def _pin(planned: Plan, revision: str) -> Path | None:
    """Write repo and commit into the manifest next to the folder, if it has an entry."""
    if planned.released is None:
        return None
    path = planned.folder.resolve().parent / MANIFEST
    manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    row = next(row for row in manifest["checkpoints"] if row["name"] == planned.released.name)
    if (row["hub_id"], row["revision"]) != (planned.repo_id, revision):
        row |= {"hub_id": planned.repo_id, "revision": revision}
        content = (json.dumps(manifest, indent=2) + "\n").encode()
        write_atomically(path, lambda file: file.write(content))
    return path


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
