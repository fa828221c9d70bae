"""The command line: `timm-moex` or `python -m timm_moex`. One small function per subcommand."""

import argparse
import os
import sys
import traceback
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

import timm

from .hub.convert import ARCHITECTURES, convert
from .hub.download import HubError
from .hub.publish import plan, publish
from .hub.verify import find_released, verify_all, verify_folder
from .insertion.sites import moex_sites
from .training.datasets import sample_dir
from .training.evaluate import evaluate, write_per_class
from .training.inference import Inference, open_inference, predict_samples
from .training.loop import train
from .training.plots import prediction_grid
from .training.recipe import load_recipe, packaged_recipes
from .training.subsets import locate_subset
from .utils.devices import is_out_of_memory
from .utils.messages import one_line
from .utils.names import check_model_name

__all__ = ["main"]

# Errors whose message is meant for the user: about what was given, or about the machine
_EXPLAINED = (ValueError, OSError, ImportError, FloatingPointError, HubError)
_DEFECT = 70  # EX_SOFTWARE of BSD's sysexits.h: an internal error, so that neither 1 nor 2 is taken for one


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand.

    Args:
        argv: The words after the program's name; default those of the process.

    Returns:
        0; 1 where a demanded accuracy was missed; 2 after an error, explained in one line; 70 after a defect of this
        package, with its traceback; 130 after Ctrl-C.
    """
    try:
        args = _parser().parse_args(argv)
        code = args.run(args) or 0
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # `timm-moex list | head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("timm-moex: interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        return _explain(error)


def _explain(error: Exception) -> int:
    """Print what went wrong; returns the exit code."""
    if is_out_of_memory(error):
        print(f"timm-moex: error: out of memory: {one_line(error)}; a smaller batch may fit", file=sys.stderr)
        return 2
    if isinstance(error, _EXPLAINED):
        print(f"timm-moex: error: {one_line(error)}", file=sys.stderr)
        return 2
    traceback.print_exception(error)
    versions = ", ".join(f"{name} {version(name)}" for name in ("timm", "torch"))
    request = f"timm-moex: this is a defect of timm_moex; please report it with the lines above ({versions})"
    print(request, file=sys.stderr)
    return _DEFECT


class _Parser(argparse.ArgumentParser):
    """argparse, but a wrong word is an error in one line, as every other."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"timm-moex: error: {message} (see {self.prog} --help)\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser("timm-moex", description="Moment Exchange for timm: train, evaluate, look.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for add in (
        _add_list, _add_sites, _add_sample, _add_train, _add_eval, _add_show, _add_verify, _add_publish, _add_convert
    ):  # fmt: skip
        add(commands)
    return parser


def _add_list(commands: Any) -> None:
    parser = commands.add_parser("list", help="names of models, or of the packaged recipes")
    parser.add_argument("filter", nargs="?", default="moex_*", help="wildcard for the model names (default: moex_*)")
    parser.add_argument("--recipes", action="store_true", help="list the recipes and their files instead")
    parser.set_defaults(run=_list)


def _list(args: argparse.Namespace) -> None:
    recipes = [f"{name:24} {path}" for name, path in packaged_recipes().items()]
    print("\n".join(recipes if args.recipes else timm.list_models(args.filter)))


def _add_sites(commands: Any) -> None:
    parser = commands.add_parser("sites", help="where a model's features can be exchanged")
    parser.add_argument("model", help="a model's name")
    parser.set_defaults(run=_sites)


def _sites(args: argparse.Namespace) -> None:
    check_model_name(args.model)
    for site in moex_sites(timm.create_model(args.model)).values():
        print(f"{site.name:10} {site.hook_on:6} of {site.module:24} {site.layout}")


def _add_sample(commands: Any) -> None:
    parser = commands.add_parser("sample", help="folder of the packaged Fashion-MNIST sample, for --data-dir")
    parser.set_defaults(run=_sample)


def _sample(args: argparse.Namespace) -> None:
    print(sample_dir())


def _add_train(commands: Any) -> None:
    parser = commands.add_parser("train", help="train by a recipe", description="Keys are timm's train.py arguments.")
    parser.add_argument("recipe", help="name of a packaged recipe (timm-moex list --recipes) or a YAML file")
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="override it")
    parser.add_argument("--data-dir", metavar="DIR", help="the data (same as --set data_dir=DIR)")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, … (same as --set device=…)")
    parser.add_argument("--compile", action="store_true", help="torch.compile (same as --set torchcompile=inductor)")
    parser.add_argument("--resume", metavar="PATH", help="go on from this last.pth.tar, in its folder")
    parser.add_argument("--output", metavar="DIR", help="where to write (default: output/NAME)")
    parser.add_argument("--in-memory", action="store_true", help="keep the set on the device, crop and flip there")
    parser.add_argument(
        "--pad", type=int, metavar="N", help="with --in-memory: border of that crop in pixels (default: 4)"
    )
    _add_skip_unreadable(parser)
    parser.set_defaults(run=_train)


def _train(args: argparse.Namespace) -> None:
    recipe = load_recipe(args.recipe).override(
        args.set,
        data_dir=args.data_dir,
        device=args.device,
        resume=args.resume,
        torchcompile="inductor" if args.compile else None,
    )
    if args.pad is not None and not args.in_memory:
        raise ValueError(f"--pad {args.pad} is of the crop that --in-memory does; give both or neither")
    pad = 4 if args.pad is None else args.pad
    folder = args.output or (Path(args.resume).parent if args.resume else None)
    result = train(recipe, folder, in_memory=args.in_memory, pad=pad, skip_unreadable=args.skip_unreadable)
    print(f"last epoch: {_words(result.metrics)}")
    print(f"{result.folder / 'hub'} loads as timm.create_model('local-dir:{result.folder / 'hub'}', pretrained=True)")


def _add_eval(commands: Any) -> None:
    parser = commands.add_parser("eval", help="top-1, top-5 and loss of a model")
    _add_model_and_data(parser)
    parser.add_argument("--min-top1", type=_percent, metavar="TOP1", help="exit with 1 if top-1 is lower")
    parser.add_argument("--subset", metavar="SET", help="imagenet-a or -r: DIR has synset folders, of 200 classes")
    parser.add_argument("--per-class", metavar="FILE.csv", help="write images and top-1 of each class")
    parser.set_defaults(run=_eval)


def _eval(args: argparse.Namespace) -> int:
    columns, split = locate_subset(args.subset, args.data_dir, args.split) if args.subset else ({}, args.split)
    opened = _open(args, split=split, columns=columns)
    chosen = list(columns.values()) or None
    metrics = evaluate(opened.model, opened.loader, opened.device, columns=chosen, per_class=args.per_class is not None)
    print(f"timm.create_model('{opened.name}', pretrained=True): {_words(metrics)}")
    if args.per_class:
        write_per_class(args.per_class, list(columns) or opened.class_names, metrics)
        print(args.per_class)
    return int(args.min_top1 is not None and metrics["top1"] < args.min_top1)


def _add_show(commands: Any) -> None:
    parser = commands.add_parser("show", help="picture of test images with the model's predictions")
    _add_model_and_data(parser)
    parser.add_argument(
        "--count", type=_positive, default=32, help="number of images, spread over the set (default: 32)"
    )
    parser.add_argument("--output", default="predictions.png", metavar="FILE", help="default: predictions.png")
    parser.set_defaults(run=_show)


def _show(args: argparse.Namespace) -> None:
    opened = _open(args)
    print(prediction_grid(*predict_samples(opened, args.count), opened.class_names, args.output))


def _add_verify(commands: Any) -> None:
    parser = commands.add_parser("verify", help="whether folders are what they say: hashes, tensors, card, top-1")
    parser.add_argument("model", nargs="?", metavar="FOLDER", help="default: all checkpoints of this package")
    _add_data(parser)
    parser.set_defaults(run=_verify)


def _verify(args: argparse.Namespace) -> int:
    if args.model is None:
        problems = verify_all()
    else:
        found = find_released(args.model)
        problems = {args.model: verify_folder(args.model, found[1] if found else None)}
        if args.data_dir and not problems[args.model]:
            if not found:
                raise ValueError(f"{args.model}: no manifest next to it states a top-1 to compare with")
            problems[args.model] = _top1_problems(args, found[1].top1["value"])
    if not problems:
        print("this package was installed without checkpoints")
    for name, lines in problems.items():
        print(f"{name}: " + ("\n  ".join(["", *lines]).lstrip(" ") if lines else "sound"))
    return int(any(problems.values()))


def _top1_problems(args: argparse.Namespace, stated: float) -> list[str]:
    opened = _open(args)
    top1 = evaluate(opened.model, opened.loader, opened.device)["top1"]
    print(f"top-1 {top1:.2f}, stated {stated:.2f}")
    return [f"top-1 is {top1:.2f}, the manifest says {stated:.2f}"] if abs(top1 - stated) > 0.051 else []


def _add_publish(commands: Any) -> None:
    parser = commands.add_parser("publish", help="put a folder on the Hub, as one commit with a tag")
    parser.add_argument("folder", help="as training leaves it (…/hub)")
    parser.add_argument("--repo-id", required=True, metavar="ORG/NAME")
    parser.add_argument("--private", action="store_true", help="create the repo as a private one")
    parser.add_argument("--tag", default="v1", help="name of this state of the repo (default: v1)")
    parser.add_argument("--license", metavar="ID", help="SPDX identifier, where the card states none")
    parser.add_argument("--dry-run", action="store_true", help="list what would be sent, and send nothing")
    parser.set_defaults(run=_publish)


def _publish(args: argparse.Namespace) -> None:
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


def _add_convert(commands: Any) -> None:
    parser = commands.add_parser("convert", help="turn a checkpoint of the official repository into a folder")
    parser.add_argument("file")
    parser.add_argument("--arch", required=True, help=", ".join(ARCHITECTURES))
    parser.add_argument("--output", required=True, metavar="FOLDER")
    parser.add_argument("--license", metavar="ID", help="SPDX identifier of the weights' licence, for the card")
    parser.set_defaults(run=_convert)


def _convert(args: argparse.Namespace) -> None:
    folder = convert(args.file, args.arch, args.output, license=args.license)
    print(f"timm.create_model('local-dir:{folder}', pretrained=True)")


def _add_model_and_data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="a folder that timm loads (…/hub), or a model's name")
    _add_data(parser)


def _add_data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data-dir", metavar="DIR", help="the data")
    parser.add_argument("--dataset", default="", help="as timm names it (default: a folder of images)")
    parser.add_argument("--split", default="validation", help="part of the data (default: validation)")
    parser.add_argument("--batch-size", type=_positive, default=256)
    parser.add_argument("--workers", type=_natural, default=0)
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda, …")
    _add_skip_unreadable(parser)


def _add_skip_unreadable(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--skip-unreadable", action="store_true", help="leave out images that cannot be read")


def _positive(text: str) -> int:
    return _integer(text, 1)


def _natural(text: str) -> int:
    return _integer(text, 0)


def _integer(text: str, least: int) -> int:
    try:
        value = int(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number") from error
    if value < least:
        raise argparse.ArgumentTypeError(f"{text}: expected at least {least}")
    return value


def _percent(text: str) -> float:
    try:
        value = float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a percentage from 0 to 100") from error
    if not 0 <= value <= 100:
        raise argparse.ArgumentTypeError(f"{text}: expected a percentage from 0 to 100")
    return value


def _open(args: argparse.Namespace, **overrides: Any) -> Inference:
    """Model and data of the options that `_add_model_and_data` added."""
    keys = ("dataset", "split", "batch_size", "workers", "device", "skip_unreadable")
    opened = open_inference(args.model, args.data_dir, **{key: getattr(args, key) for key in keys} | overrides)
    if opened.unreadable:
        print(f"{len(opened.unreadable)} images cannot be read and are left out, such as {opened.unreadable[0]}")
    return opened


def _words(metrics: dict[str, Any]) -> str:
    top1, top5, loss, count = (metrics[key] for key in ("top1", "top5", "loss", "count"))
    return f"top-1 {top1:.2f}, top-5 {top5:.2f}, loss {loss:.4f}, {count} images"
