"""Folders in the Hub's layout, which plain timm loads: `timm.create_model("local-dir:FOLDER", pretrained=True)`.

A folder carries the stock architecture's name and no MoEx setting: MoEx adds no weights, so whoever evaluates or
fine-tunes needs timm alone. To go on training with MoEx, `load_twin` puts it back in.
"""

import copy
import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
import yaml
from timm.models import save_for_hf
from timm.utils import unwrap_model
from torch import nn

from .insertion import insert_moex

__all__ = ["load_twin", "save_folder"]

_TWIN = "moex_"
_DATA_KEYS = ("input_size", "mean", "std", "interpolation", "crop_pct", "crop_mode")
# What a pretrained_cfg says of the weights it came with
_OTHERS = (
    "url", "file", "state_dict", "hf_hub_id", "hf_hub_filename", "source", "tag", "custom_load", "pool_size",
    "test_input_size", "test_crop_pct", "label_names", "label_descriptions", "label_offset",
)  # fmt: skip


def save_folder(
    model: nn.Module,
    folder: str | Path,
    data_config: Mapping[str, Any],
    *,
    label_names: Sequence[str] = (),
    model_args: Mapping[str, Any] | None = None,
    summary: str | Path | None = None,
    card: Mapping[str, Any] | None = None,
) -> Path:
    """Write model.safetensors, config.json, README.md and, if given, summary.csv.

    The folder appears whole, or the old one stays.

    Args:
        model: As `timm.create_model` made it, twin or not; DDP, compiled and EMA wrappers are taken off.
        folder: Is created, or replaced if it holds a config.json already.
        data_config: The preprocessing, as from `timm.data.resolve_data_config`: input_size, mean, std, …
        label_names: Class names in the order of the labels.
        model_args: Arguments of `create_model` that change the architecture; those of MoEx are left out.
        summary: The training run's summary.csv, to be copied.
        card: For README.md: `dataset`, `results`, `license` (texts), `recipe` (mapping).

    Returns:
        `folder`.

    Raises:
        ValueError: The labels or the input's channels do not fit the model.
        FileExistsError: `folder` is something else than such a folder.
    """
    model, folder = unwrap_model(model), Path(folder)
    if label_names and len(label_names) != model.num_classes:
        raise ValueError(f"label_names: {len(label_names)} names for a model with num_classes={model.num_classes}")
    if folder.exists() and not (folder / "config.json").is_file():
        raise FileExistsError(f"{folder} exists and has no config.json; not replaced")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as temporary:
        new, old = Path(temporary) / "new", Path(temporary) / "old"
        # safetensors takes contiguous tensors only, and a model trained in channels_last has others.
        plain = copy.deepcopy(model).cpu().to(memory_format=torch.contiguous_format)
        plain.pretrained_cfg = _pretrained_cfg(model, data_config)
        save_for_hf(plain, str(new), model_config={"label_names": list(label_names)}, safe_serialization=True)
        config = json.loads((new / "config.json").read_text())
        config["model_args"] = _model_args({**config.get("model_args", {}), **(model_args or {})})
        (new / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        (new / "README.md").write_text(_readme(config, card or {}))
        if summary is not None:
            shutil.copyfile(summary, new / "summary.csv")
        if folder.exists():
            folder.rename(old)
        new.rename(folder)
    return folder


def _pretrained_cfg(model: nn.Module, data_config: Mapping[str, Any]) -> dict[str, Any]:
    """The model's own, under the stock name, with this training's preprocessing and no other weights' origin."""
    cfg = {k: v for k, v in model.pretrained_cfg.items() if v is not None and k not in _OTHERS}
    cfg["architecture"] = cfg["architecture"].removeprefix(_TWIN)
    cfg.update({key: data_config[key] for key in _DATA_KEYS if key in data_config})
    return cfg | {"num_classes": model.num_classes}


def _model_args(arguments: dict[str, Any]) -> dict[str, Any]:
    """What the model must be built with again. Newer timm records all arguments, MoEx's and the training's too."""
    redundant = ("num_classes", "in_chans", "drop_rate", "drop_path_rate", "drop_block_rate")
    return {k: v for k, v in arguments.items() if not k.startswith(_TWIN) and k not in redundant}


def _readme(config: Mapping[str, Any], card: Mapping[str, Any]) -> str:
    """The model card."""
    name, cfg = config["architecture"], config["pretrained_cfg"]
    head = {"library_name": "timm", "tags": ["image-classification", "timm", "moex"], "license": card.get("license")}
    facts = {
        "Architecture": f"`{name}`",
        "Data": card.get("dataset"),
        "Result": card.get("results"),
        "Input": f"{' x '.join(map(str, cfg['input_size']))}, mean {cfg['mean']}, std {cfg['std']}",
        "Classes": ", ".join(map(str, config.get("label_names", ()))) or config["num_classes"],
    }
    lines = [f"- {key}: {value}" for key, value in facts.items() if value]
    recipe = yaml.safe_dump(dict(card["recipe"]), sort_keys=False) if card.get("recipe") else ""
    front = yaml.safe_dump({k: v for k, v in head.items() if v}, sort_keys=False)
    return f"""---
{front}---
# {name}

Trained with [Moment Exchange](https://arxiv.org/abs/2002.11102) by timm_moex. MoEx adds no weights: timm loads it.

{chr(10).join(lines)}

```python
import timm

model = timm.create_model("local-dir:path/to/this/folder", pretrained=True)
```
""" + (f"\n## Recipe\n\n```yaml\n{recipe}```\n" if recipe else "")


def load_twin(source: str | Path, **settings: Any) -> nn.Module:
    """Load saved weights and put MoEx in: what `create_model("moex_…")` gives for an architecture's own tags.

    Args:
        source: A folder written by `save_folder`, or "hf-hub:owner/name".
        **settings: As for `insert_moex`: layer, norm, prob, lam, …

    Returns:
        The pretrained model, holding MoEx.

    Raises:
        FileNotFoundError: No such folder.
    """
    name = str(source) if str(source).startswith("hf-hub:") else f"local-dir:{source}"
    return insert_moex(timm.create_model(name, pretrained=True), **settings)
