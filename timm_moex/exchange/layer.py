"""`MomentExchange`: the settings of an exchange as a module without parameters."""

from torch import Tensor, nn

from .functional import MOMENTS, check_norm, moment_exchange

__all__ = ["MomentExchange"]


class MomentExchange(nn.Module):
    """Moment Exchange with fixed settings; see `moment_exchange` for what they mean.

    Args:
        norm: `pono`, `in`, `ln`, `gn4`, `gn-d4`, `gpono4`, `gpono-d4` (any number).
        eps: Added to the variance.
        positive_only: Moments of the positive entries alone.
        moments: "both", "mean" or "std".
        channel_dim: 1 for (B, C, *spatial), -1 for (B, *spatial, C).

    Raises:
        ValueError: An unknown setting.
    """

    def __init__(
        self,
        norm: str = "pono",
        eps: float = 1e-5,
        positive_only: bool = False,
        moments: str = "both",
        channel_dim: int = 1,
    ):
        super().__init__()
        check_norm(norm)
        if moments not in MOMENTS:
            raise ValueError(f"moments={moments!r}: expected one of {', '.join(MOMENTS)}")
        if channel_dim not in (1, -1):
            raise ValueError(f"channel_dim={channel_dim}: expected 1 or -1")
        if isinstance(eps, bool) or not isinstance(eps, (int, float)) or not eps >= 0:
            raise ValueError(f"eps={eps!r}: expected a number >= 0")
        if not isinstance(positive_only, bool):
            raise ValueError(f"positive_only={positive_only!r}: expected True or False")
        self.norm = norm
        self.eps = eps
        self.positive_only = positive_only
        self.moments = moments
        self.channel_dim = channel_dim

    def forward(self, x: Tensor, swap_index: Tensor) -> Tensor:
        """Exchange the moments of `x` (B, ...) with those of the samples `swap_index` (B,) names."""
        return moment_exchange(
            x,
            swap_index,
            norm=self.norm,
            eps=self.eps,
            positive_only=self.positive_only,
            moments=self.moments,
            channel_dim=self.channel_dim,
        )

    def extra_repr(self) -> str:
        return (
            f"norm={self.norm!r}, eps={self.eps}, positive_only={self.positive_only}, moments={self.moments!r}, "
            f"channel_dim={self.channel_dim}"
        )
