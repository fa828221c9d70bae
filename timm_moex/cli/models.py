"""`timm-moex list` and `timm-moex sites`: list models, and the sites where they can exchange."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..utils.messages import did_you_mean
from .options import add_command

if TYPE_CHECKING:
    from ..models.describe import ModelFacts, SiteFacts

__all__ = ["add_list", "add_sites"]


def add_list(commands: Any) -> None:
    """Add `list`."""
    parser = add_command(
        commands,
        "list",
        "list models, or the packaged recipes",
        "timm-moex list 'moex_resnet*'",
        "timm-moex list 'moex_convnext_t*' --details",
    )
    parser.add_argument("filter", nargs="?", default="moex_*", help="wildcard for the model names (default: moex_*)")
    parser.add_argument(
        "--details",
        action="store_true",
        help="show millions of parameters, input size, and tags with weights, with top-1 if known",
    )
    parser.add_argument("--recipes", action="store_true", help="list the packaged recipes instead")
    parser.add_argument("--presets", action="store_true", help="list the augmentations for moex_preset instead")
    parser.set_defaults(run=_run_list)


def _run_list(args: argparse.Namespace) -> None:
    import timm

    from ..insertion.presets import PRESETS
    from ..models.describe import describe_model
    from ..training.recipe import packaged_recipes

    if args.recipes:
        width = max(map(len, packaged_recipes()))
        print("\n".join(f"{name:{width}}  {_first_line(path)}" for name, path in packaged_recipes().items()))
        return
    if args.presets:
        print("\n\n".join(f"{preset.name}: {preset.summary}\n  {preset.source}" for preset in PRESETS.values()))
        return
    names = timm.list_models(args.filter)
    if not names:
        hint = did_you_mean(args.filter.strip("*"), timm.list_models())
        raise ValueError(f"no model matches {args.filter!r}{hint}")
    if not args.details:
        print("\n".join(names))
        return
    width = max(map(len, names))
    print(f"{'model':{width}}  {'params (M)':>10}  {'input':<13}  tags with weights (top-1, %)")
    for name in names:
        print(_details(describe_model(name), width), flush=True)


def _first_line(recipe: Path) -> str:
    return recipe.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")


def _details(facts: "ModelFacts", width: int) -> str:
    tags = ", ".join(tag if top1 is None else f"{tag} ({top1:.2f})" for tag, top1 in facts.top1.items())
    size = "x".join(map(str, facts.input_size))
    return f"{facts.name:{width}}  {facts.parameters / 1e6:>10.2f}  {size:<13}  {tags}".rstrip()


def add_sites(commands: Any) -> None:
    """Add `sites`."""
    parser = add_command(
        commands,
        "sites",
        "list the sites at which a model can exchange features",
        "timm-moex sites resnet50",
        description="List the sites at which a model can exchange features: the site's name for moex_layer, its "
        "module, the layout and shape of its features (B images), and its default norm.",
    )
    parser.add_argument("model", help="name of a model")
    parser.set_defaults(run=_run_sites)


def _run_sites(args: argparse.Namespace) -> None:
    from ..models.describe import describe_sites
    from ..utils.names import check_model_name

    check_model_name(args.model)
    rows = [_site_row(facts) for facts in describe_sites(args.model)]
    if not rows:
        raise ValueError(f"{args.model}: timm_moex has no sites for it; pass a module's dotted path to insert_moex")
    widths = [max(map(len, column)) for column in zip(*rows)]
    for row in rows:
        print("  ".join(f"{word:{width}}" for word, width in zip(row, widths)).rstrip())


def _site_row(facts: "SiteFacts") -> tuple[str, ...]:
    site = facts.site
    shapes = " ".join(f"({', '.join(map(str, ('B', *shape)))})" for shape in facts.shapes)
    if site.prefix_tokens:
        shapes += f" with {site.prefix_tokens} prefix token{'s' * (site.prefix_tokens > 1)}"
    return site.name, f"{site.hook_on} of {site.module}", site.layout, shapes, site.norm, "default" * facts.is_default
