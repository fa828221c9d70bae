"""Inside `exchanging`, every path through a model exchanges exactly once or raises; outside, training warns."""

import copy
import warnings

import pytest
import timm
import torch
from small_twins import IDX, SMALL, images, twin
from timm.models import FeatureListNet
from torch import nn

from timm_moex import exchanging, find_moex, insert_moex, remove_moex


@pytest.fixture(params=SMALL)
def arch(request):
    return request.param


class Wrapper(nn.Module):
    """A user's module that contains a twin."""

    def __init__(self, backbone, times=1):
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(10, 10)
        self.times = times

    def forward(self, x):
        return self.head(sum(self.backbone(x) for _ in range(self.times)))


@torch.no_grad()
def test_forward_features_and_head_are_the_models_own_exchange(arch):
    model, x = twin(arch).eval(), images(arch)
    expected, plain = model(x, swap_index=IDX), model(x)
    with exchanging(model, IDX):
        features = model.forward_features(x)
    assert torch.equal(model.forward_head(features), expected) and not torch.equal(expected, plain)
    with exchanging(model, IDX):
        assert torch.equal(model(x), expected)
    with exchanging(model, None):
        assert torch.equal(model(x), plain)
    assert torch.equal(model.forward_head(model.forward_features(x)), plain)


@torch.no_grad()
def test_forward_intermediates_exchange(arch):
    model, x = twin(arch).eval(), images(arch)
    with exchanging(model, IDX):
        final, exchanged = model.forward_intermediates(x)
    _, plain = model.forward_intermediates(x)
    assert not all(torch.equal(a, b) for a, b in zip(exchanged, plain))
    with exchanging(model, IDX):
        assert torch.equal(model.forward_features(x), final)


@torch.no_grad()
def test_a_twin_inside_a_module_and_under_a_deep_copy():
    net, x = Wrapper(twin("resnet10t")).eval(), images("resnet10t")
    expected = net.head(net.backbone(x, swap_index=IDX))
    copied = copy.deepcopy(net)
    for m in (net, copied):
        with exchanging(m, IDX):
            assert torch.equal(m(x), expected)
    with exchanging(net, IDX), pytest.raises(RuntimeError, match="0 times"), exchanging(copied, IDX):
        net(x)


@torch.no_grad()
def test_layers_cut_out_of_a_twin_exchange():
    model, x = twin("resnet10t").eval(), images("resnet10t")
    with exchanging(model, IDX):
        expected = model.forward_features(x)
    body = nn.Sequential(*list(model.children())[:-2])  # without global_pool and fc
    assert find_moex(body) is model.moex
    for m in (body, copy.deepcopy(body)):
        with exchanging(m, IDX):
            assert torch.equal(m(x), expected)


@pytest.mark.parametrize("times", [0, 2])
def test_a_body_that_exchanges_another_number_of_times_raises(times):
    net, x = Wrapper(twin("resnet10t"), times).eval(), images("resnet10t")
    with pytest.raises(RuntimeError, match=f"exchanged {times} times"), exchanging(net, IDX):
        net(x) if times else None
    with pytest.raises(RuntimeError, match="exchanged 2 times"), exchanging(net.backbone, IDX):
        net.backbone.forward_features(x), net.backbone.forward_features(x)


def test_explicit_arguments_in_a_body_are_their_own_forward():
    model, x = twin("resnet10t").eval(), images("resnet10t")
    with torch.no_grad():
        plain, other = model(x), model(x, swap_index=IDX.flip(0))
        with pytest.raises(RuntimeError, match="0 times"), exchanging(model, IDX):
            assert torch.equal(model(x, swap_index=None), plain)
            assert torch.equal(model(x, swap_index=IDX.flip(0)), other)


def test_several_sites_and_bad_arguments():
    model = insert_moex(timm.create_model("resnet10t", num_classes=10), ("stem", "C3")).eval()
    x = images("resnet10t")
    with torch.no_grad(), exchanging(model, IDX, "C3"):
        exchanged = model(x)
    assert torch.equal(exchanged, model(x, swap_index=IDX, swap_layer="stage2").detach())
    for arguments, error, message in [
        ((model, IDX), ValueError, "pass swap_layer"),
        ((model, IDX, "stage4"), ValueError, "swap_layer='stage4' is not one of"),
        ((model, [1, 0], "stem"), TypeError, "got list"),
        ((model, None, "stem"), ValueError, "without swap_index"),
        ((remove_moex(copy.deepcopy(model)), IDX), ValueError, "has no MoEx"),
    ]:
        with pytest.raises(error, match=message), exchanging(*arguments):
            pytest.fail("the body must not be entered")


def test_find_moex_looks_everywhere_and_names_several():
    model = twin("resnet10t")
    assert find_moex(nn.Sequential(nn.Identity(), Wrapper(model))) is model.moex
    assert find_moex(nn.ModuleDict({"a": model, "b": model})) is model.moex
    assert find_moex(nn.Sequential(nn.Identity())) is None
    with pytest.raises(ValueError, match="2 MoEx insertions, at a, b"):
        find_moex(nn.ModuleDict({"a": model, "b": twin("resnet10t")}))
    with pytest.raises(ValueError, match="already has MoEx"):
        insert_moex(Wrapper(model), "head", channel_dim=-1)
    net = Wrapper(model)
    assert find_moex(remove_moex(net)) is None and not hasattr(model, "moex")


@torch.no_grad()
def test_compiled_wrapper_exchanges_in_two_graphs():
    from torch._dynamo.testing import CompileCounter

    torch._dynamo.reset()
    counter = CompileCounter()
    net, x = Wrapper(twin("resnet10t")).eval(), images("resnet10t")
    compiled = torch.compile(net, backend=counter, fullgraph=True)
    for _ in range(20):
        index = torch.randperm(4)
        with exchanging(net, index):
            found = compiled(x)
        torch.testing.assert_close(found, net.head(net.backbone(x, swap_index=index)))
        torch.testing.assert_close(compiled(x), net(x))
    assert counter.frame_count == 2


def test_a_model_with_a_graph_break_exchanges_when_compiled():
    torch._dynamo.reset()
    model, x = twin("resnet10t").eval(), images("resnet10t")
    with torch.no_grad():
        expected, plain = model(x, swap_index=IDX), model(x)
    model.layer2.register_forward_pre_hook(lambda module, args: torch._dynamo.graph_break())
    compiled = torch.compile(model, backend="eager")
    with torch.no_grad():
        for _ in range(2):
            torch.testing.assert_close(compiled(x, swap_index=IDX), expected)
            torch.testing.assert_close(compiled(x), plain)


# Feature extractors


@torch.no_grad()
@pytest.mark.parametrize("feature_cls", [None, "dict", "hook", "getter"])
def test_feature_extractors_exchange(feature_cls):
    extra = {} if feature_cls is None else {"feature_cls": feature_cls}
    plain = timm.create_model("resnet10t", features_only=True, **extra).eval()
    net = timm.create_model("moex_resnet10t", features_only=True, moex_layer="stage2", **extra).eval()
    net.load_state_dict(plain.state_dict(), strict=True)
    x = images("resnet10t")
    tensors = (lambda y: list(y.values())) if feature_cls == "dict" else list
    expected, bare, exchanged = tensors(plain(x)), tensors(net(x)), tensors(net(x, swap_index=IDX))
    assert type(net) is type(plain)
    assert all(torch.equal(a, b) for a, b in zip(expected, bare, strict=True))
    assert [torch.equal(a, b) for a, b in zip(expected, exchanged, strict=True)] == [True, True, False, False, False]
    with exchanging(Wrapper(net).backbone, IDX):
        assert all(torch.equal(a, b) for a, b in zip(tensors(net(x)), exchanged, strict=True))
    assert torch.equal(tensors(copy.deepcopy(net)(x, swap_index=IDX))[2], exchanged[2])


def test_feature_extractor_of_every_family_exchanges(arch):
    net = timm.create_model(f"moex_{arch}", features_only=True, **SMALL[arch][1]).train()
    plain, exchanged = net(images(arch), swap_index=None), net(images(arch), swap_index=IDX)
    assert not all(torch.equal(a, b) for a, b in zip(plain, exchanged, strict=True))


def test_feature_extractor_trains_under_checkpointing():
    net = timm.create_model("moex_resnet10t", features_only=True).train()
    assert isinstance(net, FeatureListNet)
    results = []
    for checkpointing in (False, True):
        net.set_grad_checkpointing(checkpointing)
        net.zero_grad()
        sum(y.square().mean() for y in net(images("resnet10t"), swap_index=IDX)).backward()
        results.append([p.grad.clone() for p in net.parameters() if p.grad is not None])
    for a, b in zip(*results):
        torch.testing.assert_close(a, b)


def test_feature_extractor_without_the_sites_layer_is_refused():
    with pytest.raises(ValueError, match="stage4.*FeatureListNet does not contain.*out_indices"):
        timm.create_model("moex_resnet10t", features_only=True, out_indices=(0, 1), moex_layer="stage4")
    with pytest.raises(ValueError, match="moex_lam|lam=2"):
        timm.create_model("moex_resnet10t", features_only=True, moex_lam=2)


# Training without an exchange speaks


WAYS = {
    "forward_features": lambda model, x: model.forward_head(model.forward_features(x)),
    "forward_intermediates": lambda model, x: model.forward_intermediates(x),
    "cut": lambda model, x: nn.Sequential(*list(model.children())[:-2])(x),
    "wrapper": lambda model, x: Wrapper(model)(x),
}


@pytest.mark.parametrize("way", WAYS)
def test_training_along_any_way_without_an_exchange_warns_once(way):
    model, x = twin("resnet10t").train(), images("resnet10t")
    with pytest.warns(UserWarning, match="moex_prob=1.0.*no moments are exchanged.*exchanging") as record:
        WAYS[way](model, x), WAYS[way](model, x)
    assert len(record) == 1 and record[0].filename == __file__
    silent = [twin("resnet10t").eval(), twin("resnet10t", moex_prob=0.0).train()]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for m in silent:
            WAYS[way](m, x)
        with torch.no_grad():
            WAYS[way](twin("resnet10t").train(), x)
