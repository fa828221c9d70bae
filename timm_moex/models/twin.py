"""A twin `moex_<arch>` for every registered architecture: the backbone with MoEx inserted.

The module is named `twin` because timm groups models by module name and already has a module `twins`.
"""

import sys
from collections import deque
from collections.abc import Callable, Mapping
from copy import copy
from typing import Any

import torch
from timm.layers import is_scriptable
from timm.models import (
    DefaultCfg,
    PretrainedCfg,
    get_arch_pretrained_cfgs,
    get_pretrained_cfg,
    is_model,
    list_models,
    model_entrypoint,
    register_model,
    resolve_pretrained_cfg,
)
from torch import nn

from ..insertion.insert import insert_into_features, insert_moex
from ..insertion.presets import RENAMED, SETTING_NAMES
from ..utils.messages import did_you_mean
from ..utils.names import TWIN_PREFIX, is_twin_name, twin_name
from .registry import add_released_tags, resolve_verified_cfg

__all__ = ["SETTINGS", "register_twin", "register_twins", "take_settings"]

SETTINGS = [twin_name(name) for name in ("preset", "layer", *SETTING_NAMES)]  # keywords of create_model

default_cfgs: dict[str, DefaultCfg] = {}  # where timm's register_model looks for the pretrained tags


def take_settings(kwargs: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split the keywords of `timm.create_model` into the settings of `insert_moex` and all others.

    Raises:
        TypeError: A keyword begins with moex_ but is not in `SETTINGS`.

    Example:
        >>> take_settings({"moex_prob": 0.5, "num_classes": 10})
        ({'prob': 0.5}, {'num_classes': 10})
    """
    settings = {key.removeprefix(TWIN_PREFIX): kwargs[key] for key in kwargs if key.startswith(TWIN_PREFIX)}
    for name in settings:
        if twin_name(name) not in SETTINGS and name not in RENAMED:
            hint = did_you_mean(twin_name(name), SETTINGS, 0.4)
            raise TypeError(f"unknown keyword {twin_name(name)!r}: expected one of {', '.join(SETTINGS)}{hint}")
    return settings, {key: value for key, value in kwargs.items() if not key.startswith(TWIN_PREFIX)}


def _make_entrypoint(arch: str) -> Callable[..., nn.Module]:
    name = twin_name(arch)

    def entrypoint(pretrained: bool = False, pretrained_cfg: Any = None, **kwargs) -> nn.Module:
        settings, kwargs = take_settings(kwargs)
        if is_scriptable() and settings:
            asked = ", ".join(f"{TWIN_PREFIX}{key}" for key in settings)
            raise ValueError(f"{name}: scriptable=True builds the plain backbone without MoEx; remove {asked}")
        # The twin's own cfg, so that the backbone's entrypoint does not look up another
        cfg: Any = None
        if pretrained_cfg or get_pretrained_cfg(name):
            cfg = resolve_pretrained_cfg(name, pretrained_cfg)
        if pretrained and cfg:
            cfg = resolve_verified_cfg(name, cfg, kwargs.get("cache_dir"))
            _check_channels(name, cfg, kwargs.get("in_chans"))
        model = model_entrypoint(arch)(pretrained=pretrained, pretrained_cfg=cfg, **kwargs)
        if is_scriptable():
            return model
        if kwargs.get("features_only"):
            return insert_into_features(model, _backbone_of_features(arch, cfg, kwargs), **settings)
        twin: Any = insert_moex(model, **settings)
        # save_for_hf and push_to_hf_hub write both into config.json, which must load without this package
        twin.pretrained_cfg = {**twin.pretrained_cfg, "architecture": arch}
        twin.register_state_dict_pre_hook(_forget_settings)
        return twin

    entrypoint.__name__ = entrypoint.__qualname__ = name
    entrypoint.__doc__ = f"`{arch}` with a MoEx insertion point; see `timm_moex.insert_moex` for the moex_ settings."
    return entrypoint


def _check_channels(name: str, cfg: PretrainedCfg, in_chans: int | None) -> None:
    """Reject channel counts that timm cannot convert: it can convert 3 to any number, and any number to 1."""
    own, full = cfg.input_size[0], f"{name}.{cfg.tag or ''}".rstrip(".")
    if in_chans not in (None, 1, own) and own != 3:
        raise ValueError(
            f"in_chans={in_chans}: the weights of {full} are for {own}-channel images, and timm cannot "
            f"convert them; pass in_chans={own} (timm's train.py, which passes 3 by default: --in-chans {own})"
        )


def _forget_settings(model: nn.Module, prefix: str, keep_vars: bool) -> None:
    """Remove MoEx's settings from the arguments that timm keeps for config.json.

    timm stores them after the entrypoint returns. `save_for_hf` calls `state_dict`, so this hook, before it reads them.
    """
    kept: Any = getattr(model, "_model_args", {})
    if any(map(is_twin_name, kept)):
        model._model_args = {key: kept[key] for key in kept if not is_twin_name(key)}  # type: ignore[assignment]


def _backbone_of_features(arch: str, cfg: Any, kwargs: dict[str, Any]) -> nn.Module:
    """Build the backbone of `features_only=True` on the meta device, to look up its sites."""
    of_features = ("features_only", "out_indices", "feature_cls", "feature_cfg")
    others = {key: value for key, value in kwargs.items() if key not in of_features}
    with torch.device("meta"), torch.random.fork_rng(devices=[]):
        return model_entrypoint(arch)(pretrained=False, pretrained_cfg=cfg, **others)


def register_twin(arch: str) -> str:
    """Register `moex_<arch>` with every pretrained tag of `arch`; the weights stay at their sources.

    Args:
        arch: Name of a registered timm architecture without a tag, for example your own.

    Returns:
        The twin's name.

    Raises:
        ValueError: `arch` is not registered, or is already a twin.

    Example:
        >>> is_model("moex_resnet18")  # the import of timm_moex has registered the twins of timm's own architectures
        True
        >>> register_twin("my_own_network")  # call it after your own @register_model
        Traceback (most recent call last):
        ...
        ValueError: arch='my_own_network' is not a registered timm architecture
    """
    if is_twin_name(arch):
        raise ValueError(f"arch={arch!r} is already a twin")
    if not is_model(arch) or "." in arch:
        raise ValueError(f"arch={arch!r} is not a registered timm architecture{did_you_mean(arch, list_models())}")
    _register(arch)
    return twin_name(arch)


def _default_cfg(arch: str) -> DefaultCfg:
    """Return the pretrained cfgs of `arch` by tag, default first, each with its full Hub repo.

    They come from timm's model modules, because `get_arch_pretrained_cfgs` would deep-copy all 1,800 at every import.
    """
    theirs = getattr(sys.modules[model_entrypoint(arch).__module__], "default_cfgs", {}).get(arch)
    if not isinstance(theirs, DefaultCfg):
        cfgs = {full.partition(".")[2]: cfg for full, cfg in get_arch_pretrained_cfgs(arch).items()}
        return DefaultCfg(tags=deque(cfgs), cfgs=cfgs)
    ours = DefaultCfg(tags=theirs.tags, cfgs=dict(theirs.cfgs))
    for tag, cfg in theirs.cfgs.items():
        if cfg.hf_hub_id == "timm/":  # timm's shorthand for its repo with the model's name; a twin has a different name
            ours.cfgs[tag] = copy(cfg)
            ours.cfgs[tag].hf_hub_id = f"timm/{arch}.{tag}" if tag else f"timm/{arch}"
    return ours


def _register(arch: str) -> None:
    name = twin_name(arch)
    default_cfg = _default_cfg(arch)
    add_released_tags({arch: default_cfg})
    if default_cfg.tags:
        default_cfg.is_pretrained = any(cfg.has_weights for cfg in default_cfg.cfgs.values())
        default_cfgs[name] = default_cfg
    entrypoint = _make_entrypoint(arch)
    setattr(sys.modules[__name__], name, entrypoint)
    register_model(entrypoint)


def register_twins() -> None:
    """Register a twin for every registered architecture that does not have one yet."""
    for arch in list_models():
        if not is_twin_name(arch) and not is_model(twin_name(arch)):
            _register(arch)
