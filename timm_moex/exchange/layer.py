"""`MomentExchange`: the settings of an exchange as a module without parameters."""

from torch import Tensor, nn

from .functional import check_settings, moment_exchange

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
    ):
        super().__init__()
        check_settings(norm=norm, eps=eps, positive_only=positive_only, moments=moments)
        if channel_dim not in (1, -1):
            raise ValueError(f"channel_dim={channel_dim}: expected 1 or -1")
        self.norm = norm
        self.eps = eps
        self.positive_only = positive_only
        self.moments = moments
        self.channel_dim = channel_dim

    def forward(self, x: Tensor, swap_index: Tensor) -> Tensor:
        """Give each sample of `x` (B, ...) the moments of the sample that `swap_index` (B,) names."""
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
