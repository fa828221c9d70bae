"""Describe a model without its weights: its size, its tags, and the feature shapes at its sites."""

from typing import Any, NamedTuple

import timm
import torch
from timm.models import get_arch_pretrained_cfgs
from torch import Tensor, nn

from ..insertion.locate import called_module
from ..insertion.sites import Site, known_sites
from ..utils.names import stock_name
from .registry import released_weights

__all__ = ["ModelFacts", "SiteFacts", "describe_model", "describe_sites"]


class ModelFacts(NamedTuple):
    """An architecture, with the number of parameters and the input size (channels, H, W) of its default tag.

    `top1` has an entry for each tag with weights: top-1 in percent from this package's manifest, or None.
    """

    name: str
    parameters: int
    input_size: tuple[int, ...]
    top1: dict[str, float | None]


class SiteFacts(NamedTuple):
    """A site, whether it is the default, and the feature shapes for one image.

    The shapes exclude the batch axis and include prefix tokens. There is one shape for each exchanged tensor.
    """

    site: Site
    is_default: bool
    shapes: tuple[tuple[int, ...], ...]


def describe_model(arch: str) -> ModelFacts:
    """Describe an architecture without allocating its weights.

    Example:
        >>> facts = describe_model("moex_resnet20_cifar")
        >>> facts.parameters, facts.top1["fmnist_sample"]
        (269722, 85.0)
    """
    released = {name: entry.top1["value"] for name, entry in released_weights().items()}
    cfgs = get_arch_pretrained_cfgs(arch).items()
    top1 = {name.partition(".")[2]: released.get(stock_name(name)) for name, cfg in cfgs if cfg.has_weights}
    model = _without_values(arch)
    return ModelFacts(arch, sum(weight.numel() for weight in model.parameters()), _input_size(model), top1)


def describe_sites(name: str) -> list[SiteFacts]:
    """Describe a model's sites in forward order, without allocating its weights.

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
        raise ValueError(f"{name} does not run on PyTorch's meta device, so its shapes are unknown: {error}") from error
    default = known.resolve_alias(known.default_layer) if known.default_layer else None
    return [SiteFacts(site, site.name == default, shapes[site.name]) for site in known.by_name.values()]


def _without_values(name: str) -> Any:
    with torch.device("meta"), torch.random.fork_rng(devices=[]):
        return timm.create_model(name).eval()


def _input_size(model: Any) -> tuple[int, ...]:
    return tuple(model.pretrained_cfg.get("input_size", (3, 224, 224)))


def _note_shape(module: nn.Module, site: Site, shapes: dict[str, tuple[tuple[int, ...], ...]]) -> None:
    """Record the shapes of the site's features in `shapes` when the module is called."""

    def note(value: Any) -> None:
        tensors = [value] if isinstance(value, Tensor) else value[site.tuple_entries or slice(None)]
        shapes.setdefault(site.name, tuple(tuple(tensor.shape[1:]) for tensor in tensors))

    if site.hook_on == "input":
        module.register_forward_pre_hook(lambda module, args: note(args[0]))
    else:
        module.register_forward_hook(lambda module, args, output: note(output))
