"""Register the package's checkpoints as pretrained tags in timm, and check their sha256 before use."""

import json
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from huggingface_hub.constants import CONFIG_NAME
from timm.models import DefaultCfg, PretrainedCfg, resolve_pretrained_cfg

from ..hub.download import WEIGHTS, HubError, download_weights, translate_errors
from ..hub.manifest import ReleasedWeights, released_weights, weights_dir
from ..utils.files import sha256_of
from ..utils.names import stock_name

__all__ = ["add_released_tags", "released_weights", "resolve_verified_cfg"]


def add_released_tags(default_cfgs: Mapping[str, DefaultCfg]) -> None:
    """Add the tags of this package's checkpoints to a model module's `default_cfgs`, before its models are registered.

    The architecture's default tag does not change: these tags must be requested by name.
    """
    for entry in released_weights().values():
        default_cfg = default_cfgs.get(entry.architecture)
        if default_cfg is not None and entry.tag not in default_cfg.cfgs:
            default_cfg.tags.append(entry.tag)
            default_cfg.cfgs[entry.tag] = _cfg_of(entry)
            default_cfg.is_pretrained |= bool(default_cfg.cfgs[entry.tag].has_weights)


def _cfg_of(entry: ReleasedWeights) -> PretrainedCfg:
    folder = weights_dir() / entry.name
    config = json.loads((folder / CONFIG_NAME).read_text(encoding="utf-8"))
    known = {field.name for field in fields(PretrainedCfg)}  # a different timm version may have written more
    cfg = {key: value for key, value in config["pretrained_cfg"].items() if key in known}
    cfg |= {"architecture": entry.architecture, "tag": entry.tag, "license": entry.license}
    cfg["label_names"] = tuple(config.get("label_names") or ()) or None
    if (folder / WEIGHTS).is_file():
        cfg["file"] = str(folder / WEIGHTS)
    elif entry.hub_id:
        cfg["hf_hub_id"] = f"{entry.hub_id}@{entry.revision}"
    return PretrainedCfg(**cfg)


def resolve_verified_cfg(variant: str, pretrained_cfg: Any = None, cache_dir: str | None = None) -> PretrainedCfg:
    """Resolve a cfg; download this package's weights if necessary, and check their sha256 against the manifest.

    `variant` is an architecture or its twin, `pretrained_cfg` the argument of its entrypoint.

    Raises:
        HubError: The sha256 differs, the download failed, or neither this installation nor the Hub has the weights.
    """
    cfg = resolve_pretrained_cfg(variant, pretrained_cfg)
    entry = released_weights().get(f"{stock_name(variant)}.{cfg.tag}")
    if entry is None or cfg.source:  # local-dir and hf-hub bypass the registry; "file" was verified for the twin
        return cfg
    expected = entry.files[WEIGHTS]["sha256"]
    if entry.hub_id and cfg.hf_hub_id == f"{entry.hub_id}@{entry.revision}" and not cfg.file:
        with translate_errors(f"hf-hub:{cfg.hf_hub_id}"):
            path = download_weights(entry.hub_id, entry.revision, expected, cache_dir)
        return replace(cfg, file=str(path), source="file")
    if not cfg.has_weights and cfg.state_dict is None:
        if not entry.is_too_large_for_the_wheel:
            raise HubError(f"{weights_dir() / entry.name} has no {WEIGHTS}; reinstall the package")
        raise HubError(
            f"{entry.name}: the weights are too large for the wheel and not on the Hub yet. In a clone or the "
            f"sdist, use timm.create_model('local-dir:weights/{entry.name}', pretrained=True)"
        )
    ours = weights_dir() / entry.name / WEIGHTS
    if cfg.file != str(ours):
        return cfg
    if (found := sha256_of(ours)) != expected:
        raise HubError(f"{ours} has sha256 {found}, but the manifest has {expected}; reinstall the package")
    return replace(cfg, source="file")
