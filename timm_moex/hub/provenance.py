"""Where a checkpoint comes from: what its card and its entry in the manifest both say."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from ..utils.messages import nearest

__all__ = ["Provenance"]


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Where a checkpoint comes from. Whatever is not known is left out of the card.

    Attributes:
        dataset: The training data, as timm names it.
        split: The part that was evaluated.
        top1: Percent on `split`: `value` of these weights, `mean` and `std` over `seeds`.
        seeds: All the runs behind `mean` and `std`; the weights are those of the first one.
        baseline: `mean` and `std` of the same recipe and seeds without MoEx; None if that was not run.
        command: The command of the training, or the name of the packaged recipe.
        recipe: Settings of the run; those that are paths on one machine are left out of the card.
        commit: The commit of this project's repository.
        device: The hardware of the training.
        date: Day of the training, "2026-01-31".
        license: SPDX identifier of the weights' licence.
        base_model: Hub id of the model whose weights the training started from.
        origin: A sentence on the source of the weights, if they are not from a training with timm_moex.
        results: The result as a sentence.
        limits: A sentence on what the weights are not good for, or several.
    """

    dataset: str | None = None
    split: str | None = None
    top1: dict[str, float] | None = None
    seeds: list[int] | None = None
    baseline: dict[str, float] | None = None
    command: str | None = None
    recipe: dict[str, Any] | None = None
    commit: str | None = None
    device: str | None = None
    date: str | None = None
    license: str | None = None
    base_model: str | None = None
    origin: str | None = None
    results: str | None = None
    limits: str | list[str] | None = None

    @classmethod
    def of(cls, facts: "Provenance | Mapping[str, Any] | None") -> "Provenance":
        """Make one from a mapping, whose keys are the names of the attributes.

        Raises:
            ValueError: A key is unknown.
        """
        if isinstance(facts, Provenance):
            return facts
        known = [field.name for field in fields(cls)]
        for key in facts or {}:
            if key not in known:
                raise ValueError(f"card: unknown key {key!r}; it takes {', '.join(known)}{nearest(key, known)}")
        return cls(**{key: value for key, value in (facts or {}).items() if value})
