"""`timm-moex list`, `recipe` and `sites`: list models, recipes, and the sites where models can exchange."""

from typing import TYPE_CHECKING

from ..utils.messages import did_you_mean
from .options import command, flag, option

if TYPE_CHECKING:
    from ..models.describe import SiteFacts

__all__ = ["list_models", "list_sites", "print_recipe"]


def _list_early(filter: str | None, details: bool, recipes: bool, presets: bool) -> bool:
    given = {"FILTER": filter, "--details": details, "--recipes": recipes, "--presets": presets}
    names = [name for name, value in given.items() if value]
    if (recipes or presets) and len(names) > 1:
        raise ValueError(f"{' and '.join(names)} cannot be combined")
    return recipes


@command(
    "list",
    option("filter", nargs="?", help="wildcard for the model names (default: moex_*)"),
    flag("--details", "also show parameters in millions, input size, and tags with weights, with top-1 if known"),
    flag("--recipes", "list the packaged recipes instead"),
    flag("--presets", "list the augmentations for moex_preset instead"),
    examples=["timm-moex list 'moex_resnet*'", "timm-moex list 'moex_convnext_t*' --details"],
    early=_list_early,
)
def list_models(filter: str | None, details: bool, recipes: bool, presets: bool) -> None:
    """List models, packaged recipes or presets."""
    from ..training.recipe import packaged_recipes

    if recipes:
        width = max(map(len, packaged_recipes()))
        for name, file in packaged_recipes().items():
            title = file.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")
            print(f"{name:{width}}  {title}")
        return

    import timm

    from ..insertion.presets import PRESETS
    from ..models.describe import describe_model

    if presets:
        print("\n\n".join(f"{preset.name}: {preset.summary}\n  {preset.source}" for preset in PRESETS.values()))
        return
    names = timm.list_models(filter or "moex_*")
    if not names:
        hint = did_you_mean(str(filter).strip("*"), timm.list_models())
        raise ValueError(f"no model matches {filter!r}{hint}")
    if not details:
        print("\n".join(names))
        return
    width = max(map(len, names))
    print(f"{'model':{width}}  {'params (M)':>10}  {'input':<13}  tags with weights (top-1, %)")
    for facts in map(describe_model, names):
        tags = ", ".join(tag if top1 is None else f"{tag} ({top1:.2f})" for tag, top1 in facts.top1.items())
        size = "x".join(map(str, facts.input_size))
        print(f"{facts.name:{width}}  {facts.parameters / 1e6:>10.2f}  {size:<13}  {tags}".rstrip(), flush=True)


def _recipe_early(name: str) -> bool:
    from ..training.recipe import packaged_recipes

    if name not in (recipes := packaged_recipes()):
        raise ValueError(f"recipe {name!r}: expected one of {', '.join(recipes)}{did_you_mean(name, recipes)}")
    return True


@command(
    "recipe",
    option("name", metavar="NAME", help="see timm-moex list --recipes"),
    examples=["timm-moex recipe finetune > my_recipe.yaml"],
    early=_recipe_early,
)
def print_recipe(name: str) -> None:
    """Print a packaged recipe as a starting point for your own."""
    from ..training.recipe import packaged_recipes

    print(packaged_recipes()[name].read_text(encoding="utf-8"), end="")


@command("sites", option("model", help="name of a model"), examples=["timm-moex sites resnet50"])
def list_sites(model: str) -> None:
    """List the sites at which a model can exchange moments.

    The columns are the site's name for moex_layer, its module, the layout and shape of its features (B images), and
    its default norm.
    """
    from ..models.describe import describe_sites
    from ..utils.names import check_model_name

    check_model_name(model)
    rows = [_site_row(facts) for facts in describe_sites(model)]
    if not rows:
        raise ValueError(f"model: {model!r} has no named sites; pass the dotted path of a module to insert_moex")
    widths = [max(map(len, column)) for column in zip(*rows)]
    for row in rows:
        print("  ".join(f"{word:{width}}" for word, width in zip(row, widths)).rstrip())


def _site_row(facts: "SiteFacts") -> tuple[str, ...]:
    site = facts.site
    shapes = " ".join(f"({', '.join(map(str, ('B', *shape)))})" for shape in facts.shapes)
    if site.prefix_tokens:
        shapes += f" with {site.prefix_tokens} prefix token{'s' * (site.prefix_tokens > 1)}"
    return site.name, f"{site.hook_on} of {site.module}", site.layout, shapes, site.norm, "default" * facts.is_default
