"""Common class of the CIFAR backbones: a 3x3 stem, stages of blocks, an optional final norm, and timm's methods.

Modules: `conv1`, `bn1`, `act1` (identities if the family does not use them), `layer1..N` (`nn.Sequential` of blocks),
`norm`, `act` (identities in families that already end with an activation), `global_pool`, `fc`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from timm.layers import LayerType, create_classifier, get_act_layer, get_norm_layer
from timm.models import checkpoint_seq
from torch import nn

__all__ = ["CifarNet", "Stages", "Trunk"]

STEM_ENDS = ("conv1", "bn1", "act1")
Stages = list[tuple[list[nn.Module], int]]  # blocks and output channels of each stage


class Trunk(NamedTuple):
    """The part of a net that depends on its family.

    Attributes:
        stem_chs: Output channels of the stem.
        stages: All stages but the first halve the resolution.
        stem_end: Last module of the stem, whose output enters `layer1`: `conv1`, `bn1` or `act1`.
        final_norm: Put a norm and an activation between the last stage and the pooling (pre-activation nets).
    """

    stem_chs: int
    stages: Stages
    stem_end: str = "act1"
    final_norm: bool = False


class CifarNet(nn.Module):
    """Classifier of (B, C, H, W) images of any size, with features at strides 1, 1, 2, 4 and so on.

    `make_trunk` receives all other keywords, such as `depth`, and the layers, device and dtype.
    """

    def __init__(
        self,
        make_trunk: Callable[..., Trunk],
        *,
        num_classes: int = 10,
        in_chans: int = 3,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        act_layer: LayerType = nn.ReLU,
        norm_layer: LayerType = nn.BatchNorm2d,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__()
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        act: Any = get_act_layer(act_layer)
        norm: Any = get_norm_layer(norm_layer)
        self.num_classes = num_classes
        self.in_chans = in_chans
        self.drop_rate = drop_rate
        self.grad_checkpointing = False

        stem_chs, stages, stem_end, final_norm = make_trunk(**kwargs, act_layer=act, norm_layer=norm, **dd)
        stem_len = STEM_ENDS.index(stem_end) + 1
        self.conv1 = nn.Conv2d(in_chans, stem_chs, 3, padding=1, bias=False, **dd)
        self.bn1 = norm(stem_chs, **dd) if stem_len > 1 else nn.Identity()
        self.act1 = act(inplace=True) if stem_len > 2 else nn.Identity()
        self.feature_info: list[dict[str, Any]] = [dict(num_chs=stem_chs, reduction=1, module=stem_end)]

        for i, (blocks, num_chs) in enumerate(stages, start=1):
            self.add_module(f"layer{i}", nn.Sequential(*blocks))
            self.feature_info.append(dict(num_chs=num_chs, reduction=2 ** (i - 1), module=f"layer{i}"))

        self.num_features = stages[-1][1]
        self.norm = norm(self.num_features, **dd) if final_norm else nn.Identity()
        self.act = act(inplace=True) if final_norm else nn.Identity()
        self.global_pool, self.fc = create_classifier(self.num_features, num_classes, pool_type=global_pool, **dd)
        self.head_hidden_size = self.num_features * self.global_pool.feat_mult()
        self.init_weights()

    def init_weights(self) -> None:
        """Initialise convolutions from N(0, 2 / fan-out) (He et al. 2015), and fc.bias with 0."""
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(m, nn.Linear):
                nn.init.zeros_(m.bias)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Return patterns that group parameters into stem, stages (`coarse`) or blocks, and final norm."""
        return dict(
            stem=r"^conv1|^bn1",
            blocks=[(r"^layer(\d+)" if coarse else r"^layer(\d+)\.(\d+)", None), (r"^norm", (99999,))],
        )

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each block's activations in the backward pass instead of keeping them."""
        self.grad_checkpointing = enable

    def get_classifier(self) -> nn.Module:
        """Return the classifier: an `nn.Linear`, or an identity if `num_classes` is 0."""
        return self.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier, in place; `global_pool` None keeps the current pooling."""
        self.num_classes = num_classes
        pool_type = self.global_pool.pool_type if global_pool is None else global_pool
        weight = self.conv1.weight
        self.global_pool, self.fc = create_classifier(
            self.num_features, num_classes, pool_type=pool_type, device=weight.device, dtype=weight.dtype
        )
        self.head_hidden_size = self.num_features * self.global_pool.feat_mult()
        self.global_pool.train(self.training)
        self.fc.train(self.training)

    def _stages(self) -> list[nn.Module]:
        return [getattr(self, info["module"]) for info in self.feature_info[1:]]

    def _take_indices(self, indices: int | list[int] | None) -> tuple[list[int], int]:
        """Resolve `indices` (the last n, a list, or None for all); return the positions and the largest one."""
        count = len(self.feature_info)
        indices = count if indices is None else indices
        wanted = range(-indices, 0) if isinstance(indices, int) else indices
        if not wanted or not all(-count <= i < count for i in wanted):
            raise ValueError(
                f"indices={indices!r}: expected a count up to {count}, or indices from {-count} to {count - 1}"
            )
        taken = [i % count for i in wanted]
        return taken, max(taken)

    def forward_intermediates(
        self,
        x: torch.Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[torch.Tensor] | tuple[torch.Tensor, list[torch.Tensor]]:
        """Return the final features and the requested intermediate outputs; index 0 is the stem, i is stage i.

        `norm` applies the final norm and activation to the last stage's intermediate output as well.
        """
        if output_fmt != "NCHW":
            raise ValueError(f"output_fmt must be 'NCHW', got {output_fmt!r}.")
        take_indices, max_index = self._take_indices(indices)
        stages = self._stages()
        last = len(stages)

        x = self.act1(self.bn1(self.conv1(x)))
        intermediates = [x] if 0 in take_indices else []
        for i, stage in enumerate(stages[:max_index] if stop_early else stages, start=1):
            x = checkpoint_seq(stage, x) if self.grad_checkpointing else stage(x)
            if i in take_indices:
                # the final activation works in place: never apply it to a returned tensor
                intermediates.append(self.act(self.norm(x)) if norm and i == last else x)
        if intermediates_only:
            return intermediates
        if not stop_early or max_index == last:
            x = self.act(self.norm(x))
        return x, intermediates

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Empty the stages after the last requested one, in place; return the indices kept.

        Without the last stage, the final norm and the classifier are removed in any case.
        """
        take_indices, max_index = self._take_indices(indices)
        prune_end = max_index < len(self.feature_info) - 1
        for info in self.feature_info[max_index + 1 :]:
            setattr(self, info["module"], nn.Sequential())  # empty, so that checkpoint_seq(flatten=True) can walk it
        if prune_norm or prune_end:
            self.norm, self.act = nn.Identity(), nn.Identity()
        if prune_end:
            self.num_features = self.feature_info[max_index]["num_chs"]
        if prune_head or prune_end:
            self.reset_classifier(0, "")
        return take_indices

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, in_chans, H, W) images to (B, num_features, h, w) features."""
        x = self.act1(self.bn1(self.conv1(x)))
        if self.grad_checkpointing and not torch.jit.is_scripting():
            x = checkpoint_seq(self._stages(), x, flatten=True)
        else:
            # spelled out: TorchScript does not support getattr with a computed name
            x = self.layer1(x)  # type: ignore[operator]
            x = self.layer2(x)  # type: ignore[operator]
            x = self.layer3(x)  # type: ignore[operator]
            if hasattr(self, "layer4"):
                x = self.layer4(x)  # type: ignore[operator]
        return self.act(self.norm(x))

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """Map features to logits (B, num_classes), or with `pre_logits` to the classifier's input."""
        x = self.global_pool(x)
        if self.drop_rate:
            x = F.dropout(x, p=float(self.drop_rate), training=self.training)
        return x if pre_logits else self.fc(x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, in_chans, H, W) images to logits (B, num_classes)."""
        return self.forward_head(self.forward_features(x))
