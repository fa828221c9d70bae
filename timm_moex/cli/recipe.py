"""`timm-moex recipe`: print a packaged recipe as a starting point for your own."""

import argparse
from typing import Any

from ..utils.messages import did_you_mean
from .options import add_command

__all__ = ["add_recipe"]


def add_recipe(commands: Any) -> None:
    """Add `recipe`."""
    parser = add_command(
        commands,
        "recipe",
        "print a packaged recipe as a starting point for your own",
        "timm-moex recipe finetune > my_recipe.yaml",
    )
    parser.add_argument("name", metavar="NAME", help="see timm-moex list --recipes")
    parser.set_defaults(run=_run_recipe)


def _run_recipe(args: argparse.Namespace) -> None:
    from ..training.recipe import packaged_recipes

    recipes = packaged_recipes()
    if args.name not in recipes:
        names = ", ".join(recipes) + did_you_mean(args.name, recipes)
        raise ValueError(f"recipe {args.name!r}: expected one of {names}")
    print(recipes[args.name].read_text(encoding="utf-8"), end="")
