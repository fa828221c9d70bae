"""Find the MoEx of a model, even if it was wrapped, cut into pieces or turned into a feature extractor."""

from torch import nn

from ..utils.checks import check_model
from .moex import MoExInsertion
from .site_exchange import SiteExchange

__all__ = ["all_moex", "find_moex", "hooks_of", "require_moex"]


def hooks_of(module: nn.Module) -> list[tuple[dict, int, SiteExchange]]:
    """Return a module's exchange hooks, each as (hook dictionary, key, exchange)."""
    return [
        (registered, key, owner)
        for registered in (module._forward_hooks, module._forward_pre_hooks)
        for key, hook in registered.items()
        if isinstance(owner := getattr(hook, "__self__", None), SiteExchange)
    ]


def all_moex(model: nn.Module) -> dict[MoExInsertion, str]:
    """Return every MoEx inside a model, with the first path where it was found."""
    found: dict[MoExInsertion, str] = {}
    for path, module in model.named_modules():
        own = module.__dict__.get("moex")
        hooked = [exchange.moex for _, _, exchange in hooks_of(module)]  # hooks survive if a model is cut into layers
        for moex in [own] if isinstance(own, MoExInsertion) else hooked:
            found.setdefault(moex, path or "the model itself")
    return found


def find_moex(model: nn.Module) -> MoExInsertion | None:
    """Return the `MoExInsertion` inside a model, or None.

    This looks inside DDP, torch.compile, timm's EMA wrapper and your own modules, and works for a model that was cut
    into its layers. Print the result to see its settings, its sites and how many training forwards exchanged.

    Args:
        model: Any module.

    Raises:
        ValueError: The model has several; the message lists their paths.

    Example:
        >>> import timm, torch, timm_moex
        >>> net = torch.nn.Sequential(timm.create_model("moex_resnet18", moex_lam=0.5), torch.nn.ReLU())
        >>> timm_moex.find_moex(net).lam
        0.5
    """
    check_model(model)
    found = all_moex(model)
    if len(found) > 1:
        raise ValueError(
            f"{type(model).__name__} contains {len(found)} MoEx insertions, at {', '.join(found.values())}; pass "
            "the submodule with the one you want"
        )
    return next(iter(found), None)


def require_moex(model: nn.Module) -> MoExInsertion:
    """Return the `MoExInsertion` inside a model, or raise ValueError."""
    moex = find_moex(model)
    if moex is None:
        raise ValueError(f"model {type(model).__name__} has no MoEx; use a moex_ twin or insert_moex(model)")
    return moex
