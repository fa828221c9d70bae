"""`MomentExchange`: a parameter-free module that holds the settings of an exchange."""

from torch import Tensor, nn

from ..utils.messages import did_you_mean
from .arguments import check_settings
from .distribution import match_distribution
from .functional import moment_exchange

__all__ = ["MATCH", "MomentExchange"]

MATCH = ("moments", "distribution")


class MomentExchange(nn.Module):
    """Moment Exchange with fixed settings, which `moment_exchange` explains.

    Args:
        norm: `pono`, `in`, `ln`, `freq`, `gn4`, `gn-d4`, `gpono4`, `gpono-d4` (with any number in place of 4).
        eps: Added to the variance.
        positive_only: Take the moments of only the positive entries.
        moments: "both", "mean" or "std".
        channel_dim: 1 for (B, C, *spatial), -1 for (B, *spatial, C).
        detach: "none", "donor" or "both".
        match: "moments", or "distribution" for `match_distribution`, which only supports norm `in` and the defaults of
            `positive_only`, `moments` and `detach`.

    Raises:
        ValueError: A setting is invalid, or `match="distribution"` does not support it.

    Example:
        >>> import torch
        >>> exchange = MomentExchange(norm="in")
        >>> exchange(torch.randn(2, 3, 8, 8), torch.tensor([1, 0])).shape
        torch.Size([2, 3, 8, 8])
    """

    def __init__(
        self,
        norm: str = "pono",
        eps: float = 1e-5,
        positive_only: bool = False,
        moments: str = "both",
        channel_dim: int = 1,
        detach: str = "none",
        match: str = "moments",
    ):
        super().__init__()
        check_settings(norm=norm, eps=eps, positive_only=positive_only, moments=moments, detach=detach)
        if channel_dim not in (1, -1):
            raise ValueError(f"channel_dim={channel_dim}: expected 1 or -1")
        if match not in MATCH:
            raise ValueError(f"match={match!r}: expected one of {', '.join(MATCH)}{did_you_mean(match, MATCH)}")
        if match == "distribution" and (norm, positive_only, moments, detach) != ("in", False, "both", "none"):
            raise ValueError(
                "match='distribution' requires norm='in', positive_only=False, moments='both' and detach='none', got "
                f"norm={norm!r}, positive_only={positive_only}, moments={moments!r}, detach={detach!r}"
            )
        self.norm = norm
        self.eps = eps
        self.positive_only = positive_only
        self.moments = moments
        self.channel_dim = channel_dim
        self.detach = detach
        self.match = match

    def forward(self, x: Tensor, swap_index: Tensor, own_share: Tensor | None = None) -> Tensor:
        """Give each sample of `x` the moments of its donor in `swap_index`, mixed with its own by `own_share`."""
        if self.match == "distribution":
            return match_distribution(x, swap_index, own_share=own_share, channel_dim=self.channel_dim)
        return moment_exchange(
            x,
            swap_index,
            norm=self.norm,
            eps=self.eps,
            positive_only=self.positive_only,
            moments=self.moments,
            own_share=own_share,
            detach=self.detach,
            channel_dim=self.channel_dim,
        )

    def extra_repr(self) -> str:
        shown = (
            f"norm={self.norm!r}, eps={self.eps}, positive_only={self.positive_only}, moments={self.moments!r}, "
            f"channel_dim={self.channel_dim}"
        )
        shown += f", detach={self.detach!r}" if self.detach != "none" else ""
        return shown + (f", match={self.match!r}" if self.match != "moments" else "")
