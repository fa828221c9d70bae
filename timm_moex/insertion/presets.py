"""The family of Moment Exchange: published augmentations that are an exchange of moments with other settings.

A preset is a set of defaults for `insert_moex` and for the `moex_` keywords of a twin; any setting can be overridden.
"""

from dataclasses import dataclass, fields
from typing import Any

from ..utils.messages import nearest

__all__ = ["PRESETS", "Preset", "find_preset"]


@dataclass(frozen=True)
class Preset:
    """Defaults of an augmentation.

    Attributes:
        name: As `moex_preset` takes it.
        title: The method's name.
        summary: The method in a sentence.
        source: The paper, with its arXiv number at the end.
        layers: The default sites: "default" (the family's one), "stem", "first_stages" (up to three, never the last) or
            "all".
        norm: Axes of the moments; None for the default of the site.
        eps: Added to the variance.
        positive_only: Moments of the positive entries alone.
        moments: What comes from the donor.
        detach: The moments that count as constants for the gradient.
        match: "moments" or "distribution".
        alpha: The share of a sample's own moments is drawn from Beta(alpha, alpha); 0 for none.
        each_site: Whether each site draws a coin and a permutation of its own; else one site is drawn for a batch.
        lam: Weight of a sample's own label.
        prob: Probability of an exchange.
    """

    name: str
    title: str
    summary: str
    source: str
    layers: str = "default"
    norm: str | None = None
    eps: float = 1e-5
    positive_only: bool = False
    moments: str = "both"
    detach: str = "none"
    match: str = "moments"
    alpha: float = 0.0
    each_site: bool = False
    lam: float = 1.0
    prob: float = 1.0

    @property
    def url(self) -> str:
        """The paper's page."""
        return f"https://arxiv.org/abs/{self.source.rpartition(' ')[2]}"

    def with_overrides(self, overrides: dict[str, Any]) -> dict[str, Any]:
        """The settings of `insert_moex`, with those of `overrides` that are not None in place of the preset's."""
        settings = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in _DESCRIPTION}
        return settings | {key: value for key, value in overrides.items() if value is not None}


_DESCRIPTION = ("name", "title", "summary", "source", "layers")

PRESETS = {
    preset.name: preset
    for preset in (
        Preset(
            "moex",
            "MoEx",
            "The moments of another sample and a share of its label; one coin and one site a batch.",
            "Li et al., On Feature Normalization and Data Augmentation, CVPR 2021, arXiv 2002.11102",
            lam=0.9,
        ),
        Preset(
            "padain",
            "Permuted AdaIN",
            "The moments of another sample, as constants; rarely, and at every site by its own coin.",
            "Nuriel et al., Permuted AdaIN, CVPR 2021, arXiv 2010.05785",
            layers="all",
            norm="in",
            detach="donor",
            each_site=True,
            prob=0.01,
        ),
        Preset(
            "mixstyle",
            "MixStyle",
            "A mixture of a sample's moments and another's, as constants; at the first stages, each by its own coin.",
            "Zhou et al., Domain Generalization with MixStyle, ICLR 2021, arXiv 2104.02008",
            layers="first_stages",
            norm="in",
            eps=1e-6,
            detach="both",
            alpha=0.1,
            each_site=True,
            prob=0.5,
        ),
        Preset(
            "freq_mixstyle",
            "Freq-MixStyle",
            "MixStyle with moments per frequency, over channels and time, for spectrograms (B, C, frequency, time).",
            "Schmid et al., DCASE 2022 technical report; Kim et al., Interspeech 2022, arXiv 2206.12513",
            layers="stem",
            norm="freq",
            eps=1e-6,
            detach="both",
            alpha=0.3,
            each_site=True,
            prob=0.4,
        ),
        Preset(
            "efdmix",
            "EFDMix",
            "A mixture of a sample's values and another's, rank by rank; at the first stages, each by its own coin.",
            "Zhang et al., Exact Feature Distribution Matching, CVPR 2022, arXiv 2203.07740",
            layers="first_stages",
            norm="in",
            match="distribution",
            alpha=0.1,
            each_site=True,
            prob=0.5,
        ),
    )
}


def find_preset(name: str) -> Preset:
    """Look up a preset.

    Args:
        name: A key of `PRESETS`.

    Raises:
        ValueError: There is no such preset; the message has the nearest name.

    Example:
        >>> find_preset("mixstyle").alpha
        0.1
    """
    if name not in PRESETS:
        raise ValueError(f"preset={name!r}: expected one of {', '.join(PRESETS)}{nearest(name, PRESETS)}")
    return PRESETS[name]
