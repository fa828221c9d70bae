"""Model cards: the text of a Hub page, and the front matter that the Hub parses."""

from collections.abc import Mapping
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData, constants
from huggingface_hub.errors import OfflineModeIsEnabled
from huggingface_hub.utils import get_session, hf_raise_for_status
from timm.data import resolve_data_config
from timm.models import is_model, model_entrypoint

from ..insertion.presets import Preset, find_preset
from ..utils.messages import one_line
from ..utils.names import is_twin_name, stock_name
from ..utils.reraise import reraise_as
from .download import HubError, Unreachable, translate_errors
from .manifest import Provenance

__all__ = ["LOCAL_SOURCE", "check_front_matter", "is_ours", "model_card", "parse_card", "recipe_text"]

# Name of the model in a card's example code until it is published
LOCAL_SOURCE = "local-dir:path/to/this/folder"

_OF_THE_MACHINE = ("data_dir", "output", "experiment", "resume", "pretrained_path", "initial_checkpoint")

# Keys are timm's dataset names, without the prefix before the slash
_HUB_DATASETS = {
    "fashion_mnist": ("zalando-datasets/fashion_mnist", "Fashion-MNIST"),
    "cifar10": ("uoft-cs/cifar10", "CIFAR-10"),
    "cifar100": ("uoft-cs/cifar100", "CIFAR-100"),
    "imagenet-1k": ("ILSVRC/imagenet-1k", "ImageNet-1k"),
}
_PLAIN = "On images unlike the training data, accuracy may be much lower."
_ONLY_IN_TRAINING = "{} is active only during training. At inference this is a plain network."
_MAY_NOT_HELP = "{} does not always help; benchmarks/README.md of timm_moex lists runs in which it did not."


def model_card(
    config: Mapping[str, Any], facts: Provenance | Mapping[str, Any], source: str = LOCAL_SOURCE
) -> ModelCard:
    """Write the model card of a folder with this config.json, its README.md.

    `source` is the name that the example code passes to `timm.create_model`, such as "hf-hub:ORG/NAME".

    Raises:
        ValueError: `facts` has an unknown key, or its recipe has an unknown preset.
    """
    facts = Provenance.of(facts)
    preset = find_preset(_settings(facts).get("moex_preset") or "moex")
    parts = [_summary(config, facts, preset), _usage(config["architecture"], source, facts, preset)]
    if facts.recipe:
        parts.append(f"## Recipe\n\n```yaml\n{recipe_text(facts.recipe)}```")
    given = [facts.limits] if isinstance(facts.limits, str) else facts.limits or []
    limits = [*given, _PLAIN]
    if _was_exchanged(facts):
        limits = [*given, f"{_ONLY_IN_TRAINING} {_PLAIN}".format(preset.title), _MAY_NOT_HELP.format(preset.title)]
    parts.append("## Limits\n\n" + "\n".join(f"- {sentence}" for sentence in limits))
    matter = _card_data(config, facts).to_yaml().strip()
    return ModelCard(f"---\n{matter}\n---\n\n" + "\n\n".join(parts) + "\n")


def recipe_text(recipe: Mapping[str, Any]) -> str:
    """Write a recipe as YAML, without local paths."""
    portable = {key: value for key, value in recipe.items() if key not in _OF_THE_MACHINE}
    return yaml.safe_dump(portable, sort_keys=False)


def _card_data(config: Mapping[str, Any], facts: Provenance) -> ModelCardData:
    dataset, title = _hub_dataset(facts.dataset)
    architecture = config["architecture"]
    results = []
    if facts.top1:
        results.append(
            EvalResult(
                task_type="image-classification",
                dataset_type=dataset or title,
                dataset_name=title,
                dataset_split=facts.split,
                metric_type="accuracy",
                metric_name="Top-1 accuracy (%)",
                metric_value=facts.top1["value"],
            )
        )
    # transformers loads timm's own architectures through its TimmWrapper
    tags = ["image-classification", "timm", "moex"] + ([] if is_ours(architecture) else ["transformers"])
    return ModelCardData(
        license=facts.license,
        library_name="timm",
        pipeline_tag="image-classification",
        tags=tags,
        datasets=[dataset] if dataset else None,
        metrics=["accuracy"],
        base_model=facts.base_model,
        model_name=architecture if results else None,
        eval_results=results or None,
    )


def _hub_dataset(name: str | None) -> tuple[str | None, str]:
    """Return the dataset's id on the Hub, if known, and its title."""
    name = name or ""
    return _HUB_DATASETS.get(name.rpartition("/")[2].lower(), (None, name or "unknown"))


def is_ours(architecture: str) -> bool:
    """Return whether timm lacks an architecture, so that its weights load only after `import timm_moex`."""
    return is_model(architecture) and model_entrypoint(architecture).__module__.startswith("timm_moex")


def _settings(facts: Provenance) -> Mapping[str, Any]:
    return (facts.recipe or {}).get("model_kwargs") or {}


def _was_exchanged(facts: Provenance) -> bool:
    """Return whether the weights are known to come from a training with exchanges."""
    if facts.origin:
        return False
    model = str((facts.recipe or {}).get("model", ""))
    has_moex = facts.baseline or is_twin_name(model) or any(map(is_twin_name, _settings(facts)))
    return bool(has_moex) and _settings(facts).get("moex_prob", 1) != 0


def _summary(config: Mapping[str, Any], facts: Provenance, preset: Preset) -> str:
    cfg = resolve_data_config({}, pretrained_cfg=dict(config["pretrained_cfg"]))
    names = config.get("label_names") or ()
    size = " x ".join(map(str, cfg["input_size"]))
    title = _hub_dataset(facts.dataset)[1] if facts.dataset else None
    rows = {
        "Architecture": f"`{config['architecture']}`",
        "Data": title,
        "Evaluated on": facts.split,
        "Result": facts.results,
        "Input": f"{size}, mean {tuple(cfg['mean'])}, std {tuple(cfg['std'])}",
        "Classes": ", ".join(map(str, names)) if 0 < len(names) <= 20 else config["num_classes"],
        "Seeds": ", ".join(map(str, sorted(facts.seeds or ()))),
        "Trained": ", ".join(filter(None, [facts.date, facts.device])),
        "Command": facts.command and f"`{facts.command}`",
        "Code": facts.commit and f"commit {facts.commit}",
    }
    lines = "\n".join(f"- {key}: {value}" for key, value in rows.items() if value)
    loads = "timm can load this model" + " after `import timm_moex`" * is_ours(config["architecture"])
    intro = f"{facts.origin or 'Saved by timm_moex.'} {loads}."
    if _was_exchanged(facts):
        who = f"Trained with [{preset.title}]({preset.url}) by timm_moex."
        intro = f"{who} {preset.title} adds no weights, so {loads}."
    return f"# {config['architecture']}\n\n{intro}\n\n{lines}{_comparison(facts, preset)}"


def _comparison(facts: Provenance, preset: Preset) -> str:
    top1, baseline, seeds = facts.top1, facts.baseline, facts.seeds or []
    if not top1:
        return ""
    several, exchanged = len(seeds) > 1, _was_exchanged(facts)
    head = f"top-1, mean ± standard deviation of {len(seeds)} seeds" if several else "top-1, one seed"
    value = f"{top1.get('value', top1.get('mean')):.2f}"
    compared = several or (exchanged and baseline)  # runs are compared, of which these weights may be a rounded copy
    own = _of_runs(top1, several) if compared else value
    rows = {f"with {preset.title}" if exchanged else "this recipe" if several else "these weights": own}
    if exchanged:
        unknown = f"not run, so the effect of {preset.title} is unknown"
        rows[f"same recipe without {preset.title}"] = _of_runs(baseline, several) if baseline else unknown
    table = "".join(f"\n| {name} | {percent} |" for name, percent in rows.items())
    origin = f", from the last epoch of seed {seeds[0]}" if seeds else ""
    those = f"\n\nThese weights: top-1 {value}{origin}." if value != own else ""
    return f"\n\n| {facts.split or 'evaluation'} | {head} |\n|---|---|{table}{those}"


def _of_runs(top1: Mapping[str, float], several: bool) -> str:
    return f"{top1['mean']:.2f} ± {top1['std']:.2f}" if several else f"{top1.get('mean', top1.get('value')):.2f}"


def _usage(architecture: str, source: str, facts: Provenance, preset: Preset) -> str:
    more = "To train these weights further, with"
    given = {stock_name(key): value for key, value in _settings(facts).items() if is_twin_name(key)}
    if _was_exchanged(facts):
        more = "To continue training with"
    elif preset.name == "moex":
        given["prob"] = 0.5
    else:
        given.pop("prob", None)  # 0 in a recipe without an exchange; the preset has its own
    arguments = ", ".join([f'"{source}"', *(f"{key}={value!r}".replace("'", '"') for key, value in given.items())])
    extra = "\nimport timm_moex  # registers the architecture" if is_ours(architecture) else ""
    return f"""## Use

```python
import timm{extra}

model = timm.create_model("{source}", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
```

{more} {preset.title}:

```python
from timm_moex.hub import load_twin

model = load_twin({arguments})
```"""


def parse_card(text: str) -> ModelCard:
    """Parse a model card with its front matter.

    Raises:
        ValueError: The front matter is missing or is not a YAML mapping.
    """
    with reraise_as(ValueError, "invalid model card front matter"):
        card = ModelCard(text, ignore_metadata_errors=False)
    if not card.data.to_dict():
        raise ValueError("no front matter (--- … ---) at the top")
    return card


def check_front_matter(text: str) -> None:
    """Have the Hub check a card's front matter; nothing else is sent.

    Raises:
        HubError: The Hub rejects it, for example because of its licence, or cannot be reached.
    """
    data = parse_card(text).data
    card = {"repoType": "model", "content": f"---\n{data.to_yaml()}\n---\n"}
    with translate_errors("hf-hub:api/validate-yaml"):
        try:  # before huggingface_hub 1.0, ModelCard.validate ignores HF_ENDPOINT
            response = get_session().post(f"{constants.ENDPOINT}/api/validate-yaml", json=card)
        except OfflineModeIsEnabled as error:
            raise Unreachable("HF_HUB_OFFLINE is set, so the Hub cannot check the card") from error
        if response.status_code == 400:
            reason = one_line(Exception(response.text))
            raise HubError(f"README.md: the Hub rejects the card (license: {data.get('license')}): {reason}")
        hf_raise_for_status(response)
