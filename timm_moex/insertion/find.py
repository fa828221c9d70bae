"""Where the MoEx of a model is, also of one that was wrapped, cut into pieces or turned into a feature extractor."""

from timm.utils import unwrap_model
from torch import nn

from ..utils.checks import check_model
from .moex import MoEx, SiteExchange

__all__ = ["find_moex", "holds_moex", "takes_swap_index"]


def _moex_at(module: nn.Module) -> list[MoEx]:
    """The MoEx that a module is or that hooks it; the hooks stay where a model is cut into its layers."""
    found = [module] if isinstance(module, MoEx) else []
    for hook in (*module._forward_hooks.values(), *module._forward_pre_hooks.values()):
        owner = getattr(hook, "__self__", None)
        if isinstance(owner, SiteExchange):
            found.append(owner.moex)
    return found


def _all_moex(model: nn.Module) -> dict[MoEx, str]:
    """Every MoEx inside a model, with the path where it was seen first."""
    found: dict[MoEx, str] = {}
    for path, module in model.named_modules():
        for moex in _moex_at(module):
            found.setdefault(moex, path or "the model itself")
    return found


def find_moex(model: nn.Module) -> MoEx | None:
    """The `MoEx` anywhere inside a model; None if there is none.

    It is found through DDP, torch.compile and timm's EMA wrapper, inside a module of your own, and in a model that was
    cut into its layers.

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
    """Whether there is any MoEx inside a model."""
    return bool(_all_moex(model))


def takes_swap_index(model: nn.Module, moex: MoEx) -> bool:
    """Whether a call of the model, DDP and torch.compile aside, takes `swap_index` for this MoEx."""
    hooks = unwrap_model(model)._forward_pre_hooks.values()
    return any(getattr(hook, "__self__", None) is moex for hook in hooks)
