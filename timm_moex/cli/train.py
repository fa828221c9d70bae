"""`timm-moex train`, and `timm-moex sample`, which prints the folder of the sample data."""

import argparse
from pathlib import Path
from typing import Any

from ..utils.messages import say
from .options import add_command, add_skip_unreadable, add_val_fraction, metrics_in_words
from .outputs import path

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
        "train a model with a recipe",
        'timm-moex train quickstart --in-memory --data-dir "$(timm-moex sample)"',
        "timm-moex train finetune --data-dir FOLDER --set epochs=5",
        "timm-moex train my_recipe.yaml --resume output/my_recipe/last.pth.tar",
        "torchrun --nproc-per-node 8 -m timm_moex train imagenet_resnet50 --data-dir /path/to/imagenet",
        description="Train a model with a recipe, whose keys are the arguments of timm's train.py.",
    )
    parser.add_argument("recipe", help="name of a packaged recipe (timm-moex list --recipes) or a YAML file")
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="override it")
    parser.add_argument("--data-dir", type=path, metavar="DIR", help="the data folder (same as --set data_dir=DIR)")
    add_val_fraction(parser)
    parser.add_argument("--device", help="cpu, cuda:1, … (default: the recipe's, otherwise a GPU if available)")
    parser.add_argument("--compile", action="store_true", help="torch.compile (same as --set torchcompile=inductor)")
    parser.add_argument(
        "--resume",
        type=path,
        metavar="PATH",
        help="resume from this last.pth.tar, in its folder; auto: from the one in --output if it exists",
    )
    parser.add_argument("--output", type=path, metavar="DIR", help="output folder (default: output/NAME)")
    parser.add_argument(
        "--in-memory",
        action="store_true",
        help="keep the dataset on the device, and crop and flip there (same as --set in_memory=true)",
    )
    parser.add_argument(
        "--pad",
        type=int,
        metavar="N",
        help="with --in-memory: padding of the random crop in pixels (same as --set pad=N; default: 4)",
    )
    parser.add_argument(
        "--tensorboard", action="store_true", help="write TensorBoard event files (same as --set log_tensorboard=true)"
    )
    add_skip_unreadable(parser)
    parser.set_defaults(run=_run_train)


def _run_train(args: argparse.Namespace) -> None:
    from ..hub.card import is_ours
    from ..training.distributed import is_first_process
    from ..training.loop import train
    from ..training.recipe import load_recipe

    for option in ("resume", "output"):
        if getattr(args, option) == "":  # an unset shell variable
            raise ValueError(f"--{option} '': expected a path")
    recipe = load_recipe(args.recipe).override(
        args.set,
        data_dir=args.data_dir,
        val_fraction=args.val_fraction,
        device=args.device,
        resume=args.resume,
        torchcompile="inductor" if args.compile else None,
        in_memory=args.in_memory or None,
        pad=args.pad,
        skip_unreadable=args.skip_unreadable or None,
        log_tensorboard=args.tensorboard or None,
    )
    folder = args.output or (Path(args.resume).parent if args.resume not in (None, "auto") else None)
    result = train(recipe, folder)
    if is_first_process():
        hub = result.folder / "hub"
        say(f"last epoch: {metrics_in_words(result.metrics)}")
        cfg: Any = result.model.pretrained_cfg
        imported = " after `import timm_moex`" if is_ours(cfg["architecture"]) else ""
        say(f"{hub} loads as timm.create_model('local-dir:{hub}', pretrained=True){imported}")
