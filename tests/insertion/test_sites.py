"""The site in each model class is the documented module, axis and tokens, and an exchange there has an effect."""

import csv
from pathlib import Path

import pytest
import timm
import torch
from timm.models import get_arch_pretrained_cfgs, get_pretrained_cfg, list_models, list_pretrained
from torch import nn
from zoo.small import SMALL, awaken, effect_of, images_for, model_of, tensors

from timm_moex import find_moex, insert_moex, moex_sites
from timm_moex.hub.manifest import released_weights
from timm_moex.insertion.families import FAMILIES
from timm_moex.insertion.locate import called_module

IDX = torch.tensor([1, 2, 0])
PLAIN = [arch for arch in list_models() if not arch.startswith("moex_")]

# Each takes more than a second or two; `make zoo` tests them.
SLOW = """CSATv2 CoaT ConvMixer CrossVit DPN DaVit EdgeNeXt EfficientFormer EfficientFormerV2 EfficientViM
EfficientViMDistilled EfficientVitLarge EfficientVitMsra FastVit FocalNet GhostNet GlobalContextVit HighPerfGpuNet
HighResolutionNet IFormer InceptionResnetV2 InceptionV3 InceptionV4 LCNetV2 Levit LevitDistilled LowFormer MetaFormer
MetaNeXt MlpMixer MobileNetV5 MobileNetV5Encoder MultiScaleVit NASNetALarge Nest NextViT PNASNet5Large
PyramidVisionTransformerV2 RDNet RepGhostNet RepVit ResNetV2 RexNet SENet SHViT SelecSls Sequencer2d SwiftFormer TNT
TResNet TinyVit Twins VGG VOLO Visformer Xception XceptionAligned""".split()
CLASSES = [pytest.param(name, marks=[pytest.mark.zoo] if name in SLOW else []) for name in SMALL]
every_class = pytest.mark.parametrize("model_class", CLASSES)


def entries(value, items: slice | None) -> list[torch.Tensor]:
    """Copy the tensors of a site, because some networks later change them in place."""
    values = list(value)[items] if items is not None and isinstance(value, (tuple, list)) else [value]
    return [x.detach().clone() for x in values]


def watch(model: nn.Module, site, seen: list) -> torch.utils.hooks.RemovableHandle:
    """Record what passes a site, after all hooks registered so far."""
    module = called_module(model, site)
    if site.hook_on == "input":
        return module.register_forward_pre_hook(lambda module, args: seen.append(entries(args[0], site.tuple_entries)))
    return module.register_forward_hook(lambda module, args, out: seen.append(entries(out, site.tuple_entries)))


def moments(x: torch.Tensor, layout: str, norm: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Independent implementation: mean and std of (B, …) by the letters of the layout."""
    channel = layout.index("C")
    dims = [channel] if norm == "pono" else [dim for dim in range(1, x.ndim) if dim != channel]
    x = x.double()
    return x.mean(dims, keepdim=True), (x.var(dims, keepdim=True) + 1e-5).sqrt()


@every_class
def test_small_model_is_of_its_class_and_in_the_table(model_class):
    with torch.device("meta"):
        model = model_of(model_class)
    assert type(model).__name__ == model_class
    assert any(cls.__name__ in FAMILIES for cls in type(model).__mro__)


@every_class
def test_twin_has_the_backbones_keys_and_evaluates_bit_for_bit(model_class):
    backbone, twin = model_of(model_class).eval(), model_of(model_class, "moex_").eval()
    assert list(backbone.state_dict()) == list(twin.state_dict())
    x = images_for(model_class)
    with torch.no_grad():
        assert all(torch.equal(a, b) for a, b in zip(tensors(backbone(x)), tensors(twin(x))))


@every_class
def test_every_site_takes_the_donors_moments_along_its_channel_axis(model_class):
    model = model_of(model_class).eval()
    awaken(model)
    sites, before, after = moex_sites(model), {}, {}
    for name, site in sites.items():
        watch(model, site, before.setdefault(name, []))
    insert_moex(model, list(sites))
    for name, site in sites.items():
        watch(model, site, after.setdefault(name, []))
    for name, site in sites.items():
        before[name].clear(), after[name].clear()
        with torch.no_grad():
            model(images_for(model_class), swap_index=IDX, swap_layer=name)
        (raw,), (exchanged,) = before[name], after[name]
        assert len(raw) == len(exchanged) > 0
        for x, y in zip(raw, exchanged):
            assert x.ndim == len(site.layout)
            prefix = site.prefix_tokens
            assert torch.equal(x[:, :prefix], y[:, :prefix]) or not prefix
            x, y = (x[:, prefix:], y[:, prefix:]) if prefix else (x, y)
            mean, std = moments(x, site.layout, site.norm)
            expected = (x - mean) / std * std[IDX] + mean[IDX]
            torch.testing.assert_close(y.double(), expected, rtol=1e-3, atol=1e-3 * expected.abs().max().item())
            donor_mean, _ = moments(y, site.layout, site.norm)
            torch.testing.assert_close(donor_mean, mean[IDX], rtol=1e-3, atol=1e-4 * expected.abs().max().item())


@every_class
def test_channels_are_the_axis_that_does_not_grow_with_the_image(model_class):
    small = SMALL[model_class]
    shapes = []
    for scale in (1, 2):
        side = small.side * scale
        larger = {"img_size": side} if "img_size" in small.kwargs else {}
        with torch.device("meta"):
            model = timm.create_model(small.arch, **{**small.kwargs, **larger}).eval()
            x = torch.zeros(2, 3, side, side)
        sites, seen = moex_sites(model), {}
        for name, site in sites.items():
            watch(model, site, seen.setdefault(name, []))
        try:
            model(x)
        except (AssertionError, RuntimeError):
            pytest.skip(f"{small.arch} only takes images of {small.side} pixels")
        shapes.append({name: [tuple(x.shape) for x in seen[name][0]] for name in sites})
    if shapes[0] == shapes[1]:
        pytest.skip(f"{small.arch} resizes all images to one size")
    for name, site in sites.items():
        for one, two in zip(shapes[0][name], shapes[1][name]):
            grown = "".join(letter for letter, a, b in zip(site.layout, one, two) if a != b)
            assert grown == site.layout.replace("N", "", 1).replace("C", ""), (name, one, two)


@every_class
def test_the_default_exchange_of_every_site_has_an_effect(model_class):
    model = model_of(model_class)
    awaken(model)
    insert_moex(model, list(moex_sites(model)))
    x = images_for(model_class)
    for name in find_moex(model).site_names:
        effect = effect_of(model, x, IDX, name)
        assert effect > (1e-3 if name == "stem" else 1e-4), f"{name}: {effect:.1e}"


@pytest.mark.zoo
@every_class
def test_gradients_under_checkpointing_are_those_without(model_class):
    grads = []
    for checkpointing in (False, True):
        model = model_of(model_class, "moex_").train()
        if checkpointing:
            try:
                model.set_grad_checkpointing(True)
            except (AssertionError, AttributeError):
                pytest.skip("timm has no checkpointing for this class")
        torch.manual_seed(2)
        sum(y.square().mean() for y in tensors(model(images_for(model_class), swap_index=IDX))).backward()
        grads.append([param.grad for param in model.parameters() if param.grad is not None])
    assert len(grads[0]) == len(grads[1])
    for a, b in zip(*grads):
        torch.testing.assert_close(a, b)


def test_the_last_stage_is_not_a_site_if_its_patch_tokens_are_unused():
    token = timm.create_model("vit_tiny_patch16_224", depth=3)
    assert list(moex_sites(token)) == ["stem", "stage1", "stage2"]
    for layer in ("stage3", "blocks.2"):
        with pytest.raises(ValueError, match="depend only on its class token"):
            insert_moex(token, layer)
    pooled = timm.create_model("vit_tiny_patch16_224", depth=3, global_pool="avg")
    assert "stage3" in moex_sites(pooled)


@pytest.mark.zoo
def test_crossvit_branches_have_their_channels_last():
    model, seen = model_of("CrossVit"), []
    watch(model, moex_sites(model)["stage1"], seen)
    model(images_for("CrossVit"))
    assert [x.shape[-1] for x in seen[0]] == [norm.normalized_shape[0] for norm in model.norm]


def test_convit_has_a_class_token_only_in_its_last_blocks():
    sites = moex_sites(timm.create_model("convit_tiny", global_pool="avg"))
    assert [site.prefix_tokens for site in sites.values()] == [0] * 11 + [1, 1]


def test_register_and_distillation_tokens_count_as_prefix():
    assert moex_sites(model_of("Eva"))["stage1"].prefix_tokens == 5
    assert moex_sites(model_of("VisionTransformerDistilled"))["stage1"].prefix_tokens == 2


def test_padded_naflex_batches_are_refused():
    model = insert_moex(model_of("NaFlexVit")).eval()
    batch = dict(
        patches=torch.zeros(3, 4, 16 * 16 * 3),
        patch_coord=torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]]).expand(3, 4, 2),
        patch_valid=torch.ones(3, 4, dtype=torch.bool),
    )
    assert model(batch).shape == (3, 1000)
    with pytest.raises(ValueError, match="padded patches"):
        model(batch, swap_index=IDX)
    with pytest.raises(ValueError, match="padded patches"):
        model(batch["patches"], batch["patch_coord"], patch_valid=batch["patch_valid"], swap_index=IDX)


def test_path_of_unknown_layout_needs_channel_dim():
    with pytest.raises(ValueError, match="channel_dim=1 or -1"):
        insert_moex(model_of("ConvNeXt"), "stages.0.blocks.0.mlp")
    model = insert_moex(model_of("ConvNeXt"), "stages.0.blocks.0.mlp", channel_dim=-1)
    assert find_moex(model).sites[0].channel_dim == -1


def test_path_of_a_known_site_is_that_site():
    exchange = find_moex(insert_moex(model_of("VisionTransformer"), "blocks.0")).sites[0]
    assert (exchange.site.layout, exchange.site.prefix_tokens, exchange.norm) == ("NLC", 1, "in")


class Later(nn.Module):
    """A class as a later timm could add it: not in the table, but with feature_info."""

    def __init__(self):
        super().__init__()
        self.body = nn.Conv2d(3, 8, 1)
        self.feature_info = [dict(module="body", num_chs=8, reduction=1)]

    def forward(self, x):
        return self.body(x).mean((2, 3))


def test_unknown_class_uses_feature_info_if_its_channel_axis_is_clear():
    model = insert_moex(Later())
    assert model(torch.randn(3, 3, 4, 4), swap_index=IDX).shape == (3, 8)


def test_unknown_class_is_rejected_if_its_channel_axis_is_ambiguous():
    model = insert_moex(Later())
    with pytest.raises(ValueError, match="ambiguous"):
        model(torch.randn(3, 3, 8, 8), swap_index=IDX)
    mislabelled = Later()
    mislabelled.feature_info[0]["num_chs"] = 16
    with pytest.raises(ValueError, match="ambiguous"):
        insert_moex(mislabelled)(torch.randn(3, 3, 4, 4), swap_index=IDX)


def test_a_user_class_with_the_name_of_a_family_is_not_mistaken_for_timms():
    class ResNet(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer1 = nn.Identity()

    assert moex_sites(ResNet()) == {}


def test_zoo_table_has_every_architecture_of_this_timm():
    table = Path(__file__).parents[2] / "benchmarks" / "results" / "zoo.csv"
    with table.open(newline="") as file:
        rows = {row["arch"]: row for row in csv.DictReader(file)}
    timms = {arch for arch in PLAIN if timm.models.model_entrypoint(arch).__module__.startswith("timm.")}
    assert timm.__version__ != "1.0.31" or timms == set(rows)
    assert {row["outcome"] for row in rows.values()} == {"ok"}


# Every pretrained tag


def test_every_architecture_has_a_twin():
    assert {f"moex_{arch}" for arch in PLAIN} == set(list_models("moex_*"))


def test_twins_have_timms_pretrained_tags_and_those_of_our_checkpoints():
    plain = {tag for tag in list_pretrained() if not tag.startswith("moex_")}
    assert sorted(list_pretrained("moex_*")) == sorted(f"moex_{tag}" for tag in plain | released_weights().keys())


def test_every_tag_resolves_to_timms_own_weights():
    for arch in PLAIN:
        own, twin = get_arch_pretrained_cfgs(arch), get_arch_pretrained_cfgs(f"moex_{arch}")
        ours = [name for name, entry in released_weights().items() if entry.architecture == arch and name not in own]
        assert [f"moex_{name}" for name in [*own, *ours]] == list(twin), arch
        for (name, a), b in zip(own.items(), twin.values()):
            assert b.has_weights == a.has_weights, name
            ignored = {"architecture", "hf_hub_id"}
            assert {k: v for k, v in vars(a).items() if k not in ignored} == {
                k: v for k, v in vars(b).items() if k not in ignored
            }, name
            hub_id = a.hf_hub_id + name if a.hf_hub_id and a.hf_hub_id.endswith("/") else a.hf_hub_id
            assert b.hf_hub_id == hub_id, name


def test_default_tag_is_timms():
    for arch in PLAIN:
        own, twin = get_pretrained_cfg(arch), get_pretrained_cfg(f"moex_{arch}")
        assert (own is None) == (twin is None), arch
        if own is not None:
            assert own.tag == twin.tag, arch
