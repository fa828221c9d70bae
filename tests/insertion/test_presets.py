"""Presets define every default; with several sites, each exchanges exactly as often as requested."""

import pytest
import timm
import torch
from small_twins import IDX, SMALL, images, twin
from zoo.small import SMALL as CLASSES
from zoo.small import awaken, effect_of, images_for, model_of

from timm_moex import exchanging, find_moex, insert_moex, match_distribution, moment_exchange
from timm_moex.insertion.presets import PRESETS, find_preset

SHARE = torch.tensor([0.0, 0.3, 1.0, 0.6])


def mixstyle(**settings):
    return twin("resnet10t", moex_preset="mixstyle", **settings)


@pytest.mark.parametrize(
    "preset, sites, first",
    [
        ("moex", ("stem",), dict(norm="pono", detach="none", match="moments", eps=1e-5)),
        ("padain", ("stem", "stage1", "stage2", "stage3", "stage4"), dict(norm="in", detach="donor", eps=1e-5)),
        ("mixstyle", ("stage1", "stage2", "stage3"), dict(norm="in", detach="both", match="moments", eps=1e-6)),
        ("freq_mixstyle", ("stem",), dict(norm="freq", detach="both", match="moments", eps=1e-6)),
        ("efdmix", ("stage1", "stage2", "stage3"), dict(norm="in", detach="none", match="distribution")),
    ],
)
def test_a_preset_sets_sites_and_settings_and_shows_them(preset, sites, first):
    moex = find_moex(twin("resnet10t", moex_preset=preset))
    assert moex.site_names == sites and moex.preset == preset
    assert {key: getattr(moex.sites[0], key) for key in first} == first
    assert moex.per_site is (preset != "moex") and moex.lam == (0.9 if preset == "moex" else 1.0)
    assert (f"preset={preset!r}" in repr(moex)) == (preset != "moex") and f"norm={first['norm']!r}" in repr(moex)


def test_single_settings_override_the_preset():
    moex = find_moex(mixstyle(moex_layer="stage2", moex_prob=0.9, moex_alpha=0.3, moex_eps=1e-3, moex_norm="pono"))
    assert moex.site_names == ("stage2",) and (moex.prob, moex.alpha) == (0.9, 0.3)
    assert (moex.sites[0].eps, moex.sites[0].norm, moex.sites[0].detach) == (1e-3, "pono", "both")
    assert find_moex(mixstyle(moex_alpha=0.0)).alpha == 0.0


def at_site(model, name, x, change):
    """The logits if `change` is applied by hand to the output of a ResNet's stage."""
    handle = model.get_submodule(f"layer{name[-1]}").register_forward_hook(lambda module, args, out: change(out))
    try:
        return model(x)
    finally:
        handle.remove()


def test_several_sites_exchange_as_written_by_hand():
    model, plain, x = mixstyle().eval(), twin("resnet10t").eval(), images("resnet10t")
    indexes = {"stage1": IDX, "stage3": IDX.flip(0)}
    shares = {"stage1": SHARE, "stage3": SHARE.flip(0)}
    for module, name in ((plain.layer1, "stage1"), (plain.layer3, "stage3")):

        def exchange(module, args, out, name=name):
            return moment_exchange(out, indexes[name], norm="in", eps=1e-6, own_share=shares[name], detach="both")

        module.register_forward_hook(exchange)
    expected = plain(x)
    torch.testing.assert_close(model(x, swap_index=indexes, own_share=shares), expected)
    with exchanging(torch.nn.Sequential(model), indexes, own_share=shares):
        torch.testing.assert_close(model(x), expected)
    aliases = {"C2": IDX, "stage2": None, "C4": IDX.flip(0)}
    torch.testing.assert_close(model(x, swap_index=aliases, own_share=shares), expected)
    assert torch.equal(model(x, swap_index={"C2": None}), model(x))
    with pytest.raises(ValueError, match="swap_index={}: expected at least one site"):
        model(x, swap_index={})


def test_a_share_for_all_sites_and_matched_distributions():
    model, plain, x = twin("resnet10t", moex_preset="efdmix").eval(), twin("resnet10t").eval(), images("resnet10t")
    expected = at_site(plain, "stage2", x, lambda out: match_distribution(out, IDX, own_share=SHARE))
    torch.testing.assert_close(model(x, swap_index=IDX, swap_layer="stage2", own_share=SHARE), expected)
    torch.testing.assert_close(model(x, swap_index={"stage2": IDX}, own_share=SHARE), expected)


@pytest.mark.parametrize(
    "call, error, words",
    [
        (dict(swap_index={"stage9": IDX}), ValueError, "swap_index='stage9' is not one of.*did you mean 'stage"),
        (dict(swap_index={"stage1": IDX, "C2": IDX}), ValueError, "names the site 'stage1' twice"),
        (
            dict(swap_index={"stage1": IDX}, swap_layer="stage1"),
            ValueError,
            "the keys of swap_index already name the sites",
        ),
        (dict(swap_index=IDX), ValueError, "several MoEx layers; pass swap_layer"),
        (dict(swap_index={"stage1": IDX}, own_share={"stage2": SHARE}), ValueError, "own_share names 'stage2'"),
        (dict(swap_index=IDX, swap_layer="C2", own_share={"C2": SHARE}), TypeError, "pass both as mappings by site"),
        (dict(own_share=SHARE), ValueError, "has no effect without swap_index; pass swap_index as well"),
        (dict(swap_index={"stage1": IDX[:2]}), ValueError, "swap_index must have shape"),
        (dict(swap_index={"stage1": [1, 2, 3, 0]}), TypeError, "swap_index must be a tensor"),
        (dict(swap_index={"stage1": IDX}, own_share=2 * SHARE), ValueError, "own_share=2.0"),
    ],
)
def test_wrong_calls_are_rejected_and_leave_no_state_behind(call, error, words):
    model, x = mixstyle().eval(), images("resnet10t")
    before = model(x)
    with pytest.raises(error, match=words):
        model(x, **call)
    assert torch.equal(model(x), before)


def test_labels_are_mixed_by_one_permutation():
    model, x = mixstyle(moex_lam=0.9, moex_per_site=False).eval(), images("resnet10t")
    model(x, swap_index={"stage1": IDX, "stage2": IDX})
    with pytest.raises(ValueError, match="lam=0.9 mixes labels with one permutation"):
        model(x, swap_index={"stage1": IDX, "stage2": IDX.flip(0)})
    with pytest.raises(ValueError, match="per_site=True with lam=0.9 at 3 sites"):
        mixstyle(moex_lam=0.9)


def test_a_site_that_is_not_reached_is_an_error():
    model, x = mixstyle(), images("resnet10t")
    with pytest.raises(RuntimeError, match="site 'stage3' exchanged 0 times"):
        with exchanging(model, {"stage1": IDX, "stage3": IDX}):
            model.layer1(model.maxpool(model.act1(model.bn1(model.conv1(x)))))


@pytest.mark.parametrize(
    "settings, words",
    [
        (dict(preset="mixstile"), "preset='mixstile': expected one of .*did you mean 'mixstyle'"),
        (dict(alpha=-1.0), "alpha=-1.0: expected a finite number"),
        (dict(alpha=True), "alpha=True: expected"),
        (dict(per_site="yes"), "per_site='yes': expected True or False"),
        (dict(off_epoch=-1), "off_epoch=-1: expected an integer"),
        (dict(warmup_epochs=1.5), "warmup_epochs=1.5: expected an integer"),
        (dict(detach="all"), "detach='all': expected one of"),
        (dict(match="values"), "match='values': expected one of"),
        (dict(match="distribution"), "match='distribution' requires norm='in'"),
        (dict(preset="efdmix", norm="pono"), "match='distribution' requires norm='in'.*norm='pono'"),
    ],
)
def test_wrong_settings_are_refused_by_name(settings, words):
    model = timm.create_model("test_resnet")
    with pytest.raises(ValueError, match=words):
        insert_moex(model, **settings)
    assert find_moex(model) is None


@pytest.mark.parametrize(
    "arch, words",
    [
        ("vit_tiny_patch16_224", "norm='freq': stem of VisionTransformer contains tokens"),
        ("convnext_atto", "norm='freq': stem of ConvNeXt is followed by a LayerNorm"),
        ("swin_tiny_patch4_window7_224", "norm='freq': stem of SwinTransformer is followed by a LayerNorm"),
    ],
)
def test_norm_freq_is_rejected_at_sites_without_frequencies_or_effect(arch, words):
    with pytest.raises(ValueError, match=words):
        twin(arch, moex_preset="freq_mixstyle")


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("arch", SMALL)
def test_every_preset_trains_in_every_family_or_is_refused(arch, preset):
    if preset == "freq_mixstyle" and arch.startswith(("vit", "swin", "convnext")):
        pytest.skip("refused, see above")
    layers = {} if preset != "padain" else {"moex_layer": ["stem", "stage1", "stage2"]}  # later ones are 1x1 here
    model, x = twin(arch, moex_preset=preset, **layers).train(), images(arch)
    moex = find_moex(model)
    index = {name: IDX for name in moex.site_names}
    before = [p.detach().clone() for p in model.parameters()]
    model(x, swap_index=index, own_share=SHARE).square().mean().backward()
    assert all(torch.equal(p, q) for p, q in zip(before, model.parameters()))
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
    model.eval()
    with torch.no_grad():
        exchanged, plain = model(x, swap_index=index), model(x)
    assert (exchanged - plain).abs().max() > 1e-4


FEW = ["ResNet", "EfficientNet", "RegNet", "DenseNet", "ConvNeXt", "VisionTransformer", "SwinTransformer", "MambaOut"]
EVERY = [pytest.param(name, marks=[] if name in FEW else [pytest.mark.zoo]) for name in CLASSES]


@pytest.mark.parametrize("preset", ["mixstyle", "efdmix"])
@pytest.mark.parametrize("model_class", EVERY)
def test_the_first_stages_show_in_the_logits_of_every_class(model_class, preset):
    model = model_of(model_class)
    awaken(model)
    insert_moex(model, preset=preset)
    x = images_for(model_class)
    for name in find_moex(model).site_names:
        effect = effect_of(model, x, torch.tensor([1, 2, 0]), name)
        assert effect > 1e-4, f"{name}: {effect:.1e}"


def test_find_preset_names_its_source():
    assert "2104.02008" in find_preset("mixstyle").source and "2010.05785" in find_preset("padain").source


def test_the_old_names_of_two_settings_still_work_and_warn():
    with pytest.warns(DeprecationWarning, match="ramp_epochs is now called warmup_epochs"):
        moex = find_moex(twin("resnet10t", moex_ramp_epochs=3, moex_lam=1.0))
    assert moex.warmup_epochs == 3
    with pytest.warns(DeprecationWarning, match="each_site"), pytest.raises(TypeError, match="pass only per_site"):
        insert_moex(timm.create_model("resnet10t"), each_site=True, per_site=False)
