"""`timm-moex compare`: train a recipe with several methods and seeds, and compare them."""

import argparse
from typing import Any

from .options import add_command, positive

__all__ = ["add_compare"]


def add_compare(commands: Any) -> None:
    """Add `compare`."""
    parser = add_command(
        commands,
        "compare",
        "train a recipe with several methods and seeds, and report the differences",
        'timm-moex compare quickstart --data-dir "$(timm-moex sample)" --set in_memory=true --seeds 3',
        "timm-moex compare finetune --data-dir FOLDER --methods baseline moex mixstyle",
        "timm-moex compare my_recipe.yaml --method 'mine: moex_lam=0.5 moex_prob=0.25' --jobs 2",
        "timm-moex compare --report output/compare-finetune",
        description="Train a recipe with several methods and seeds, and report what each method changes, with a 95 % "
        "interval. Run the same command again to resume a stopped comparison or to add methods or seeds.",
    )
    parser.add_argument("recipe", nargs="?", help="name of a packaged recipe (timm-moex list --recipes) or a YAML file")
    parser.add_argument("--data-dir", metavar="DIR", help="the data folder (same as --set data_dir=DIR)")
    parser.add_argument(
        "--methods",
        nargs="+",
        metavar="NAME",
        help="baseline, moex, moex_lam1, another preset (timm-moex list --presets), cutmix, mixup, smoothing, or "
        "several joined by + (default: baseline, the recipe's own exchange, cutmix)",
    )
    parser.add_argument(
        "--method",
        action="append",
        default=[],
        metavar="'NAME: KEY=VALUE …'",
        help="add your own method: changes to the recipe, or to the model's moex_ settings",
    )
    parser.add_argument("--seeds", type=positive, default=5, metavar="N", help="number of seeds (default: 5)")
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="for all methods")
    parser.add_argument("--jobs", type=positive, default=1, metavar="N", help="runs in parallel (default: 1)")
    parser.add_argument("--device", help="cpu, cuda:1, … (default: the recipe's, otherwise a GPU if available)")
    parser.add_argument("--output", metavar="DIR", help="output folder (default: output/compare-NAME)")
    parser.add_argument("--test-split", metavar="NAME", help="test each finished run on this split, once")
    parser.add_argument("--leave-one-out", action="store_true", help="hold out each group in turn, and test on it")
    parser.add_argument("--report", metavar="DIR", help="only print and write the report of the comparison in DIR")
    parser.set_defaults(run=_run_compare)


def _run_compare(args: argparse.Namespace) -> int:
    from ..comparison.compare import compare, report

    if (args.recipe is None) == (args.report is None):
        raise ValueError("expected either a recipe to compare or --report DIR")
    if args.report:
        return int(report(args.report).failed > 0)
    result = compare(
        args.recipe,
        args.data_dir,
        methods=args.methods,
        add_methods=args.method,
        seeds=args.seeds,
        settings=args.set,
        output=args.output,
        jobs=args.jobs,
        device=args.device,
        test_split=args.test_split,
        leave_one_out=args.leave_one_out,
    )
    return int(result.failed > 0)
