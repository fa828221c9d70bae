"""Model cards: what a reader of the Hub page needs, and the front matter that the Hub itself reads."""

from collections.abc import Mapping
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCardData
from timm.data import resolve_data_config
from timm.models import is_model, model_entrypoint

from ..utils.spelling import nearest

__all__ = ["FACTS", "LOCAL_SOURCE", "model_card", "read_front_matter"]

# What stands in the code of a card for the model's name, until it is published
LOCAL_SOURCE = "local-dir:path/to/this/folder"

FACTS = {
    "dataset": "the training data, as timm names it",
    "split": "the part that was evaluated",
    "results": "in words",
    "top1": "percent on `split`: value of these weights, and where there are several seeds their mean and std",
    "seeds": "those behind mean and std, that of these weights first",
    "baseline": "mean and std of the same recipe and seeds without MoEx",
    "command": "of the training",
    "recipe": "settings of the run; those that are paths on this machine are left out",
    "commit": "of this project's repository",
    "device": "what it ran on",
    "date": "of the training",
    "license": "SPDX identifier",
    "base_model": "Hub id of the model whose weights the training started from",
    "origin": "a sentence on where the weights come from, if not from a training with timm_moex",
    "limits": "a sentence, or several in a list",
}

_OF_THE_MACHINE = ("data_dir", "output", "experiment", "resume", "pretrained_path", "initial_checkpoint")

# By timm's name, without the source
_HUB_DATASETS = {
    "fashion_mnist": ("zalando-datasets/fashion_mnist", "Fashion-MNIST"),
    "cifar10": ("uoft-cs/cifar10", "CIFAR-10"),
    "cifar100": ("uoft-cs/cifar100", "CIFAR-100"),
    "imagenet-1k": ("ILSVRC/imagenet-1k", "ImageNet-1k"),
}
_LIMITS = (
    "MoEx acts in training alone; what is here is a plain network of its architecture, and no more robust to what its "
    "training data lacks than the numbers above say.",
    "MoEx does not help everywhere: independent evaluations of its authors' ResNet-50 found an ImageNet-R error of "
    "64.5 % against 63.9 % without, and 72.9 mIoU against 75.6 in segmentation on VOC.",
)


def model_card(config: Mapping[str, Any], facts: Mapping[str, Any], source: str = LOCAL_SOURCE) -> str:
    """README.md of a folder.

    Args:
        config: Its config.json.
        facts: Values for keys of `FACTS`; all may be missing, and what is not known is not said.
        source: timm's name of the model in the code, such as "hf-hub:ORG/NAME".

    Raises:
        ValueError: A key of `facts` is not in `FACTS`.
    """
    for key in facts:
        if key not in FACTS:
            raise ValueError(f"card: unknown key {key!r}; it takes {', '.join(FACTS)}{nearest(key, FACTS)}")
    facts = {key: value for key, value in facts.items() if value}
    parts = [_front_matter(config, facts), _summary(config, facts), _usage(config["architecture"], source)]
    if "recipe" in facts:
        recipe = {key: value for key, value in facts["recipe"].items() if key not in _OF_THE_MACHINE}
        parts.append(f"## Recipe\n\n```yaml\n{yaml.safe_dump(recipe, sort_keys=False)}```")
    given = facts.get("limits", [])
    limits = [*([given] if isinstance(given, str) else given), *_LIMITS]
    parts.append("## Limits\n\n" + "\n".join(f"- {sentence}" for sentence in limits))
    return "\n\n".join(parts) + "\n"


def _front_matter(config: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    dataset, title = _hub_dataset(facts)
    results = None
    if "top1" in facts:
        measured = dict(metric_type="accuracy", metric_name="Top-1 accuracy (%)", metric_value=facts["top1"]["value"])
        where = dict(dataset_type=dataset or title, dataset_name=title, dataset_split=facts.get("split"))
        results = [EvalResult(task_type="image-classification", **where, **measured)]
    data = ModelCardData(
        license=facts.get("license"),
        library_name="timm",
        pipeline_tag="image-classification",
        tags=["image-classification", "timm", "moex"],
        datasets=[dataset] if dataset else None,
        metrics=["accuracy"],
        base_model=facts.get("base_model"),
        model_name=config["architecture"] if results else None,
        eval_results=results,
    )
    return f"---\n{data.to_yaml().strip()}\n---"


def _hub_dataset(facts: Mapping[str, Any]) -> tuple[str | None, str]:
    name = facts.get("dataset", "")
    return _HUB_DATASETS.get(name.rpartition("/")[2].lower(), (None, name or "not said"))


def _summary(config: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    cfg = resolve_data_config({}, pretrained_cfg=dict(config["pretrained_cfg"]))
    names = config.get("label_names") or ()
    size = " x ".join(map(str, cfg["input_size"]))
    rows = {
        "Architecture": f"`{config['architecture']}`",
        "Data": " ".join(filter(None, [_hub_dataset(facts)[1] if "dataset" in facts else "", _split(facts)])),
        "Result": facts.get("results"),
        "Input": f"{size}, mean {tuple(cfg['mean'])}, std {tuple(cfg['std'])}",
        "Classes": ", ".join(map(str, names)) if 0 < len(names) <= 20 else config["num_classes"],
        "Seeds": ", ".join(map(str, facts.get("seeds", ()))),
        "Trained": ", ".join(filter(None, [facts.get("date"), facts.get("device")])),
        "Command": f"`{facts['command']}`" if "command" in facts else None,
        "Code": f"commit {facts['commit']}" if "commit" in facts else None,
    }
    lines = "\n".join(f"- {key}: {value}" for key, value in rows.items() if value)
    trained = "Trained with [Moment Exchange](https://arxiv.org/abs/2002.11102) by timm_moex."
    intro = f"{facts.get('origin', trained)} MoEx adds no weights: timm loads it."
    return f"# {config['architecture']}\n\n{intro}\n\n{lines}{_comparison(facts)}"


def _split(facts: Mapping[str, Any]) -> str:
    return f"(evaluated on {facts['split']})" if "split" in facts else ""


def _comparison(facts: Mapping[str, Any]) -> str:
    top1, baseline, seeds = facts.get("top1"), facts.get("baseline"), facts.get("seeds", ())
    if not top1:
        return ""
    several = len(seeds) > 1
    head = f"top-1, mean ± standard deviation of {len(seeds)} seeds" if several else "top-1, one seed"
    rows = {"these weights" if "origin" in facts else "with MoEx": _figure(top1, several)}
    if "origin" not in facts:
        unknown = "not run: the figure above does not say what MoEx brings"
        rows["same recipe without MoEx"] = _figure(baseline, several) if baseline else unknown
    table = "".join(f"\n| {name} | {figure} |" for name, figure in rows.items())
    those = f"\n\nThese weights: top-1 {top1['value']:.2f}, the last epoch of seed {seeds[0]}." if several else ""
    return f"\n\n| {facts.get('split', 'evaluation')} | {head} |\n|---|---|{table}{those}"


def _figure(top1: Mapping[str, float], several: bool) -> str:
    return f"{top1['mean']:.2f} ± {top1['std']:.2f}" if several else f"{top1.get('value', top1.get('mean')):.2f}"


def _usage(architecture: str, source: str) -> str:
    ours = is_model(architecture) and model_entrypoint(architecture).__module__.startswith("timm_moex")
    extra = "\nimport timm_moex  # registers the architecture, which timm lacks" if ours else ""
    return f"""## Use

```python
import timm{extra}

model = timm.create_model("{source}", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
```

To go on training with MoEx:

```python
from timm_moex.hub import load_twin

model = load_twin("{source}", prob=0.5)
```"""


def read_front_matter(card: str) -> dict[str, Any]:
    """The mapping between the leading `---` lines.

    Raises:
        ValueError: There is none.
    """
    _, found, rest = card.partition("---\n")
    matter, end, _ = rest.partition("\n---")
    try:
        data = yaml.safe_load(matter) if found and end and card.startswith("---\n") else None
    except yaml.YAMLError as error:
        raise ValueError(f"front matter is no YAML: {error}") from error
    if not isinstance(data, dict):
        raise ValueError("no front matter (--- … ---) at the top")
    return data
