"""Provenance of a checkpoint, stated both in its card and in its manifest entry."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from ..utils.messages import did_you_mean

__all__ = ["Provenance"]


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Provenance of a checkpoint. The card leaves out what is unknown.

    Attributes:
        dataset: The training data, as timm names it.
        split: The part of the data used for evaluation.
        top1: Top-1 in percent on `split`: `value` for these weights, `mean` and `std` over `seeds`.
        seeds: Seeds of all runs in `mean` and `std`; the weights come from the first one.
        baseline: `mean` and `std` of the same recipe and seeds without MoEx; None if not run.
        command: The training command, or the name of the packaged recipe.
        recipe: Settings of the run; the card leaves out paths on one machine.
        commit: Commit of this project's repository.
        device: Training hardware.
        date: Training date, "2026-01-31".
        license: SPDX identifier of the weights' licence.
        base_model: Hub id of the model whose weights the training started from.
        origin: A sentence on the source of the weights, if timm_moex did not train them.
        results: The result as a sentence.
        limits: One or more sentences on what the weights are not suitable for.
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
        """Make a `Provenance` from a mapping with its attributes as keys.

        Raises:
            ValueError: A key is unknown.
        """
        if isinstance(facts, Provenance):
            return facts
        known = [field.name for field in fields(cls)]
        for key in facts or {}:
            if key not in known:
                raise ValueError(
                    f"card: unknown key {key!r}; expected one of {', '.join(known)}{did_you_mean(key, known)}"
                )
        return cls(**{key: value for key, value in (facts or {}).items() if value})
