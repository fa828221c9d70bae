"""The backbones behave as timm expects of a model; each family is tested on a small member."""

import copy

import pytest
import timm
import torch
from timm.models import group_parameters
from torch import nn

import timm_moex.models  # noqa: F401

# a registered name and what makes it small
SMALL = {
    "resnet20_cifar": dict(depth=14),
    "resnext29_8x64d_cifar": dict(depth=20, cardinality=2, base_width=4),
    "wrn16_4_cifar": dict(depths=(2, 1, 1), widths=(16, 24, 32)),
    "preact_resnet18_cifar": dict(depths=(2, 1, 1, 1), widths=(8, 16, 24, 32), stem_chs=8),
    "densenet_bc100_12_cifar": dict(depth=16, growth_rate=4),
    "pyramidnet110_a270_cifar": dict(depth=14, alpha=18),
    "pyramidnet200_a240_cifar": dict(depth=20, alpha=18),
}
DROP_PATH = [name for name in SMALL if not name.startswith("densenet")]


@pytest.fixture(params=SMALL)
def name(request):
    return request.param


def small(name, seed=0, **kwargs):
    torch.manual_seed(seed)
    model = timm.create_model(name, **SMALL[name], **kwargs)
    for m in model.modules():  # so that no norm is the identity in evaluation
        if isinstance(m, nn.BatchNorm2d):
            nn.init.uniform_(m.running_mean, -0.3, 0.3)
            nn.init.uniform_(m.running_var, 0.5, 2.0)
    return model.eval()


def images(size=16, channels=3):
    return torch.randn(2, channels, size, size, generator=torch.Generator().manual_seed(1))


def test_default_cfg_describes_the_model(name):
    model = small(name)
    cfg = model.default_cfg
    assert cfg["input_size"] == (3, 32, 32) and cfg["num_classes"] == 10 and not cfg["fixed_input_size"]
    assert cfg["architecture"] == name and cfg["paper_ids"].startswith("arXiv:")
    features = model.forward_features(torch.randn(1, *cfg["input_size"]))
    assert tuple(features.shape[-2:]) == cfg["pool_size"]
    assert model.get_submodule(cfg["first_conv"]).in_channels == 3
    assert model.get_submodule(cfg["classifier"]) is model.get_classifier()
    assert not timm.is_model_pretrained(name)


@pytest.mark.parametrize("size", [28, 33, 9])
def test_any_image_size_and_channel_number_is_accepted(name, size):
    model = small(name, in_chans=1, num_classes=7)
    assert model(images(size, 1)).shape == (2, 7)


def test_unknown_argument_is_a_type_error(name):
    with pytest.raises(TypeError, match="stem_width"):
        small(name, stem_width=3)


def test_features_only_and_forward_intermediates_agree(name):
    model, x = small(name), images()
    state, features = model.state_dict(), model.forward_features(x)
    final, intermediates = model.forward_intermediates(x)
    assert torch.equal(final, features)
    for kwargs in ({}, dict(feature_cls="getter"), dict(feature_cls="hook"), dict(feature_cfg=dict(feature_cls="fx"))):
        net = small(name, features_only=True, **kwargs)
        for key, tensor in net.state_dict().items():  # the wrappers put "body.", "model." or "graph_module." in front
            tensor.copy_(state[key if key in state else key.partition(".")[2]])
        outputs = net(x)
        assert len(outputs) == len(model.feature_info)
        for out, intermediate, info in zip(outputs, intermediates, net.feature_info.get_dicts()):
            assert torch.equal(out, intermediate)
            assert out.shape == (2, info["num_chs"], 16 // info["reduction"], 16 // info["reduction"])


def test_features_only_accepts_out_indices(name):
    net = small(name, features_only=True, out_indices=(1, -1))
    assert [f.shape[1] for f in net(images())] == net.feature_info.channels()
    assert len(net.feature_info.channels()) == 2
    assert len(small(name, features_only=True, feature_cfg=dict(out_indices=(1,))).feature_info.channels()) == 1


def test_forward_intermediates_options(name):
    model, x = small(name), images()
    features, every = model.forward_intermediates(x)
    last = len(every) - 1
    picked = model.forward_intermediates(x, indices=[0, 2], intermediates_only=True)
    assert len(picked) == 2 and torch.equal(picked[0], every[0]) and torch.equal(picked[1], every[2])
    assert torch.equal(model.forward_intermediates(x, indices=1, intermediates_only=True)[0], every[last])
    stopped, taken = model.forward_intermediates(x, indices=[1], stop_early=True)
    assert torch.equal(stopped, every[1]) and torch.equal(taken[0], every[1])
    normed = model.forward_intermediates(x, indices=1, norm=True, intermediates_only=True)[0]
    assert torch.equal(normed, features)
    for bad in ([last + 1], last + 2, [], 0):
        with pytest.raises(ValueError, match="indices"):
            model.forward_intermediates(x, indices=bad)
    with pytest.raises(ValueError, match="NHWC"):
        model.forward_intermediates(x, output_fmt="NHWC")


@pytest.mark.parametrize("index", [0, 1, -1])
def test_pruning_keeps_what_was_asked_for(name, index):
    model, x = small(name), images()
    _, every = model.forward_intermediates(x)
    kept = model.prune_intermediate_layers([index])
    assert kept == [index % len(every)]
    out = model.forward_intermediates(x, indices=kept, stop_early=True, intermediates_only=True)[0]
    assert torch.equal(out, every[index])
    assert isinstance(model.fc, nn.Identity) and model(x).shape[1] == model.num_features == every[index].shape[1]
    model.set_grad_checkpointing()
    assert torch.equal(model(x), model.set_grad_checkpointing(False) or model(x))


def test_head_gives_logits_or_what_precedes_them(name):
    model, x = small(name), images()
    features = model.forward_features(x)
    pre_logits = model.forward_head(features, pre_logits=True)
    assert pre_logits.shape == (2, model.head_hidden_size)
    assert torch.equal(model.fc(pre_logits), model(x))
    torch.testing.assert_close(pre_logits, features.mean((2, 3)))


def test_reset_classifier_changes_classes_and_pooling(name):
    model, x = small(name), images()
    model.reset_classifier(3)
    assert model.num_classes == 3 and model(x).shape == (2, 3) and not model.fc.training
    model.reset_classifier(4, "catavgmax")
    assert model.head_hidden_size == 2 * model.num_features and model(x).shape == (2, 4)
    model.reset_classifier(0)
    assert model(x).shape == (2, 2 * model.num_features)
    model.reset_classifier(0, "")
    assert torch.equal(model(x), model.forward_features(x))
    model.to(torch.float64).reset_classifier(5, "avg")
    assert model.fc.weight.dtype == torch.float64


def test_checkpointed_gradients_are_bit_exact(name):
    plain = small(name, drop_rate=0.1).train()
    checkpointed = copy.deepcopy(plain)
    checkpointed.set_grad_checkpointing()
    grads = []
    for model in (plain, checkpointed):
        torch.manual_seed(2)
        model(images().requires_grad_()).square().sum().backward()
        grads.append({k: p.grad for k, p in model.named_parameters()})
    assert all(torch.equal(grads[0][k], grads[1][k]) for k in grads[0])


@pytest.mark.parametrize("checkpointing", [False, True])
def test_hook_at_the_last_block_of_every_stage_fires_once(name, checkpointing):
    model = small(name)
    model.set_grad_checkpointing(checkpointing)
    fired = []
    for info in model.feature_info[1:]:
        stage = info["module"]
        model.get_submodule(stage)[-1].register_forward_hook(lambda *_, stage=stage: fired.append(stage))
    with torch.no_grad():
        model(images())
    assert fired == [info["module"] for info in model.feature_info[1:]]


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning", "ignore:.*torch.jit:DeprecationWarning")
def test_script_agrees_with_eager(name):
    model, x = small(name, drop_rate=0.2), images()
    torch.testing.assert_close(torch.jit.script(model)(x), model(x))


@pytest.mark.parametrize("coarse", [False, True])
def test_group_matcher_covers_all_parameters_from_stem_to_head(name, coarse):
    model = small(name)
    groups = group_parameters(model, model.group_matcher(coarse=coarse), reverse=True)
    assert set(groups) == {k for k, _ in model.named_parameters()}
    stages = [model.get_submodule(info["module"]) for info in model.feature_info[1:]]
    blocks = len(stages) if coarse else sum(len(stage) for stage in stages)
    assert groups["conv1.weight"] == 0
    assert groups["fc.weight"] == groups["fc.bias"] == 1 + blocks
    if not isinstance(model.norm, nn.Identity):  # like timm's, it goes with the last block
        assert groups["norm.weight"] == blocks
    in_order = [groups[k] for k, _ in model.named_parameters()]
    assert in_order == sorted(in_order)


@pytest.mark.parametrize("name", DROP_PATH)
def test_drop_path_acts_in_training_only_and_grows_with_depth(name):
    model, plain = small(name, drop_path_rate=0.5), small(name)
    rates = [m.drop_prob for m in model.modules() if type(m).__name__ == "DropPath"]
    assert rates == sorted(rates) and rates[-1] == pytest.approx(0.5)
    assert torch.equal(model(images()), plain(images()))
    assert not torch.equal(model.train()(images()), plain.train()(images()))


@pytest.mark.parametrize("name", ["wrn16_4_cifar", "densenet_bc100_12_cifar"])
def test_dropout_in_the_blocks_acts_in_training_only(name):
    model, plain = small(name, proj_drop_rate=0.3), small(name)
    assert torch.equal(model(images()), plain(images()))
    assert not torch.equal(model.train()(images()), plain.train()(images()))


def test_act_and_norm_layers_are_accepted_by_name(name):
    model = small(name, act_layer="silu", norm_layer="groupnorm1")
    kinds = {type(m).__name__ for m in model.modules()}
    assert "SiLU" in kinds and "GroupNorm1" in kinds and not kinds & {"ReLU", "BatchNorm2d"}
    assert model(images()).shape == (2, 10)


def test_densenet265_is_timms_densenet():
    model = timm.create_model("densenet265", block_config=(1, 1, 1, 1), growth_rate=8, num_classes=5)
    assert type(model) is timm.models.DenseNet and model(torch.randn(2, 3, 64, 64)).shape == (2, 5)
    features = timm.create_model("densenet265", block_config=(1, 1, 1, 1), growth_rate=8, features_only=True)
    assert [f.shape[-1] for f in features(torch.randn(2, 3, 64, 64))] == [32, 16, 8, 4, 2]
    assert model.default_cfg["input_size"] == (3, 224, 224) and model.default_cfg["num_classes"] == 1000
