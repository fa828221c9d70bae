"""`timm-moex publish` and `timm-moex convert`."""

import argparse
from typing import Any

__all__ = ["add_convert", "add_publish"]


def add_publish(commands: Any) -> None:
    parser = commands.add_parser("publish", help="put a folder on the Hub, as one commit with a tag")
    parser.add_argument("folder", help="as training leaves it (…/hub)")
    parser.add_argument("--repo-id", required=True, metavar="ORG/NAME")
    parser.add_argument("--private", action="store_true", help="create the repo as a private one")
    parser.add_argument("--tag", default="v1", help="name of this state of the repo (default: v1)")
    parser.add_argument("--license", metavar="ID", help="SPDX identifier, where the card states none")
    parser.add_argument("--dry-run", action="store_true", help="list what would be sent, and send nothing")
    parser.set_defaults(run=_publish)


def _publish(args: argparse.Namespace) -> None:
    from .hub.publish import plan, publish

    if args.dry_run:
        for file in plan(args.folder, args.repo_id, tag=args.tag, license=args.license).files:
            print(f"{file.size:>12,} bytes  sha256 {file.sha256}  {file.name}")
        print(f"would be one commit in {args.repo_id}, tagged {args.tag}; nothing was sent")
        return
    how = dict(private=args.private, tag=args.tag, license=args.license)
    done = publish(args.folder, args.repo_id, **how)
    there = "" if done.changed else ": was there already, as it is here"
    print(f"{done.repo_id}@{done.revision}, tag {done.tag}{there}")
    print(f"timm.create_model('hf-hub:{done.repo_id}@{done.revision}', pretrained=True)")
    print(f"pinned in {done.manifest}" if done.manifest else "no manifest next to the folder to pin it in")


def add_convert(commands: Any) -> None:
    from .hub.convert import ARCHITECTURES

    parser = commands.add_parser("convert", help="turn a checkpoint of the official repository into a folder")
    parser.add_argument("file")
    parser.add_argument("--arch", required=True, help=", ".join(ARCHITECTURES))
    parser.add_argument("--output", required=True, metavar="FOLDER")
    parser.add_argument("--license", metavar="ID", help="SPDX identifier of the weights' licence, for the card")
    parser.set_defaults(run=_convert)


def _convert(args: argparse.Namespace) -> None:
    from .hub.convert import convert

    folder = convert(args.file, args.arch, args.output, license=args.license)
    print(f"timm.create_model('local-dir:{folder}', pretrained=True)")
