"""Twins: settings, tags, weights and evaluation are the backbone's; MoEx is the only difference."""

import subprocess
import sys

import pytest
import timm
import torch
from architectures import ARCHS, images
from timm.models import get_pretrained_cfg, register_model

from timm_moex import find_moex, register_twin
from timm_moex.insertion.sites import family_of

IDX = torch.tensor([1, 2, 0])


def pair(arch, **kwargs):
    torch.manual_seed(1)
    plain = timm.create_model(arch, num_classes=10, **kwargs).eval()
    twin = timm.create_model(f"moex_{arch}", num_classes=10, **kwargs).eval()
    twin.load_state_dict(plain.state_dict(), strict=True)
    return plain, twin


@pytest.mark.parametrize("arch", ARCHS)
def test_evaluation_is_bit_equal_and_the_default_exchange_changes_the_logits(arch):
    plain, twin = pair(arch)
    x = images(arch)
    with torch.no_grad():
        expected = plain(x)
        assert torch.equal(twin(x), expected)
        exchanged = twin(x, swap_index=IDX)
        identity = twin(x, swap_index=torch.arange(3))
    assert list(plain.state_dict()) == list(twin.state_dict()) and type(plain) is type(twin)
    change = (exchanged - expected).norm() / expected.norm()
    rounding = (identity - expected).norm() / expected.norm()
    assert change > 2e-3 and change > 50 * rounding


def test_pono_before_a_channel_layer_norm_is_erased_and_so_not_the_default():
    twin = timm.create_model("moex_convnext_atto", moex_layer="stage1", moex_norm="pono", num_classes=10).eval()
    x = images("convnext_atto")
    with torch.no_grad():
        assert (twin(x, swap_index=IDX) - twin(x)).norm() / twin(x).norm() < 1e-3
    assert family_of(twin).norm == "in"


def test_settings_reach_the_model_and_show_in_its_repr():
    twin = timm.create_model(
        "moex_resnet10t",
        moex_layer=["stem", "C2"],
        moex_norm="gn-d4",
        moex_prob=0.25,
        moex_lam=0.5,
        moex_eps=1e-3,
        moex_positive_only=True,
        moex_moments="mean",
    )
    moex = find_moex(twin)
    assert (moex.prob, moex.lam, moex.site_names) == (0.25, 0.5, ("stem", "stage1"))
    shown = repr(moex)
    for text in ("prob=0.25", "lam=0.5", "norm='gn-d4'", "eps=0.001", "positive_only=True", "moments='mean'"):
        assert text in shown


def test_defaults_are_the_papers_imagenet_setting():
    moex = find_moex(timm.create_model("moex_resnet50"))
    (site,) = moex.sites
    assert (moex.lam, moex.prob, site.site.name) == (0.9, 1.0, "stem")
    assert (site.norm, site.eps, site.moments, site.positive_only) == ("pono", 1e-5, "both", False)


@pytest.mark.parametrize(
    "kwargs, error, message",
    [
        (dict(moex_lambda=0.9), TypeError, "'moex_lambda'.*did you mean 'moex_lam'"),
        (dict(moex_lam=2), ValueError, "lam=2"),
        (dict(moex_layer="stage7"), ValueError, "stem, stage1"),
        (dict(nonsense=1), TypeError, "nonsense"),
        (dict(features_only=True, moex_prob=5), ValueError, "prob=5"),
        (dict(scriptable=True, moex_prob=0.5), ValueError, "scriptable=True.*moex_prob"),
    ],
)
def test_bad_keywords_are_refused(kwargs, error, message):
    with pytest.raises(error, match=message):
        timm.create_model("moex_resnet10t", **kwargs)


def test_features_only_takes_the_settings_and_leaves_the_generator_alone():
    states = []
    for name, settings in (("resnet10t", {}), ("moex_resnet10t", dict(moex_prob=0.5, moex_norm="in"))):
        torch.manual_seed(0)
        features = timm.create_model(name, features_only=True, **settings)
        states.append((torch.get_rng_state(), list(features.state_dict())))
    assert find_moex(features).prob == 0.5 and find_moex(features).sites[0].norm == "in"
    assert len(features(images("resnet10t"), swap_index=IDX)) == 5
    assert torch.equal(states[0][0], states[1][0]) and states[0][1] == states[1][1]


def test_scriptable_gives_the_bare_backbone():
    bare = timm.create_model("moex_resnet10t", scriptable=True, num_classes=3)
    assert find_moex(bare) is None
    scripted = torch.jit.script(bare)
    with pytest.raises(RuntimeError, match="received 3 argument"):
        scripted(images("resnet10t"), swap_index=IDX)
    with pytest.raises(TypeError, match="swap_index"):
        bare(images("resnet10t"), swap_index=IDX)


@pytest.mark.parametrize("arch", ["resnet20_cifar", "efficientnet_lite0"])
def test_num_classes_in_chans_and_reset_classifier(arch):
    twin = timm.create_model(f"moex_{arch}", num_classes=7, in_chans=1)
    assert twin(images(arch, in_chans=1), swap_index=IDX).shape == (3, 7)
    twin.reset_classifier(4)
    assert twin(images(arch, in_chans=1), swap_index=IDX).shape == (3, 4)


def test_forward_intermediates_are_plain():
    plain, twin = pair("resnet10t")
    x = images("resnet10t")
    with torch.no_grad():
        twin(x, swap_index=IDX)
        for a, b in zip(plain.forward_intermediates(x)[1], twin.forward_intermediates(x)[1]):
            assert torch.equal(a, b)


def test_every_architecture_has_a_twin_with_timms_tags():
    plain = [name for name in timm.list_models() if not name.startswith("moex_")]
    assert [f"moex_{name}" for name in plain] == timm.list_models("moex_*")
    tags = [name for name in timm.list_pretrained() if not name.startswith("moex_")]
    assert {f"moex_{name}" for name in tags} <= set(timm.list_pretrained("moex_*"))


def test_a_tag_resolves_to_timms_own_repository():
    ours, theirs = get_pretrained_cfg("moex_resnet50.a1_in1k"), get_pretrained_cfg("resnet50.a1_in1k")
    assert ours.hf_hub_id == theirs.hf_hub_id == "timm/resnet50.a1_in1k"
    assert ours.architecture == "moex_resnet50" and ours.tag == "a1_in1k"
    assert (ours.mean, ours.license, ours.classifier) == (theirs.mean, theirs.license, theirs.classifier)
    assert get_pretrained_cfg("moex_resnet50").tag == get_pretrained_cfg("resnet50").tag
    with pytest.raises(RuntimeError, match="Invalid pretrained tag"):
        timm.create_model("moex_resnet50.no_such_tag")


def test_twin_states_the_stock_name_by_which_its_weights_load_and_its_tag():
    twin = timm.create_model("moex_resnet10t.c3_in1k")
    assert twin.pretrained_cfg["architecture"] == "resnet10t" and twin.pretrained_cfg["tag"] == "c3_in1k"


def test_pretrained_weights_load_from_a_file(tmp_path):
    from safetensors.torch import save_file

    plain = timm.create_model("resnet10t", num_classes=5).eval()
    save_file(plain.state_dict(), tmp_path / "model.safetensors")
    overlay = dict(file=str(tmp_path / "model.safetensors"), num_classes=5)
    twin = timm.create_model("moex_resnet10t", pretrained=True, pretrained_cfg_overlay=overlay).eval()
    x = images("resnet10t")
    assert torch.equal(twin(x), plain(x))
    adapted = dict(pretrained=True, pretrained_cfg_overlay=overlay, num_classes=3, in_chans=1)
    other = timm.create_model("moex_resnet10t", **adapted)
    assert other(images("resnet10t", in_chans=1)).shape == (3, 3)


def test_register_twin_supports_a_users_own_architecture():
    def my_resnet_for_test(pretrained=False, **kwargs):
        return timm.create_model("resnet10t", **{k: v for k, v in kwargs.items() if not k.startswith("pretrained")})

    my_resnet_for_test.__module__ = __name__
    register_model(my_resnet_for_test)
    assert register_twin("my_resnet_for_test") == "moex_my_resnet_for_test"
    twin = timm.create_model("moex_my_resnet_for_test", num_classes=3, moex_prob=0.5)
    assert find_moex(twin).prob == 0.5
    from timm.models import _registry  # leave the registry as it was, other tests count it

    for name in ("my_resnet_for_test", "moex_my_resnet_for_test"):
        _registry._model_entrypoints.pop(name)
        for models in _registry._module_to_models.values():
            models.discard(name)


def test_register_twin_rejects_a_name_that_is_not_an_architecture():
    with pytest.raises(ValueError, match="not a registered.*did you mean"):
        register_twin("resnet51")
    with pytest.raises(ValueError, match="already a twin"):
        register_twin("moex_resnet50")


def test_importing_touches_no_environment_and_no_logging():
    code = (
        "import os, logging; import timm; before = dict(os.environ); handlers = list(logging.getLogger().handlers)\n"
        "import timm_moex, torch; assert dict(os.environ) == before\n"
        "assert logging.getLogger().handlers == handlers and not torch.cuda.is_initialized()\n"
        "assert not any('triton' in name for name in __import__('sys').modules if name.startswith('timm_moex'))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
