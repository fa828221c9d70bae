"""All checkpoints of a manifest go to one organisation, and into one collection of it."""

from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi, get_token

from .download import HubError, translate_errors
from .manifest import MANIFEST, ReleasedWeights, read_manifest, weights_dir
from .publish import Plan, Published, plan, publish

__all__ = ["PublishedAll", "plan_all", "publish_all"]

TITLE = "Moment Exchange (MoEx)"
DESCRIPTION = "timm models trained with and without MoEx (CVPR 2021), with recipe, baseline and learning curve."


@dataclass(frozen=True)
class PublishedAll:
    """What `publish_all` did.

    Attributes:
        repos: Each checkpoint's repo, in the order of the manifest.
        collection: Address of the collection.
        added: Repos that the collection did not have before.
    """

    repos: list[Published]
    collection: str
    added: list[str]


def plan_all(org: str, root: str | Path | None = None, *, tag: str = "v1") -> list[Plan]:
    """Verify every checkpoint of a manifest and work out what `publish_all` will upload.

    Args:
        org: Organisation or user; a checkpoint NAME goes to the repo "org/NAME".
        root: Folder of manifest.json and the checkpoints; None for the folder of this package.
        tag: Name of this state of the repos.

    Raises:
        HubError: A folder does not verify or lacks its weights, a checkpoint is pinned to another organisation's repo,
            or `org` or `tag` is not valid.
        ValueError: The manifest is none, or has no checkpoint.

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
                f"org={org!r}: {entry.name} is published as {entry.hub_id} already; only --repo-id moves its pin"
            )
    return [plan(root / entry.name, f"{org}/{entry.name}", tag=tag) for entry in entries]


def publish_all(org: str, root: str | Path | None = None, *, private: bool = False, tag: str = "v1") -> PublishedAll:
    """Publish every checkpoint of a manifest, pin each in it, and gather their repos in a collection.

    All folders are verified before the first is sent. A second call changes nothing, and an interrupted one can be
    repeated: what is published stays pinned.

    Args:
        org: Organisation or user; a checkpoint NAME goes to the repo "org/NAME".
        root: Folder of manifest.json and the checkpoints; None for the folder of this package.
        private: Whether new repos and a new collection are private.
        tag: Name of this state of the repos.

    Raises:
        HubError: See `plan_all` and `publish`.
        ValueError: The manifest is none, or has no checkpoint.
    """
    planned = plan_all(org, root, tag=tag)
    repos = [publish(each.folder, each.repo_id, private=private, tag=tag) for each in planned]
    notes = {each.repo_id: _note(each.released) for each in planned if each.released}
    collection, added = _gather(org, notes, private)
    return PublishedAll(repos, collection, added)


def _note(entry: ReleasedWeights) -> str:
    return f"Top-1 {entry.top1['value']:.2f} % on {entry.dataset} ({entry.split})"


def _gather(org: str, notes: dict[str, str], private: bool) -> tuple[str, list[str]]:
    """The collection's address after each repo is in it, and the repos that were not."""
    api = HfApi(token=get_token(), library_name="timm_moex")
    with translate_errors(f"hf-hub:collections/{org}"):
        collection = api.create_collection(
            TITLE, namespace=org, description=DESCRIPTION, private=private, exists_ok=True
        )
        added = [repo_id for repo_id in notes if repo_id not in {item.item_id for item in collection.items}]
        for repo_id in added:
            api.add_collection_item(collection.slug, repo_id, "model", note=notes[repo_id], exists_ok=True)
    return collection.url, added
