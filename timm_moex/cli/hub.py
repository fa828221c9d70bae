"""`timm-moex verify`, `publish` and `convert`: commands for folders in the Hub's layout."""

import argparse
from typing import TYPE_CHECKING, Any

from .options import add_command, add_data_options, evaluate_opened, open_model_and_data
from .outputs import path

if TYPE_CHECKING:
    from ..hub.publish import Plan, Published


__all__ = ["add_convert", "add_publish", "add_verify"]


def add_verify(commands: Any) -> None:
    """Add `verify`."""
    parser = add_command(
        commands,
        "verify",
        "check that folders are intact: hashes, tensors, card, top-1",
        "timm-moex verify",
        "timm-moex verify output/my_run/hub",
    )
    parser.add_argument("model", nargs="?", metavar="FOLDER", help="default: all checkpoints in this package")
    add_data_options(parser)
    parser.set_defaults(run=_run_verify)


def _run_verify(args: argparse.Namespace) -> int:
    from ..hub.verify import find_released, verify_all, verify_folder

    if args.model is None:
        problems = verify_all()
    else:
        entry = find_released(args.model)
        problems = {args.model: verify_folder(args.model, entry)}
        if args.data_dir and not problems[args.model]:
            if not entry:
                raise ValueError(f"{args.model}: cannot check top-1 without a manifest.json next to it")
            problems[args.model] = _top1_problems(args, entry.top1["value"])
    if not problems:
        print("this package was installed without checkpoints")
    for name, lines in problems.items():
        print(f"{name}: " + ("\n  ".join(["", *lines]).lstrip(" ") if lines else "sound"))
    return int(any(problems.values()))


def _top1_problems(args: argparse.Namespace, stated: float) -> list[str]:
    opened = open_model_and_data(args)
    top1 = evaluate_opened(opened)["top1"]
    print(f"top-1 {top1:.2f}, stated {stated:.2f}")
    return [f"top-1 is {top1:.2f}, but the manifest says {stated:.2f}"] if abs(top1 - stated) > 0.051 else []


def add_publish(commands: Any) -> None:
    """Add `publish`."""
    parser = add_command(
        commands,
        "publish",
        "upload a folder, or every checkpoint, to the Hub",
        "timm-moex publish output/my_run/hub --repo-id ORG/NAME --license apache-2.0 --dry-run",
        "timm-moex publish --all --org ORG --dry-run",
    )
    parser.add_argument("folder", nargs="?", help="…/hub of a training run; with --all: folder of a manifest.json")
    parser.add_argument("--repo-id", metavar="ORG/NAME")
    parser.add_argument("--all", action="store_true", help="every checkpoint in the manifest, grouped in a collection")
    parser.add_argument("--org", help="with --all: owner of the repos and the collection (an organisation or a user)")
    parser.add_argument("--private", action="store_true", help="create a private repo")
    parser.add_argument("--tag", default="v1", help="tag of this version of the repo (default: v1)")
    parser.add_argument("--license", metavar="ID", help="SPDX identifier, if the card has no licence")
    parser.add_argument("--dry-run", action="store_true", help="upload nothing; only have the Hub check the card")
    parser.set_defaults(run=_run_publish)


def _run_publish(args: argparse.Namespace) -> None:
    from ..hub.publish import publish, publish_all

    alone = args.folder and args.repo_id and not args.org
    together = args.org and not args.repo_id and not args.license
    if not (together if args.all else alone):
        raise ValueError("expected `publish FOLDER --repo-id ORG/NAME`, or `publish --all --org ORG` without --license")
    if args.dry_run:
        _show_plans(args)
    elif args.all:
        done = publish_all(args.org, args.folder, private=args.private, tag=args.tag)
        for repo in done.repos:
            _show_published(repo)
        print(f"{done.collection} contains all {len(done.repos)}, {len(done.added)} of them new")
    else:
        _show_published(publish(args.folder, args.repo_id, private=args.private, tag=args.tag, license=args.license))


def _show_plans(args: argparse.Namespace) -> None:
    from ..hub.publish import plan, plan_all

    if args.all:
        plans = plan_all(args.org, args.folder, tag=args.tag)
    else:
        plans = [plan(args.folder, args.repo_id, tag=args.tag, license=args.license)]
    for planned in plans:
        _check_card(planned)
        for file in planned.files:
            info = file.upload_info
            print(f"{info.size:>12,} bytes  sha256 {info.sha256.hex()}  {file.path_in_repo}")
        print(f"would be one commit in {planned.repo_id}, tagged {args.tag}; nothing was sent")


def _check_card(planned: "Plan") -> None:
    from ..hub.card import check_front_matter
    from ..hub.download import Unreachable

    try:
        check_front_matter(planned.card)
    except Unreachable as error:
        print(f"the Hub did not check the card of {planned.repo_id}: {error}")


def _show_published(done: "Published") -> None:
    there = "" if done.changed else ": already up to date"
    print(f"{done.repo_id}@{done.revision}, tag {done.tag}{there}")
    print(f"timm.create_model('hf-hub:{done.repo_id}@{done.revision}', pretrained=True)")
    print(
        f"pinned in {done.manifest}"
        if done.manifest
        else "not pinned, because no manifest was found next to the folder"
    )


def add_convert(commands: Any) -> None:
    """Add `convert`."""
    parser = add_command(
        commands,
        "convert",
        "convert a checkpoint of the official repository to a folder",
        "timm-moex convert checkpoint.pth --arch resnet50 --output FOLDER",
    )
    parser.add_argument("file")
    parser.add_argument("--arch", required=True, help="resnet50 or densenet265")
    parser.add_argument("--output", required=True, type=path, metavar="FOLDER")
    parser.add_argument("--license", metavar="ID", help="SPDX identifier of the weights' licence, for the card")
    parser.set_defaults(run=_run_convert)


def _run_convert(args: argparse.Namespace) -> None:
    from ..hub.convert import convert

    folder = convert(args.file, args.arch, args.output, license=args.license)
    print(f"timm.create_model('local-dir:{folder}', pretrained=True)")
