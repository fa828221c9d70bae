"""One small model per timm model class, at the smallest image size that gives every stage more than one position."""

from typing import Any, NamedTuple

import timm
import torch
from torch import nn


class Small(NamedTuple):
    """Architecture, image side in pixels, and the arguments that make it smaller."""

    arch: str
    side: int = 64
    kwargs: dict[str, Any] = {}


_VIT = dict(img_size=64, depth=3)
_TINY_VIT = dict(img_size=64, depth=3, embed_dim=96, num_heads=3)
_GEMMA = dict(
    img_size=96, depth=3, embed_dim=96, num_heads=2, head_dim=48, intermediate_size=128, position_embedding_size=64
)
_SWIN = dict(img_size=64, depths=(1, 1, 1, 1), embed_dim=24, num_heads=(1, 1, 2, 2), window_size=2)

# Keyed by the model's class.
SMALL: dict[str, Small] = {
    "Beit": Small("beit_base_patch16_224", 64, _TINY_VIT),
    "ByobNet": Small("test_byobnet"),
    "CPUBone": Small("cpubone_nano"),
    "CSATv2": Small("csatv2", 128),
    "Cait": Small("cait_xxs24_224", 64, _VIT),
    "CoaT": Small("coat_tiny", 64, dict(img_size=64)),
    "ConVit": Small("convit_tiny", 64, dict(img_size=64, depth=3, local_up_to_layer=2)),
    "ConvMixer": Small("convmixer_768_32"),
    "ConvNeXt": Small("test_convnext"),
    "CrossVit": Small("crossvit_tiny_240", 240),
    "CspNet": Small("cs3darknet_focus_s"),
    "CspNext": Small("cspnext_tiny"),
    "DLA": Small("dla46x_c"),
    "DPN": Small("dpn48b"),
    "DaVit": Small("davit_tiny", 64, dict(depths=(1, 1, 1, 1), embed_dims=(32, 64, 64, 96), num_heads=(1, 2, 2, 3))),
    "DeepseekVitClassifier": Small("deepseek_vit_412m", 112, dict(_TINY_VIT, img_size=112)),
    "DeepseekVitEncoder": Small("deepseek_vit_412m_enc", 112, dict(_TINY_VIT, img_size=112, out_features=32)),
    "DenseNet": Small("densenet121", 64, dict(block_config=(2, 2, 2, 2))),
    "EdgeNeXt": Small("edgenext_xx_small"),
    "EfficientFormer": Small("efficientformer_l1", 224),
    "EfficientFormerV2": Small("efficientformerv2_s0", 64, dict(img_size=64)),
    "EfficientNet": Small("test_efficientnet"),
    "EfficientViM": Small("efficientvim_m1", 96),
    "EfficientViMDistilled": Small("efficientvim_m1_dist", 96),
    "EfficientVit": Small("efficientvit_b0"),
    "EfficientVitLarge": Small("efficientvit_l1"),
    "EfficientVitMsra": Small("efficientvit_m0", 96, dict(img_size=96)),
    "Eva": Small("vit_tiny_patch16_dinov3_qkvb", 64, _VIT),
    "FastVit": Small("fastvit_t8"),
    "FasterNet": Small("fasternet_t0"),
    "FocalNet": Small("focalnet_tiny_srf"),
    "Gemma4VitClassifier": Small("gemma4_vit_167m", 96, _GEMMA),
    "Gemma4VitEncoder": Small("gemma4_vit_167m_enc", 96, _GEMMA),
    "GhostNet": Small("ghostnet_050"),
    "GlobalContextVit": Small("gcvit_xxtiny", 64, dict(img_size=64)),
    "Hiera": Small("hiera_tiny_224", 64, dict(img_size=64, embed_dim=24)),
    "HieraDet": Small("sam2_hiera_tiny", 64, dict(embed_dim=24)),
    "HighPerfGpuNet": Small("hgnetv2_b0"),
    "HighResolutionNet": Small("hrnet_w18_small"),
    "IFormer": Small("iformer_t"),
    "InceptionResnetV2": Small("inception_resnet_v2", 112),
    "InceptionV3": Small("inception_v3", 112),
    "InceptionV4": Small("inception_v4", 112),
    "LCNetV2": Small("lcnetv2_small"),
    "Levit": Small("levit_256d", 96, dict(img_size=96)),
    "LevitDistilled": Small("levit_conv_128s", 96, dict(img_size=96)),
    "LowFormer": Small("lowformer_b0"),
    "MambaOut": Small("test_mambaout"),
    "MaxxVit": Small("test_coatnet", 64, dict(img_size=64)),
    "MetaFormer": Small("poolformerv2_s12"),
    "MetaNeXt": Small("inception_next_atto"),
    "MlpMixer": Small("gmlp_ti16_224", 64, dict(img_size=64)),
    "MobileNetV3": Small("mobilenetv3_small_050"),
    "MobileNetV5": Small("mobilenetv5_base", 64, dict(channel_multiplier=0.25)),
    "MobileNetV5Encoder": Small("mobilenetv5_300m_enc", 64, dict(channel_multiplier=0.25)),
    "MultiScaleVit": Small("mvitv2_tiny", 64, dict(img_size=64)),
    "NASNetALarge": Small("nasnetalarge", 64, dict(num_features=1344)),
    "NaFlexVit": Small("naflexvit_base_patch16_gap", 64, _TINY_VIT),
    "Nest": Small("nest_tiny", 64, dict(img_size=64)),
    "NextViT": Small("nextvit_small"),
    "NormFreeNet": Small("test_nfnet"),
    "PNASNet5Large": Small("pnasnet5large"),
    "PoolingVisionTransformer": Small("pit_ti_224", 64, dict(img_size=64)),
    "PyramidVisionTransformerV2": Small("pvt_v2_b0"),
    "Qwen3VitClassifier": Small("qwen3_vit_88m", 64, _TINY_VIT),
    "Qwen3VitEncoder": Small("qwen3_vit_88m_enc", 64, dict(_TINY_VIT, out_features=32)),
    "RDNet": Small("rdnet_tiny"),
    "RegNet": Small("regnetx_002"),
    "RepGhostNet": Small("repghostnet_050"),
    "RepVit": Small("repvit_m1"),
    "ResNet": Small("test_resnet"),
    "ResNetV2": Small("resnetv2_18"),
    "RexNet": Small("rexnet_100"),
    "SENet": Small("legacy_seresnet18"),
    "SHViT": Small("shvit_s1", 96),
    "SelecSls": Small("selecsls42", 96),
    "Sequencer2d": Small("sequencer2d_s", 64, dict(img_size=64, layers=(1, 1, 1, 1))),
    "StarNet": Small("starnet_s050"),
    "SwiftFormer": Small("swiftformer_xs", 64, dict(img_size=64)),
    "SwinTransformer": Small("swin_tiny_patch4_window7_224", 64, _SWIN),
    "SwinTransformerV2": Small("swinv2_tiny_window8_256", 64, _SWIN),
    "SwinTransformerV2Cr": Small("swinv2_cr_tiny_224", 64, _SWIN),
    "TNT": Small("tnt_s_legacy_patch16_224", 64, _VIT),
    "TResNet": Small("tresnet_m", 64, dict(layers=(1, 1, 1, 1))),
    "TinyVit": Small("tiny_vit_5m_224"),
    "Twins": Small("twins_svt_small", 64, dict(img_size=64, depths=(2, 2, 2, 2))),
    "VGG": Small("vgg11"),
    "VOLO": Small("volo_d1_224", 64, dict(img_size=64)),
    "Visformer": Small("visformer_tiny", 64, dict(img_size=64)),
    "VisionTransformer": Small("test_vit", 64, dict(img_size=64, depth=3)),
    "VisionTransformerDistilled": Small("deit_tiny_distilled_patch16_224", 64, _VIT),
    "VisionTransformerRelPos": Small("test_vit_relpos", 64, dict(img_size=64, depth=3)),
    "VisionTransformerSAM": Small("samvit_base_patch16_224", 64, _TINY_VIT),
    "VovNet": Small("ese_vovnet19b_slim_dw"),
    "Xception": Small("legacy_xception"),
    "XceptionAligned": Small("xception41p"),
    "Xcit": Small("xcit_nano_12_p8_224", 64, _VIT),
}


def model_of(model_class: str, prefix: str = "", **settings) -> nn.Module:
    """The class's small model, or with `moex_` its twin; the same weights for the same seed."""
    small = SMALL[model_class]
    torch.manual_seed(0)
    return timm.create_model(prefix + small.arch, **small.kwargs, **settings)


def images_for(model_class: str, batch: int = 3) -> torch.Tensor:
    """Noise on two scales, of another mean and contrast in every image: (batch, 3, side, side)."""
    side = SMALL[model_class].side
    torch.manual_seed(1)
    rough = nn.functional.interpolate(torch.randn(batch, 3, 7, 7), size=side, mode="bicubic")
    contrast = torch.linspace(0.5, 2, batch).view(-1, 1, 1, 1)
    return (torch.randn(batch, 3, side, side) + rough) * contrast + torch.randn(batch, 3, 1, 1)


@torch.no_grad()
def awaken(model: nn.Module) -> None:
    """Give weights that start near zero (LayerScale, zero-initialised residuals and heads) a size that matters."""
    for param in model.parameters():
        if param.abs().max() < 1e-3:
            param.copy_(torch.randn_like(param) * 0.02 if param.ndim > 1 else torch.full_like(param, 0.5))


def tensors(output) -> list[torch.Tensor]:
    """Every tensor in a model's output."""
    if isinstance(output, torch.Tensor):
        return [output]
    values = output.values() if isinstance(output, dict) else output
    return [x for value in values for x in tensors(value)]


@torch.no_grad()
def effect_of(model: nn.Module, x: torch.Tensor, swap_index: torch.Tensor, swap_layer: str | None = None) -> float:
    """Change of the output by an exchange, relative to its norm, in training mode (BatchNorm at work), no dropout."""
    model.train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    plain = tensors(model(x, swap_index=None))
    exchanged = tensors(model(x, swap_index=swap_index, swap_layer=swap_layer))
    difference = sum((a - b).square().sum() for a, b in zip(plain, exchanged))
    return (difference / sum(a.square().sum() for a in plain)).sqrt().item()


@torch.no_grad()
def class_facts(model_class: str) -> tuple[str, str]:
    """For the zoo table: does the twin evaluate as the backbone, bit for bit, and how much does the exchange change?"""
    x = images_for(model_class)
    twin = model_of(model_class, "moex_").eval()
    pairs = zip(tensors(model_of(model_class).eval()(x)), tensors(twin(x)))
    equal = all(torch.equal(a, b) for a, b in pairs)
    awaken(twin)
    return str(equal), f"{effect_of(twin, x, torch.tensor([1, 2, 0])):.1e}"
