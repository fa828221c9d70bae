"""Where the MoEx of a model is, also of one that was wrapped, cut into pieces or turned into a feature extractor."""

from torch import nn

from ..utils.checks import check_model
from .moex import MoEx
from .site_exchange import SiteExchange

__all__ = ["find_moex", "hooks_of", "holds_moex"]


def hooks_of(module: nn.Module) -> list[tuple[dict, int, SiteExchange]]:
    """Return the hooks of exchanges on a module: the dictionary and key of each, and the exchange."""
    hooks = []
    for registered in (module._forward_hooks, module._forward_pre_hooks):
        for key, hook in registered.items():
            owner = getattr(hook, "__self__", None)
            if isinstance(owner, SiteExchange):
                hooks.append((registered, key, owner))
    return hooks


def _moex_at(module: nn.Module) -> list[MoEx]:
    """Return the MoEx that a module holds or whose hooks it has; these stay when a model is cut into its layers."""
    own = module.__dict__.get("moex")
    return [own] if isinstance(own, MoEx) else [exchange.moex for _, _, exchange in hooks_of(module)]


def _all_moex(model: nn.Module) -> dict[MoEx, str]:
    """Return every MoEx inside a model, with the path where it was seen first."""
    found: dict[MoEx, str] = {}
    for path, module in model.named_modules():
        for moex in _moex_at(module):
            found.setdefault(moex, path or "the model itself")
    return found


def find_moex(model: nn.Module) -> MoEx | None:
    """Find the `MoEx` anywhere inside a model; None if there is none.

    It is found through DDP, torch.compile and timm's EMA wrapper, inside a module of your own, and in a model that was
    cut into its layers. Printed, it shows its settings, its sites and the share of training forwards that exchanged.

    Args:
        model: Any module.

    Raises:
        ValueError: The model has several; the message says where.

    Example:
        >>> import timm, torch, timm_moex
        >>> net = torch.nn.Sequential(timm.create_model("moex_resnet18", moex_lam=0.5), torch.nn.ReLU())
        >>> timm_moex.find_moex(net).lam
        0.5
    """
    check_model(model)
    found = _all_moex(model)
    if len(found) > 1:
        raise ValueError(
            f"{type(model).__name__} has {len(found)} MoEx, at {', '.join(found.values())}; name the model that holds "
            "the right one"
        )
    return next(iter(found), None)


def holds_moex(model: nn.Module) -> bool:
    """Return whether there is any MoEx inside a model."""
    return bool(_all_moex(model))
