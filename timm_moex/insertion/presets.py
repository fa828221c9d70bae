"""Presets: published augmentations that exchange moments with different settings.

A preset is a set of defaults for `insert_moex` and for the `moex_` keywords of a twin; any setting can be overridden.
"""

import warnings
from dataclasses import dataclass, fields
from typing import Any

from ..utils.checks import check_finite, check_fraction, check_whole
from ..utils.messages import did_you_mean

__all__ = ["PRESETS", "RENAMED", "SETTING_NAMES", "MoExSettings", "Preset", "find_preset"]


@dataclass(frozen=True, kw_only=True)
class MoExSettings:
    """Settings of a model's MoEx, validated on creation.

    Args:
        norm: Axes of the moments, see `moment_exchange`; None for the default of each site, see `moex_sites`.
        eps: Added to the variance.
        positive_only: Whether to compute the moments over only the positive entries.
        moments: Which moments to exchange: "both", "mean" or "std".
        detach: Which moments receive no gradient: "none", "donor" or "both".
        match: "moments", or "distribution" for `match_distribution`.
        alpha: The share of a sample's own moments is drawn from Beta(alpha, alpha); 0 for none.
        per_site: Whether each site draws independently; if False, one site is drawn per batch.
        lam: Weight of a sample's own label in the loss; the donor of the moments gets 1 - lam.
        prob: Probability of an exchange, per batch or, with `per_site`, per batch and site.
        off_epoch: First epoch, counted from 0, in which nothing is exchanged; 0 for never.
        warmup_epochs: Number of epochs over which the probability rises linearly to `prob`; 0 for none.

    Raises:
        ValueError: A value is out of range.
    """

    norm: str | None = None
    eps: float = 1e-5
    positive_only: bool = False
    moments: str = "both"
    detach: str = "none"
    match: str = "moments"
    alpha: float = 0.0
    per_site: bool = False
    lam: float = 1.0
    prob: float = 1.0
    off_epoch: int = 0
    warmup_epochs: int = 0

    def __post_init__(self) -> None:
        check_fraction("lam", self.lam)
        check_fraction("prob", self.prob)
        check_finite("alpha", self.alpha)
        if not isinstance(self.per_site, bool):
            raise ValueError(f"per_site={self.per_site!r}: expected True or False")
        check_whole("off_epoch", self.off_epoch)
        check_whole("warmup_epochs", self.warmup_epochs)

    def prob_at(self, epoch: int | None) -> float:
        """Return the probability of an exchange in an epoch; raise RuntimeError if it depends on an unknown epoch."""
        if not self.off_epoch and not self.warmup_epochs:
            return self.prob
        if epoch is None:
            raise RuntimeError(
                f"off_epoch={self.off_epoch}, warmup_epochs={self.warmup_epochs}: the epoch is unknown; call "
                "find_moex(model).set_epoch(epoch) or task.set_epoch(epoch) before each epoch"
            )
        if self.off_epoch and epoch >= self.off_epoch:
            return 0.0
        return self.prob * min(1.0, (epoch + 1) / self.warmup_epochs) if self.warmup_epochs else self.prob


@dataclass(frozen=True, kw_only=True)
class Preset(MoExSettings):
    """Defaults of an augmentation."""

    name: str  # the value of `moex_preset`
    title: str
    summary: str
    source: str  # the paper, with its arXiv number at the end
    layers: str = "default"  # the family's default site, "stem", "first_stages" (up to three, never the last) or "all"

    @property
    def url(self) -> str:
        """URL of the paper."""
        return f"https://arxiv.org/abs/{self.source.rpartition(' ')[2]}"

    def settings(self, **overrides: Any) -> MoExSettings:
        """Return the preset's settings, replaced by the `overrides` that are not None."""
        for old in overrides.keys() & RENAMED:
            warnings.warn(
                f"{old} is now called {RENAMED[old]}; 0.3 removes the old name", DeprecationWarning, stacklevel=3
            )
            if overrides.setdefault(RENAMED[old], overrides[old]) != overrides.pop(old):
                raise TypeError(f"{old} is the old name of {RENAMED[old]}; pass only {RENAMED[old]}")
        for key in overrides:
            if key not in SETTING_NAMES:
                hint = did_you_mean(key, SETTING_NAMES, 0.4)
                raise TypeError(f"unknown setting {key!r}: expected one of {', '.join(SETTING_NAMES)}{hint}")
        own = {name: getattr(self, name) for name in SETTING_NAMES}
        return MoExSettings(**own | {key: value for key, value in overrides.items() if value is not None})


RENAMED = {"each_site": "per_site", "ramp_epochs": "warmup_epochs"}  # old names, accepted in 0.2
SETTING_NAMES = tuple(field.name for field in fields(MoExSettings))

PRESETS = {
    preset.name: preset
    for preset in (
        Preset(
            name="moex",
            title="MoEx",
            summary="Each sample gets another's moments and a share of its label; one decision and one site per batch.",
            source="Li et al., On Feature Normalization and Data Augmentation, CVPR 2021, arXiv 2002.11102",
            lam=0.9,
        ),
        Preset(
            name="padain",
            title="Permuted AdaIN",
            summary="Each sample gets another's moments, as constants; rarely, and decided separately at every site.",
            source="Nuriel et al., Permuted AdaIN, CVPR 2021, arXiv 2010.05785",
            layers="all",
            norm="in",
            detach="donor",
            per_site=True,
            prob=0.01,
        ),
        Preset(
            name="mixstyle",
            title="MixStyle",
            summary="Each sample gets a mixture of its own and another's moments, as constants; decided separately at "
            "each of the first stages.",
            source="Zhou et al., Domain Generalization with MixStyle, ICLR 2021, arXiv 2104.02008",
            layers="first_stages",
            norm="in",
            eps=1e-6,
            detach="both",
            alpha=0.1,
            per_site=True,
            prob=0.5,
        ),
        Preset(
            name="freq_mixstyle",
            title="Freq-MixStyle",
            summary="MixStyle with moments per frequency, over channels and time, for spectrograms (B, C, frequency, "
            "time).",
            source="Schmid et al., DCASE 2022 technical report; Kim et al., Interspeech 2022, arXiv 2206.12513",
            layers="stem",
            norm="freq",
            eps=1e-6,
            detach="both",
            alpha=0.3,
            per_site=True,
            prob=0.4,
        ),
        Preset(
            name="efdmix",
            title="EFDMix",
            summary="Each sample gets a mixture of its own and another's values, rank by rank; decided separately at "
            "each of the first stages.",
            source="Zhang et al., Exact Feature Distribution Matching, CVPR 2022, arXiv 2203.07740",
            layers="first_stages",
            norm="in",
            match="distribution",
            alpha=0.1,
            per_site=True,
            prob=0.5,
        ),
    )
}


def find_preset(name: str) -> Preset:
    """Look up a preset; for an unknown name, raise a ValueError that suggests the nearest one."""
    if name not in PRESETS:
        raise ValueError(f"preset={name!r}: expected one of {', '.join(PRESETS)}{did_you_mean(name, PRESETS)}")
    return PRESETS[name]
