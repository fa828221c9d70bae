"""`timm-moex verify`, `publish` and `convert`: commands for folders in the Hub's layout."""

from typing import TYPE_CHECKING, Any

from .evaluate import evaluate_opened, open_model_and_data
from .options import DATA_OPTIONS, command, flag, option, path

if TYPE_CHECKING:
    from ..hub.publish import Plan, Published

__all__ = ["convert", "publish", "verify"]


@command(
    "verify",
    option("model", nargs="?", metavar="FOLDER", help="folder to check (default: all checkpoints in this package)"),
    *DATA_OPTIONS,
    examples=["timm-moex verify", "timm-moex verify output/my_run/hub"],
)
def verify(model: str | None, data_dir: str | None, **options: Any) -> int:
    """Check that folders are intact: tensors, config, card; hashes if a manifest lists them; top-1 with --data-dir."""
    from ..hub.verify import find_released, verify_all, verify_folder

    if model is None:
        problems = verify_all()
    else:
        entry = find_released(model)
        problems = {model: verify_folder(model, entry)}
        if data_dir and not problems[model]:
            if not entry:
                raise ValueError(f"{model}: cannot check top-1, because no manifest.json next to it lists this folder")
            stated = entry.top1["value"]
            top1 = evaluate_opened(open_model_and_data(model, data_dir, **options))["top1"]
            print(f"top-1 {top1:.2f}, in the manifest {stated:.2f}")
            if abs(top1 - stated) > 0.051:
                problems[model] = [f"top-1 is {top1:.2f}, but the manifest says {stated:.2f}"]
    if not problems:
        print("this package was installed without checkpoints")
    for name, lines in problems.items():
        print(f"{name}: " + ("\n  ".join(["", *lines]).lstrip(" ") if lines else "OK"))
    return int(any(problems.values()))


def _publish_early(
    folder: str | None, repo_id: str | None, everything: bool, org: str | None, license: str | None, **options: Any
) -> None:
    if not (org and not repo_id and not license if everything else folder and repo_id and not org):
        raise ValueError("expected `publish FOLDER --repo-id ORG/NAME`, or `publish --all --org ORG` without --license")


@command(
    "publish",
    option("folder", nargs="?", help="…/hub of a training run; with --all: folder with a manifest.json"),
    option("--repo-id", metavar="ORG/NAME", help="repo for the folder, created if it does not exist"),
    flag("--all", "publish every checkpoint in the manifest, and list them in a collection", dest="everything"),
    option("--org", help="with --all: owner of the repos and the collection (an organisation or a user)"),
    flag("--private", "create private repos"),
    option("--tag", default="v1", help="tag of this version of the repo (default: v1)"),
    option("--license", metavar="ID", help="SPDX identifier, if the card has no licence"),
    flag("--dry-run", "upload nothing; list the files and have the Hub check the card"),
    examples=[
        "timm-moex publish output/my_run/hub --repo-id ORG/NAME --license apache-2.0 --dry-run",
        "timm-moex publish --all --org ORG --dry-run",
    ],
    early=_publish_early,
)
def publish(
    folder: str,
    repo_id: str,
    everything: bool,
    org: str,
    private: bool,
    tag: str,
    license: str | None,
    dry_run: bool,
) -> None:
    """Upload a folder, or every checkpoint, to the Hub."""
    from ..hub.publish import plan, plan_all, publish, publish_all

    if dry_run:
        plans = plan_all(org, folder, tag=tag) if everything else [plan(folder, repo_id, tag=tag, license=license)]
        _show_plans(plans, tag)
    elif everything:
        done = publish_all(org, folder, private=private, tag=tag)
        for repo in done.repos:
            _show_published(repo)
        print(f"{done.collection} contains all {len(done.repos)} repos, {len(done.added)} of them new")
    else:
        _show_published(publish(folder, repo_id, private=private, tag=tag, license=license))


def _show_plans(plans: "list[Plan]", tag: str) -> None:
    from ..hub.card import check_front_matter
    from ..hub.download import Unreachable

    for planned in plans:
        try:
            check_front_matter(planned.card)
        except Unreachable as error:
            print(f"the Hub did not check the card of {planned.repo_id}: {error}")
        for file in planned.files:
            info = file.upload_info
            print(f"{info.size:>12,} bytes  sha256 {info.sha256.hex()}  {file.path_in_repo}")
        print(f"would create one commit in {planned.repo_id}, tagged {tag}; nothing was uploaded")


def _show_published(done: "Published") -> None:
    there = "" if done.changed else ": already up to date"
    print(f"{done.repo_id}@{done.revision}, tag {done.tag}{there}")
    print(f"timm.create_model('hf-hub:{done.repo_id}@{done.revision}', pretrained=True)")
    missing = "not pinned, because no manifest next to the folder lists it"
    print(f"pinned in {done.manifest}" if done.manifest else missing)


@command(
    "convert",
    option("file", help="checkpoint to convert"),
    option("--arch", required=True, help="architecture: resnet50 or densenet265"),
    option("--output", required=True, type=path, metavar="FOLDER", help="folder to write"),
    option("--license", metavar="ID", help="SPDX identifier of the weights' licence, for the card"),
    examples=["timm-moex convert checkpoint.pth --arch resnet50 --output FOLDER"],
)
def convert(file: str, arch: str, output: str, license: str | None) -> None:
    """Convert a checkpoint of the official repository to a folder."""
    from ..hub.convert import convert

    folder = convert(file, arch, output, license=license)
    print(f"timm.create_model('local-dir:{folder}', pretrained=True)")
