"""Facts about a model that need no weights: its size, its tags, the shapes of the features at its sites."""

from dataclasses import dataclass
from typing import Any

import timm
import torch
from timm.models import get_arch_pretrained_cfgs
from torch import Tensor, nn

from ..insertion.locate import called_module
from ..insertion.sites import Site, known_sites
from ..utils.names import stock_name
from .registry import released_weights

__all__ = ["ModelFacts", "SiteFacts", "describe_model", "describe_sites"]


@dataclass(frozen=True)
class ModelFacts:
    """What an architecture is.

    Attributes:
        name: The architecture's.
        parameters: Their number, with the classifier of its default tag.
        input_size: Of its default tag, (channels, H, W).
        top1: By tag with weights: top-1 in percent as this package's manifest states it, None for other people's.
    """

    name: str
    parameters: int
    input_size: tuple[int, ...]
    top1: dict[str, float | None]


@dataclass(frozen=True)
class SiteFacts:
    """A site, and what is exchanged there.

    Attributes:
        site: Where it is.
        is_default: Whether an exchange is here if no layer is named.
        shapes: Of the features of one image, without the batch axis and with prefix tokens; several where the module
            takes or returns several tensors that are exchanged.
    """

    site: Site
    is_default: bool
    shapes: tuple[tuple[int, ...], ...]


def describe_model(arch: str) -> ModelFacts:
    """Describe an architecture without allocating its weights.

    Args:
        arch: A registered name without a tag.

    Example:
        >>> facts = describe_model("moex_resnet20_cifar")
        >>> facts.parameters, facts.top1["fmnist_sample"]
        (269722, 85.0)
    """
    cfgs = {name: cfg for name, cfg in get_arch_pretrained_cfgs(arch).items() if cfg.has_weights}
    released = released_weights()
    top1 = {
        name.partition(".")[2]: released[stock_name(name)].top1["value"] if stock_name(name) in released else None
        for name in cfgs
    }
    model = _without_values(arch)
    return ModelFacts(arch, sum(weight.numel() for weight in model.parameters()), _input_size(model), top1)


def describe_sites(name: str) -> list[SiteFacts]:
    """Describe a model's sites, in the order the data meets them, without allocating its weights.

    Args:
        name: A registered name.

    Raises:
        ValueError: The model cannot run on PyTorch's meta device, which has shapes without values.

    Example:
        >>> [(facts.site.name, facts.is_default, facts.shapes) for facts in describe_sites("resnet18")[:2]]
        [('stem', True, ((64, 56, 56),)), ('stage1', False, ((64, 56, 56),))]
    """
    model = _without_values(name)
    known, shapes = known_sites(model), dict[str, tuple[tuple[int, ...], ...]]()
    for site in known.by_name.values():
        _note_shape(called_module(model, site), site, shapes)
    try:
        with torch.no_grad():
            model(torch.empty(1, *_input_size(model), device="meta"))
    except (RuntimeError, NotImplementedError) as error:
        raise ValueError(f"{name} cannot run on PyTorch's meta device, so its shapes are unknown: {error}") from error
    default = known.resolve_alias(known.default_layer) if known.default_layer else None
    return [SiteFacts(site, site.name == default, shapes[site.name]) for site in known.by_name.values()]


def _without_values(name: str) -> Any:
    with torch.device("meta"), torch.random.fork_rng(devices=[]):
        return timm.create_model(name).eval()


def _input_size(model: Any) -> tuple[int, ...]:
    return tuple(model.pretrained_cfg.get("input_size", (3, 224, 224)))


def _note_shape(module: nn.Module, site: Site, shapes: dict[str, tuple[tuple[int, ...], ...]]) -> None:
    """Write the shapes of the site's features into `shapes` when the module is called."""

    def note(value: Any) -> None:
        tensors = [value] if isinstance(value, Tensor) else value[site.tuple_entries or slice(None)]
        shapes.setdefault(site.name, tuple(tuple(tensor.shape[1:]) for tensor in tensors))

    if site.hook_on == "input":
        module.register_forward_pre_hook(lambda module, args: note(args[0]))
    else:
        module.register_forward_hook(lambda module, args, output: note(output))
