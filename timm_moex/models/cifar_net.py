"""What the CIFAR backbones share: a 3x3 stem, stages of blocks, an optional final norm, timm's methods.

A family brings its block and its widths; stem, stages, head and everything timm asks of a model come from here.
Modules: `conv1`, `bn1`, `act1` (as far as the family has them), `layer1..N` (`nn.Sequential` of blocks), `norm`, `act`
(identities in families that end with an activation already), `global_pool`, `fc`.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from timm.layers import LayerType, calculate_drop_path_rates, create_classifier, get_act_layer, get_norm_layer
from timm.models import build_model_with_cfg, checkpoint_seq
from torch import nn

from .registry import resolve_verified_cfg

STEM_ENDS = ("conv1", "bn1", "act1")


class Stage(NamedTuple):
    """Blocks of one stage, the channels its last block puts out, and the stride of its first block."""

    blocks: list[nn.Module]
    num_chs: int
    stride: int


def make_stages(
    block: Callable[..., nn.Module],
    depths: Sequence[int],
    widths: Sequence[int],
    in_chs: int,
    drop_path_rate: float = 0.0,
) -> list[Stage]:
    """Stages of residual blocks; all but the first start with stride 2.

    Args:
        block: Called as `block(in_chs, out_chs, stride=, drop_path=)`.
        depths: Blocks per stage.
        widths: Output channels per stage.
        in_chs: Channels the stem puts out.
        drop_path_rate: Probability of dropping the last residual branch; grows linearly from 0 over the depth.
    """
    rates = iter(calculate_drop_path_rates(drop_path_rate, sum(depths)))
    stages = []
    for i, (depth, width) in enumerate(zip(depths, widths)):
        stride = 1 if i == 0 else 2
        blocks = [block(in_chs, width, stride=stride, drop_path=next(rates))]
        blocks += [block(width, width, stride=1, drop_path=next(rates)) for _ in range(depth - 1)]
        stages.append(Stage(blocks, width, stride))
        in_chs = width
    return stages


def _take_indices(num_features: int, indices: int | Sequence[int] | None) -> tuple[list[int], int]:
    """Outputs wanted (the last n, the listed ones, all for None) counted from the first, and the largest of them."""
    if indices is None:
        indices = num_features
    if isinstance(indices, int):
        if not 0 < indices <= num_features:
            raise ValueError(f"indices as a number of last outputs must be 1 to {num_features}, got {indices}.")
        indices = range(num_features - indices, num_features)
    if not indices or not all(-num_features <= i < num_features for i in indices):
        raise ValueError(f"indices must be in {-num_features} to {num_features - 1}, at least one, got {indices!r}.")
    taken = [i % num_features for i in indices]
    return taken, max(taken)


class CifarNet(nn.Module):
    """Base of the CIFAR backbones: features of (B, C, H, W) images at strides 1, 2, 4, …, pooled and classified.

    The shape of the input is free: nothing in the network knows its size.

    Args:
        stem_chs: Channels the stem puts out.
        stages: The stages, in order.
        stem_end: Last module of the stem, whose output enters `layer1`: `conv1`, `bn1` or `act1`.
        final_norm: Put a norm and an activation between the last stage and the pooling (pre-activation nets).
        num_classes: Classes; 0 for no classifier.
        in_chans: Channels of the input image.
        global_pool: Pooling before the classifier, by timm's name.
        drop_rate: Dropout before the classifier.
        act_layer: Activation, by timm's name or as a class.
        norm_layer: Norm, by timm's name or as a class.
        device: Device of the parameters.
        dtype: Type of the parameters.
    """

    def __init__(
        self,
        stem_chs: int,
        stages: Sequence[Stage],
        *,
        stem_end: str = "act1",
        final_norm: bool = False,
        num_classes: int = 10,
        in_chans: int = 3,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        act_layer: LayerType = nn.ReLU,
        norm_layer: LayerType = nn.BatchNorm2d,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        act: Any = get_act_layer(act_layer)
        norm: Any = get_norm_layer(norm_layer)
        self.num_classes = num_classes
        self.in_chans = in_chans
        self.drop_rate = drop_rate
        self.grad_checkpointing = False

        stem_len = STEM_ENDS.index(stem_end) + 1
        self.conv1 = nn.Conv2d(in_chans, stem_chs, 3, padding=1, bias=False, **dd)
        self.bn1 = norm(stem_chs, **dd) if stem_len > 1 else nn.Identity()
        self.act1 = act(inplace=True) if stem_len > 2 else nn.Identity()
        self.feature_info: list[dict[str, Any]] = [dict(num_chs=stem_chs, reduction=1, module=stem_end)]

        for i, stage in enumerate(stages, start=1):
            self.add_module(f"layer{i}", nn.Sequential(*stage.blocks))
            reduction = self.feature_info[-1]["reduction"] * stage.stride
            self.feature_info.append(dict(num_chs=stage.num_chs, reduction=reduction, module=f"layer{i}"))

        self.num_features = stages[-1].num_chs
        self.norm = norm(self.num_features, **dd) if final_norm else nn.Identity()
        self.act = act(inplace=True) if final_norm else nn.Identity()
        self.global_pool, self.fc = create_classifier(self.num_features, num_classes, pool_type=global_pool, **dd)
        self.head_hidden_size = self.num_features * self.global_pool.feat_mult()
        self.init_weights()

    @torch.jit.ignore
    def init_weights(self) -> None:
        """He et al. 2015: convolution weights normal with variance 2 / fan-out; the classifier's bias starts at 0."""
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(m, nn.Linear):
                nn.init.zeros_(m.bias)

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Patterns that sort parameters into stem, stages (`coarse`) or blocks, and what follows the stages."""
        return dict(
            stem=r"^conv1|^bn1",
            blocks=[(r"^layer(\d+)" if coarse else r"^layer(\d+)\.(\d+)", None), (r"^norm", (99999,))],
        )

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each block's activations in the backward pass instead of keeping them."""
        self.grad_checkpointing = enable

    @torch.jit.ignore
    def get_classifier(self) -> nn.Module:
        """The classifier, an `nn.Linear`, or an identity where `num_classes` is 0."""
        return self.fc

    @torch.jit.ignore
    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Put a fresh classifier on, in place.

        Args:
            num_classes: Classes; 0 for no classifier.
            global_pool: Pooling before the classifier, by timm's name; None keeps the present one.
        """
        self.num_classes = num_classes
        pool_type = self.global_pool.pool_type if global_pool is None else global_pool
        weight = self.conv1.weight
        self.global_pool, self.fc = create_classifier(
            self.num_features, num_classes, pool_type=pool_type, device=weight.device, dtype=weight.dtype
        )
        self.head_hidden_size = self.num_features * self.global_pool.feat_mult()
        self.global_pool.train(self.training)
        self.fc.train(self.training)

    @torch.jit.ignore
    def _stages(self) -> list[nn.Module]:
        return [getattr(self, info["module"]) for info in self.feature_info[1:]]

    @torch.jit.ignore
    def forward_intermediates(
        self,
        x: torch.Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[torch.Tensor] | tuple[torch.Tensor, list[torch.Tensor]]:
        """Final features and the wanted outputs on the way to them.

        Args:
            x: (B, in_chans, H, W) images.
            indices: The last n outputs if an int, all if None, those listed otherwise; 0 is the stem's, i stage i's.
            norm: Apply the final norm and activation to the last stage's output too.
            stop_early: Leave out the stages after the last one wanted.
            output_fmt: Only `NCHW`.
            intermediates_only: Return the list alone.

        Raises:
            ValueError: Indices out of range, or another `output_fmt` than `NCHW`.
        """
        if output_fmt != "NCHW":
            raise ValueError(f"output_fmt must be 'NCHW', got {output_fmt!r}.")
        take_indices, max_index = _take_indices(len(self.feature_info), indices)
        stages = self._stages()
        last = len(stages)

        x = self.act1(self.bn1(self.conv1(x)))
        intermediates = [x] if 0 in take_indices else []
        for i, stage in enumerate(stages[:max_index] if stop_early else stages, start=1):
            x = checkpoint_seq(stage, x) if self.grad_checkpointing else stage(x)
            if i in take_indices:
                # the final activation works in place: never on a tensor that is handed out
                intermediates.append(self.act(self.norm(x)) if norm and i == last else x)
        if intermediates_only:
            return intermediates
        if not stop_early or max_index == last:
            x = self.act(self.norm(x))
        return x, intermediates

    @torch.jit.ignore
    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Empty the stages after the last wanted one, in place; returns the indices kept.

        Args:
            indices: Wanted outputs, as in `forward_intermediates`.
            prune_norm: Remove the final norm and activation too; done anyway where the last stage goes.
            prune_head: Remove the classifier too; done anyway where the last stage goes.

        Raises:
            ValueError: Indices out of range.
        """
        take_indices, max_index = _take_indices(len(self.feature_info), indices)
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
        """(B, in_chans, H, W) images to (B, num_features, H / s, W / s) features, s the product of the strides."""
        x = self.act1(self.bn1(self.conv1(x)))
        if self.grad_checkpointing and not torch.jit.is_scripting():
            x = checkpoint_seq(self._stages(), x, flatten=True)
        else:
            # spelled out: TorchScript has no getattr by a computed name
            x = self.layer1(x)  # type: ignore[operator]
            x = self.layer2(x)  # type: ignore[operator]
            x = self.layer3(x)  # type: ignore[operator]
            if hasattr(self, "layer4"):
                x = self.layer4(x)  # type: ignore[operator]
        return self.act(self.norm(x))

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """Features to logits (B, num_classes), or with `pre_logits` to what the classifier would get."""
        x = self.global_pool(x)
        if self.drop_rate:
            x = F.dropout(x, p=float(self.drop_rate), training=self.training)
        return x if pre_logits else self.fc(x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, in_chans, H, W) images to logits (B, num_classes)."""
        return self.forward_head(self.forward_features(x))


def cifar_cfg(**kwargs: Any) -> dict[str, Any]:
    """timm's pretrained-cfg entries of a CIFAR backbone without weights; mean and std are those of CIFAR-10."""
    cfg = dict(num_classes=10, input_size=(3, 32, 32), pool_size=(8, 8), fixed_input_size=False)
    cfg.update(crop_pct=1.0, interpolation="bilinear", mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616))
    cfg.update(first_conv="conv1", classifier="fc", license="apache-2.0")
    return dict(cfg, **kwargs)


def build_cifar_net(
    model_cls: type[CifarNet],
    variant: str,
    pretrained: bool,
    num_stages: int = 3,
    feature_cfg: dict[str, Any] | None = None,
    **kwargs: Any,
) -> Any:
    """timm's `build_model_with_cfg`, with the stem and every stage as the default of `features_only`."""
    feature_cfg = dict(dict(out_indices=tuple(range(num_stages + 1))), **(feature_cfg or {}))
    if pretrained:
        kwargs["pretrained_cfg"] = resolve_verified_cfg(variant, kwargs.get("pretrained_cfg"), kwargs.get("cache_dir"))
    return build_model_with_cfg(model_cls, variant, pretrained, feature_cfg=feature_cfg, **kwargs)
