"""`timm-moex train`, and `sample`, which has data for it."""

import argparse
from pathlib import Path
from typing import Any

from .options import add_command, add_skip_unreadable, metrics_in_words

__all__ = ["add_sample", "add_train"]


def add_sample(commands: Any) -> None:
    """Add `sample`."""
    parser = add_command(
        commands,
        "sample",
        "print the folder of the packaged Fashion-MNIST sample, for --data-dir",
        'timm-moex train quickstart --in-memory --data-dir "$(timm-moex sample)"',
    )
    parser.set_defaults(run=_run_sample)


def _run_sample(args: argparse.Namespace) -> None:
    from ..training.datasets import sample_dir

    print(sample_dir())


def add_train(commands: Any) -> None:
    """Add `train`."""
    parser = add_command(
        commands,
        "train",
        "train by a recipe",
        'timm-moex train quickstart --in-memory --data-dir "$(timm-moex sample)"',
        "timm-moex train finetune --data-dir FOLDER --set epochs=5",
        "timm-moex train my_recipe.yaml --resume output/my_recipe/last.pth.tar",
        "torchrun --nproc-per-node 8 -m timm_moex train imagenet_resnet50 --data-dir /path/to/imagenet",
        description="Train by a recipe. Its keys are the arguments of timm's train.py.",
    )
    parser.add_argument("recipe", help="name of a packaged recipe (timm-moex list --recipes) or a YAML file")
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="override it")
    parser.add_argument("--data-dir", metavar="DIR", help="the data (same as --set data_dir=DIR)")
    parser.add_argument("--device", help="cpu, cuda:1, … (default: the recipe's, else a GPU or the CPU)")
    parser.add_argument("--compile", action="store_true", help="torch.compile (same as --set torchcompile=inductor)")
    parser.add_argument(
        "--resume",
        metavar="PATH",
        help="go on from this last.pth.tar, in its folder; auto: from the one in --output, if any",
    )
    parser.add_argument("--output", metavar="DIR", help="where to write (default: output/NAME)")
    parser.add_argument("--in-memory", action="store_true", help="keep the set on the device, crop and flip there")
    parser.add_argument(
        "--pad", type=int, metavar="N", help="with --in-memory: border of that crop in pixels (default: 4)"
    )
    parser.add_argument("--tensorboard", action="store_true", help="write TensorBoard's events into …/tensorboard")
    add_skip_unreadable(parser)
    parser.set_defaults(run=_run_train)


def _run_train(args: argparse.Namespace) -> None:
    from ..training.fill_in import fill_in
    from ..training.loop import train
    from ..training.processes import is_first_process
    from ..training.recipe import load_recipe

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
    recipe, notes = fill_in(recipe)
    say = print if is_first_process() else _say_nothing
    for note in notes:
        say(note)
    folder = args.output or (Path(args.resume).parent if args.resume not in (None, "auto") else None)
    result = train(
        recipe,
        folder,
        in_memory=args.in_memory,
        pad=pad,
        skip_unreadable=args.skip_unreadable,
        tensorboard=args.tensorboard,
    )
    say(f"last epoch: {metrics_in_words(result.metrics)}")
    say(f"{result.folder / 'hub'} loads as timm.create_model('local-dir:{result.folder / 'hub'}', pretrained=True)")


def _say_nothing(_: str) -> None:
    """What all processes but the first do."""
