"""`timm-moex list` and `sites`: which models there are, and where they exchange."""

import argparse
from typing import Any

import timm

from ..insertion.sites import moex_sites
from ..training.recipe import packaged_recipes
from ..utils.names import check_model_name
from .options import add_command

__all__ = ["add_list", "add_sites"]


def add_list(commands: Any) -> None:
    """Add `list`."""
    parser = add_command(
        commands, "list", "list models, or the packaged recipes", "timm-moex list", "timm-moex list 'moex_resnet*'"
    )
    parser.add_argument("filter", nargs="?", default="moex_*", help="wildcard for the model names (default: moex_*)")
    parser.add_argument("--recipes", action="store_true", help="list the recipes and their files instead")
    parser.set_defaults(run=_run_list)


def _run_list(args: argparse.Namespace) -> None:
    recipes = [f"{name:24} {path}" for name, path in packaged_recipes().items()]
    print("\n".join(recipes if args.recipes else timm.list_models(args.filter)))


def add_sites(commands: Any) -> None:
    """Add `sites`."""
    parser = add_command(
        commands, "sites", "list where a model's features can be exchanged", "timm-moex sites resnet50"
    )
    parser.add_argument("model", help="a model's name")
    parser.set_defaults(run=_run_sites)


def _run_sites(args: argparse.Namespace) -> None:
    check_model_name(args.model)
    for site in moex_sites(timm.create_model(args.model)).values():
        print(f"{site.name:10} {site.hook_on:6} of {site.module:24} {site.layout}")
