"""`model(x)` never exchanges; `model(x, swap_index=idx)` exchanges exactly once or raises."""

import copy
import pickle
import warnings

import pytest
import timm
import torch
from architectures import ARCHS, images
from timm.utils import ModelEmaV3
from torch import nn

import timm_moex
from timm_moex import find_moex, insert_moex, moex_sites, moment_exchange, remove_moex

IDX = torch.tensor([1, 2, 0])


def resnet(**kwargs):
    return timm.create_model("resnet10t", num_classes=10, **kwargs)


def logits(model, x, **kwargs):
    with torch.no_grad():
        return model(x, **kwargs)


def test_exchange_equals_one_written_into_the_forward_by_hand():
    model = insert_moex(resnet(), "stem", norm="pono").eval()
    x = images("resnet10t")
    with torch.no_grad():
        y = model.maxpool(model.act1(model.bn1(model.conv1(x))))
        y = moment_exchange(y, IDX)
        y = model.forward_head(model.layer4(model.layer3(model.layer2(model.layer1(y)))))
    assert torch.equal(logits(model, x, swap_index=IDX), y)


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_stage_sites_are_the_stage_outputs(number):
    model = insert_moex(resnet(), f"stage{number}").eval()
    x = images("resnet10t")
    with torch.no_grad():
        y = model.maxpool(model.act1(model.bn1(model.conv1(x))))
        for n in range(1, 5):
            y = getattr(model, f"layer{n}")(y)
            y = moment_exchange(y, IDX) if n == number else y
    assert torch.equal(logits(model, x, swap_index=IDX), model.forward_head(y).detach())


def test_plain_call_is_untouched_before_and_after_an_exchange():
    model = resnet().eval()
    x = images("resnet10t")
    before = logits(model, x)
    insert_moex(model)
    assert torch.equal(logits(model, x), before)
    assert not torch.equal(logits(model, x, swap_index=IDX), before)
    assert torch.equal(logits(model, x), before)
    assert torch.equal(logits(model, x, swap_index=None), before)
    with torch.no_grad():
        model(x, swap_index=IDX)
        assert torch.equal(model.forward_head(model.forward_features(x)), before)


@pytest.mark.parametrize("arch", ARCHS)
def test_checkpointing_gives_the_same_loss_and_gradients(arch):
    model = timm.create_model(f"moex_{arch}", num_classes=10)
    reference = copy.deepcopy(model)
    model.set_grad_checkpointing(True)
    x = images(arch)
    results = []
    for m in (reference, model):
        torch.manual_seed(1)
        m.train()
        loss = m(x, swap_index=IDX).square().mean()
        loss.backward()
        results.append((loss.detach(), [p.grad for p in m.parameters()]))
    assert torch.equal(results[0][0], results[1][0])
    for a, b in zip(results[0][1], results[1][1]):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_every_resnet_site_fires_under_checkpointing():
    names = tuple(moex_sites(resnet()))
    model = insert_moex(resnet(), names).train()
    model.set_grad_checkpointing(True)
    plain = model(images("resnet10t"), swap_index=None)
    for name in names:
        assert not torch.equal(model(images("resnet10t"), swap_index=IDX, swap_layer=name), plain)


def test_a_bypassed_site_raises_instead_of_training_without_exchange():
    class Bypass(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x, twice=False):
            return self.a(self.a(x)) if twice else self.a(x)

    model = insert_moex(Bypass(), "b", channel_dim=-1)
    with pytest.raises(RuntimeError, match="exchanged 0 times"):
        model(torch.randn(3, 4), swap_index=IDX)
    model = insert_moex(Bypass(), "a", channel_dim=-1, norm="pono")
    model(torch.randn(3, 4), swap_index=IDX)
    with pytest.raises(RuntimeError, match="exchanged 2 times"):
        model(torch.randn(3, 4), twice=True, swap_index=IDX)


def test_failed_forward_leaves_no_state_behind():
    model = insert_moex(resnet()).eval()
    x = images("resnet10t")
    plain = logits(model, x)
    with pytest.raises(ValueError, match="swap_index must have shape"):
        model(x, swap_index=IDX[:2])
    assert torch.equal(model.forward_head(model.forward_features(x)), plain)
    assert torch.equal(logits(model, x), plain)


def test_site_that_is_not_a_tensor_raises():
    class Pair(nn.Module):
        def forward(self, x):
            return x, x

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.pair = Pair()

        def forward(self, x):
            return self.pair(x)[0]

    with pytest.raises(TypeError, match="output of pair is a tuple"):
        insert_moex(Net(), "pair", channel_dim=1)(torch.randn(3, 4, 5), swap_index=IDX)


def test_several_layers():
    model = insert_moex(resnet(), ("stem", "C3")).eval()
    x = images("resnet10t")
    outputs = [logits(model, x, swap_index=IDX, swap_layer=name) for name in ("stem", "stage2", "C3")]
    assert torch.equal(outputs[1], outputs[2]) and not torch.equal(outputs[0], outputs[1])
    with pytest.raises(ValueError, match="pass swap_layer, one of: stem, stage2"):
        model(x, swap_index=IDX)
    with pytest.raises(ValueError, match="'stage1' is not one of.*stem, stage2"):
        model(x, swap_index=IDX, swap_layer="stage1")
    with pytest.raises(ValueError, match="without swap_index"):
        model(x, swap_layer="stem")


def test_dotted_path_as_layer():
    model = insert_moex(resnet(), "layer2.0").eval()
    x = images("resnet10t")
    assert not torch.equal(logits(model, x, swap_index=IDX), logits(model, x))
    remove_moex(model)
    assert find_moex(model) is None
    with pytest.raises(TypeError, match="swap_index"):
        model(x, swap_index=IDX)


def test_remove_leaves_the_model_as_it_was():
    model = resnet().eval()
    children, x = [n for n, _ in model.named_modules()], images("resnet10t")
    before = logits(model, x)
    remove_moex(insert_moex(model))
    assert [n for n, _ in model.named_modules()] == children
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert torch.equal(logits(model, x), before)
    insert_moex(model)  # and can be inserted again


def test_deep_copy_is_independent_of_the_original():
    model = insert_moex(resnet()).eval()
    x = images("resnet10t")
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for p in twin.parameters():
            p.zero_()
    exchanged = logits(model, x, swap_index=IDX)
    assert find_moex(twin) is not find_moex(model)
    assert not logits(twin, x, swap_index=IDX).any()
    assert find_moex(twin).sites[0].moex is find_moex(twin)
    plain = logits(model, x)
    within = []
    model.layer1.register_forward_hook(lambda *args: within.append(logits(twin, x)))
    assert torch.equal(logits(model, x, swap_index=IDX), exchanged) and not torch.equal(exchanged, plain)
    with timm_moex.exchanging(model, IDX):
        assert torch.equal(logits(twin, x, swap_index=IDX), logits(twin, x))
        assert torch.equal(logits(model, x), exchanged)
    assert len(within) == 2 and not torch.stack(within).any()


def test_pickle_round_trip_and_ema():
    model = insert_moex(resnet()).eval()
    x = images("resnet10t")
    exchanged = logits(model, x, swap_index=IDX)
    copied = pickle.loads(pickle.dumps(model))
    assert torch.equal(logits(copied, x, swap_index=IDX), exchanged)
    remove_moex(copied)
    ema = ModelEmaV3(model)
    ema.update(model)
    assert find_moex(ema) is find_moex(ema.module) is not find_moex(model)
    assert torch.equal(ema.module(x), model(x))


def test_state_dict_parameters_and_modes_are_the_backbones():
    plain, model = resnet(), insert_moex(resnet())
    assert list(plain.state_dict()) == list(model.state_dict())
    assert [n for n, _ in plain.named_parameters()] == [n for n, _ in model.named_parameters()]
    assert [n for n, _ in plain.named_buffers()] == [n for n, _ in model.named_buffers()]
    model.load_state_dict(plain.state_dict(), strict=True)
    model.eval()
    assert [n for n, _ in plain.named_modules()] == [n for n, _ in model.named_modules()]
    assert type(model) is type(plain)
    model.to(torch.float64)
    assert logits(model, images("resnet10t").double(), swap_index=IDX).dtype == torch.float64


@pytest.mark.parametrize("arch", ["resnet10t", "vit_tiny_patch16_224"])
def test_compiled_full_graph_has_two_graphs_and_never_recompiles(arch):
    from torch._dynamo.testing import CompileCounter

    torch._dynamo.reset()
    counter = CompileCounter()
    model = timm.create_model(f"moex_{arch}", num_classes=10).train()
    reference = copy.deepcopy(model)
    compiled = torch.compile(model, backend=counter, fullgraph=True)
    x = images(arch, batch=4)
    for _ in range(100 if arch == "resnet10t" else 5):
        index = torch.randperm(4)
        with torch.no_grad():
            a, b = compiled(x, swap_index=index), reference(x, swap_index=index)
        torch.testing.assert_close(a, b)
        compiled(x, swap_index=None)
        reference(x)
    assert counter.frame_count == 2


def test_compiled_model_raises_too_when_nothing_fires():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            return self.a(x)

    model = torch.compile(insert_moex(Net(), "b", channel_dim=-1), backend="eager")
    with pytest.raises(Exception, match="exchanged 0 times"):
        model(torch.randn(3, 4), swap_index=IDX)


def test_training_without_swap_index_warns_once():
    model = insert_moex(resnet(), prob=0.5)
    x = images("resnet10t")
    model.eval()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model(x)
    model.train()
    with pytest.warns(UserWarning, match="moex_prob=0.5.*MoExTask"):
        model(x)
    silent = insert_moex(resnet(), prob=0.0), insert_moex(resnet(), prob=0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model(x)  # once
        silent[0].train()(x)
        silent[1].train()(x, swap_index=None)  # asked, and answered no
        silent[1].train()(x)


def test_data_parallel_replica_is_refused():
    model = insert_moex(resnet())
    model._is_replica = True
    with pytest.raises(RuntimeError, match="DataParallel"):
        model(images("resnet10t"), swap_index=IDX)


def test_vit_class_token_is_left_alone():
    model = timm.create_model("vit_tiny_patch16_224", num_classes=0)
    seen = {}
    model.blocks[0].register_forward_hook(lambda m, a, out: seen.__setitem__("before", out))
    insert_moex(model, "stage1", norm="pono")
    model.blocks[1].register_forward_pre_hook(lambda m, a: seen.__setitem__("after", a[0]))
    model.eval()(images("vit_tiny_patch16_224"), swap_index=IDX)
    before, after = seen["before"], seen["after"]
    assert torch.equal(before[:, :1], after[:, :1])
    expected = moment_exchange(before[:, 1:], IDX, channel_dim=-1)
    assert torch.equal(after[:, 1:], expected)


def test_sites_are_listed_by_name():
    assert list(moex_sites(resnet())) == ["stem", "stage1", "stage2", "stage3", "stage4"]
    assert "stem: input of layer1" in repr(find_moex(insert_moex(resnet())))
    assert timm_moex.__version__
