"""Methods: named changes to a recipe, such as another exchange, no exchange, or CutMix."""

from collections.abc import Iterable, Mapping

from ..insertion.presets import PRESETS
from ..models.twin import take_settings
from ..training.recipe import Recipe, RecipeError
from ..utils.messages import did_you_mean
from ..utils.names import TWIN_PREFIX, is_twin_name, twin_name

__all__ = ["BASELINE", "apply_method", "default_methods", "parse_methods"]

BASELINE = "baseline"
_MIXING = {
    "cutmix": ["cutmix=1.0", "mixup=0.0", "mixup_prob=0.5"],
    "mixup": ["cutmix=0.0", "mixup=0.2", "mixup_prob=1.0"],
    "smoothing": ["smoothing=0.1"],
}
_NO_EXCHANGE = f"{TWIN_PREFIX}prob=0.0"
_USUAL_EXCHANGE = f"{TWIN_PREFIX}prob=0.5"  # for a recipe without an exchange; the paper's 1 suits long training


def _own_exchange(recipe: Recipe) -> str:
    return recipe.settings.get("model_kwargs", {}).get(f"{TWIN_PREFIX}preset", "moex")


def default_methods(recipe: Recipe) -> list[str]:
    """List the default methods: the baseline, the recipe's exchange and, unless the recipe mixes images, CutMix."""
    mixes = any(recipe.settings.get(key) for key in ("mixup", "cutmix", "cutmix_minmax"))
    return [BASELINE, _own_exchange(recipe), *([] if mixes else ["cutmix"])]


def parse_methods(recipe: Recipe, words: Iterable[str]) -> dict[str, list[str]]:
    """Translate methods into changes of the recipe.

    Args:
        recipe: The recipe to change.
        words: Each is a name, names joined by "+", or "name: key=value …". Names are "baseline", the presets of
            `insert_moex`, "moex_lam1", "cutmix", "mixup" and "smoothing". The recipe's own exchange keeps the recipe's
            settings; any other exchange uses the settings of its preset. "moex" uses a probability of 0.5 if the recipe
            has no exchange. A key that begins with moex_ is a keyword argument of the model.

    Returns:
        Name → assignments for `apply_method`.
    """
    methods: dict[str, list[str]] = {}
    for word in words:
        name, colon, text = (part.strip() for part in word.partition(":"))
        changes = text.split() if colon else _changes_of(recipe, name)
        if not name or "/" in name or name.startswith("."):
            raise RecipeError(f"method {word!r}: expected a name that a folder can have, then `: key=value …`")
        if colon and not changes:
            raise RecipeError(f"method {word!r}: expected key=value after the colon")
        if name in methods:
            raise RecipeError(f"method {name!r} appears twice")
        methods[name] = changes
    if BASELINE not in methods:
        raise RecipeError(f"methods {', '.join(methods)}: {BASELINE!r} is missing; the others are compared with it")
    return methods


def _changes_of(recipe: Recipe, name: str) -> list[str]:
    if name == BASELINE:
        return [_NO_EXCHANGE]
    known = [BASELINE, *PRESETS, "moex_lam1", *_MIXING]
    parts, own = name.split("+"), _own_exchange(recipe)
    for part in parts:
        if part not in known[1:]:
            hint = did_you_mean(part, known)
            raise RecipeError(
                f"method {name!r}: expected {', '.join(known)}, several of them joined by +, or NAME and "
                f"`: key=value …`{hint}"
            )
    exchanges = [part for part in parts if part not in _MIXING]
    if len(exchanges) > 1 or len(parts) > len(set(parts)) or {"mixup", "cutmix"} <= set(parts):
        raise RecipeError(f"method {name!r}: expected at most one exchange, and cutmix or mixup but not both")
    changes = [change for part in parts if part in _MIXING for change in _MIXING[part]]
    if not exchanges:
        return [_NO_EXCHANGE, *changes]
    if exchanges == ["moex_lam1"]:
        return [f"{TWIN_PREFIX}lam=1.0", *changes]
    if exchanges != [own]:
        return [f"{TWIN_PREFIX}preset={exchanges[0]}", *changes]
    return [*([] if _exchanges(recipe) or own != "moex" else [_USUAL_EXCHANGE]), *changes]


def _exchanges(recipe: Recipe) -> bool:
    """Return whether a recipe already exchanges."""
    kwargs, model = _model_kwargs(recipe.settings), recipe.settings.get("model", "")
    return kwargs.get(f"{TWIN_PREFIX}prob", 1) > 0 and (is_twin_name(model) or any(map(is_twin_name, kwargs)))


def apply_method(recipe: Recipe, changes: Iterable[str]) -> Recipe:
    """Change a recipe, and replace a plain model, which cannot exchange, with its moex_ twin.

    Args:
        recipe: The recipe.
        changes: `key=value` each. `moex_preset=…` discards the recipe's own moex_ settings. If the recipe's own
            probability is 0, the preset's probability applies.
    """
    model, kwargs, changes = recipe.settings.get("model", "resnet50"), _model_kwargs(recipe.settings), list(changes)
    if any(change.startswith(f"{TWIN_PREFIX}preset=") for change in changes):
        kwargs = {key: value for key, value in kwargs.items() if not key.startswith(TWIN_PREFIX)}
    elif not kwargs.get(f"{TWIN_PREFIX}prob", 1):
        del kwargs[f"{TWIN_PREFIX}prob"]
    if not is_twin_name(model) and ":" not in model:
        model = twin_name(model)
    spelled = [f"model_kwargs.{change}" if change.startswith(TWIN_PREFIX) else change for change in changes]
    changed = recipe.with_defaults(model=model, model_kwargs=kwargs).override(spelled)
    try:
        take_settings(_model_kwargs(changed.settings))
    except TypeError as error:
        raise RecipeError(f"method with {' '.join(changes)}: {error}") from error
    return changed


def _model_kwargs(settings: Mapping) -> dict:
    return dict(settings.get("model_kwargs") or {})
