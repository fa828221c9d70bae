"""A model with MoEx exchanges while it trains, on every path through it, and never otherwise."""

import copy
import subprocess
import sys

import pytest
import timm
import torch
from small_twins import IDX, images, twin
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

from timm_moex import MoExLoss, MoExTask, draw_swap_index, exchanging, find_moex, insert_moex, remove_moex
from timm_moex.insertion.presets import PRESETS

KEEPING = [name for name, preset in PRESETS.items() if preset.lam == 1 and name != "freq_mixstyle"]


class Wrapper(nn.Module):
    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone

    def forward(self, x):
        return self.backbone(x)


WAYS = {
    "call": lambda model, x: model(x),
    "forward_features": lambda model, x: model.forward_head(model.forward_features(x)),
    "forward_intermediates": lambda model, x: model.forward_intermediates(x)[0],
    "cut into layers": lambda model, x: nn.Sequential(*list(model.children())[:-1])(x),
    "inside a module": lambda model, x: Wrapper(model)(x),
}


def keeping_twin(**kwargs):
    """A float64 twin that exchanges every batch and has no other randomness."""
    model = twin("resnet10t", **({"moex_lam": 1.0} | kwargs)).double().train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.0
    return model


@pytest.mark.parametrize("preset", KEEPING)
@pytest.mark.parametrize("way", WAYS)
def test_every_way_exchanges_what_the_seed_draws(preset, way):
    model, x = keeping_twin(moex_preset=preset, moex_prob=1.0), torch.randn(3, 3, 64, 64, dtype=torch.float64)
    moex = find_moex(model)
    torch.manual_seed(3)
    exchanges = moex.draw(len(x), x.device)
    donors = {name: exchange.swap_index for name, exchange in exchanges.items()}
    shares = {name: exchange.own_share for name, exchange in exchanges.items() if exchange.own_share is not None}
    with exchanging(model, donors, own_share=shares or None):
        expected = WAYS[way](model, x)
    torch.manual_seed(3)
    found = WAYS[way](model, x)
    with exchanging(model, None):
        plain = WAYS[way](model, x)
    assert torch.equal(found, expected) and not torch.equal(found, plain)


@pytest.mark.parametrize("way", WAYS)
def test_nothing_is_drawn_in_evaluation_without_gradients_with_probability_0_or_with_none(way):
    x = images("resnet10t").double()
    for quiet in ("eval", "no_grad", "prob", "none"):
        model = keeping_twin(moex_prob=0.0 if quiet == "prob" else 1.0)
        model.train(quiet != "eval")
        state = torch.get_rng_state()
        with torch.set_grad_enabled(quiet != "no_grad"):
            if quiet == "none":
                with exchanging(model, None):
                    WAYS[way](model, x)
            else:
                WAYS[way](model, x)
        assert torch.equal(torch.get_rng_state(), state) and find_moex(model).exchanged == 0


def test_features_only_draws():
    net = timm.create_model("moex_resnet10t", features_only=True, moex_preset="mixstyle", moex_prob=1.0).train()
    net(images("resnet10t"))
    assert find_moex(net).exchanged == 1


def test_the_share_is_counted_since_the_last_train():
    model = keeping_twin(moex_prob=0.5)
    torch.manual_seed(0)
    for _ in range(40):
        model(images("resnet10t").double())
    moex = find_moex(model)
    assert moex.forwards == 40 and 8 < moex.exchanged < 32
    assert f"{moex.exchanged} of 40 training forwards" in repr(moex)
    model.eval()
    assert moex.forwards == 40
    model.train()
    assert moex.forwards == 0
    for _ in range(3):  # the Trainer of Hugging Face calls train() in every step
        model.train()(images("resnet10t").double())
    assert moex.forwards == 3


def test_the_generator_advances_equally_whatever_the_outcome():
    states = []
    for prob in (0.1, 0.9):
        model = keeping_twin(moex_prob=prob)
        torch.manual_seed(0)
        for _ in range(5):
            model(images("resnet10t").double())
        states.append(torch.get_rng_state())
    assert torch.equal(*states)


def test_ranks_with_the_same_seed_draw_differently(monkeypatch):
    drawn = []
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    for rank in range(4):
        monkeypatch.setattr(torch.distributed, "get_rank", lambda rank=rank: rank)
        torch.manual_seed(0)
        drawn.append([draw_swap_index(6, 0.5) for _ in range(40)])
    coins = [[index is None for index in indexes] for indexes in drawn]
    assert len({tuple(c) for c in coins}) == 4


def test_an_invalid_site_fails_in_the_first_draw_even_without_an_exchange():
    model = twin("resnet10t", moex_preset="padain", moex_prob=1e-9).train()  # stage4 is 1x1 at 32 pixels
    with pytest.raises(ValueError, match="single element has no variance"):
        model(images("resnet10t"))


# Gradient checkpointing


class Everywhere(nn.Module):
    """A twin that is entirely inside a checkpointed segment, followed by dropout."""

    def __init__(self, how):
        super().__init__()
        self.net = insert_moex(nn.Sequential(nn.Linear(5, 7), nn.Tanh()), "0", norm="pono", channel_dim=-1, lam=1.0)
        self.tail = nn.Sequential(nn.Dropout(0.5), nn.Linear(7, 3))
        self.how = how

    def forward(self, x):
        if self.how == "plain":
            return self.tail(self.net(x))
        if self.how == "sequential":
            return checkpoint_sequential(nn.Sequential(self.net, self.tail), 1, x, use_reentrant=False)
        return checkpoint(lambda x: self.tail(self.net(x)), x, use_reentrant=self.how == "reentrant")


def everywhere(how):
    torch.manual_seed(0)
    return Everywhere(how).double().train()


@pytest.mark.parametrize("how", ["non-reentrant", "sequential"])
def test_a_checkpointed_model_repeats_its_own_draw_and_what_follows(how):
    grads = []
    for net in (everywhere("plain"), everywhere(how)):
        torch.manual_seed(1)
        for n in range(3):
            x = torch.randn(4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(n), requires_grad=True)
            net(x).square().sum().backward()
        grads.append([p.grad for p in net.parameters()] + [x.grad])
    for a, b in zip(*grads):
        torch.testing.assert_close(b, a, rtol=1e-12, atol=1e-12)


def test_two_calls_in_one_checkpointed_segment_repeat_a_draw_each():
    grads = []
    for how in ("plain", "non-reentrant"):
        net = everywhere(how).net
        segment = lambda x, net=net: net(x).sin() * net(x + 1)  # noqa: E731
        torch.manual_seed(1)
        x = torch.linspace(-2, 2, 20, dtype=torch.float64).view(4, 5).requires_grad_()
        y = segment(x) if how == "plain" else checkpoint(segment, x, use_reentrant=False)
        y.square().sum().backward()
        grads.append(x.grad)
    torch.testing.assert_close(*grads)


def test_a_checkpoint_that_does_not_restore_the_generator_is_refused():
    net = everywhere("plain").net
    x = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    y = checkpoint(net, x, use_reentrant=False, preserve_rng_state=False)
    with pytest.raises(RuntimeError, match="preserve_rng_state=True"):
        y.sum().backward()


def test_a_reentrant_checkpoint_around_a_model_that_draws_is_refused():
    net = everywhere("reentrant")
    loss = net(torch.randn(4, 5, dtype=torch.float64, requires_grad=True)).square().sum()
    with pytest.raises(RuntimeError, match="use_reentrant=False"):
        loss.backward()


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_a_recomputation_that_enters_by_the_models_own_call_repeats_the_exchange(use_reentrant):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.site = nn.Identity()

        def forward(self, x):
            return self.site(x).tanh()

    net = insert_moex(Net(), "site", norm="pono", channel_dim=-1)
    x = torch.tensor([[1, 2, 4], [3, -1, 0.5]], requires_grad=True)
    with exchanging(net, torch.tensor([1, 0])):
        y = checkpoint(net, x, use_reentrant=use_reentrant)
    y.square().sum().backward()
    expected = torch.tensor([[-0.0817, 1.2594, -0.3866], [0.3036, -0.1281, -0.1957]])
    torch.testing.assert_close(x.grad, expected, atol=1e-4, rtol=0)


def test_layers_called_one_by_one_repeat_their_draw_under_checkpointing():
    grads = []
    for checkpointing in (False, True):
        model = keeping_twin(moex_preset="mixstyle", moex_prob=1.0)
        model.set_grad_checkpointing(checkpointing)
        torch.manual_seed(2)
        for n in range(2):
            x = torch.randn(4, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(n))
            model.forward_features(x).square().mean().backward()
        grads.append([p.grad for p in model.parameters() if p.grad is not None])
    assert len(grads[0]) == len(grads[1]) > 10
    for a, b in zip(*grads):
        torch.testing.assert_close(b, a, rtol=1e-9, atol=1e-12)


def test_two_passes_through_the_layers_before_backward_are_right_or_refused():
    model = keeping_twin(moex_prob=1.0, moex_layer="stage2")
    model.set_grad_checkpointing(True)
    reference, losses = copy.deepcopy(model), []
    reference.set_grad_checkpointing(False)
    for m in (reference, model):
        torch.manual_seed(2)
        losses.append([m.forward_features(images("resnet10t").double()).square().mean() for _ in range(2)])
    sum(losses[0]).backward()
    try:
        sum(losses[1]).backward()
    except RuntimeError as error:
        assert "matches two forwards" in str(error)
        return
    for a, b in zip(reference.parameters(), model.parameters()):
        if a.grad is not None:
            torch.testing.assert_close(b.grad, a.grad)


# Groups


def test_donors_come_from_other_groups():
    model, x = keeping_twin(moex_prob=1.0), images("resnet10t").double()
    groups, seen = torch.tensor([0, 1, 0, 1]), []
    (site,) = find_moex(model).sites
    site.register_forward_pre_hook(lambda module, args: seen.append(args[1]))
    for _ in range(10):
        model(x, groups=groups)
        with exchanging(model, groups=groups):
            model.forward_features(x)
            model(x)
    MoExTask(model, nn.CrossEntropyLoss(), verbose=False)(x, torch.arange(4), groups=groups)
    assert len(seen) == 31 and all((groups[index] != groups).all() for index in seen)
    with pytest.raises(ValueError, match="groups and swap_index cannot be combined"):
        model(x, swap_index=IDX, groups=groups)
    with pytest.raises(ValueError, match=r"shape \(4,\)"):
        model(x, groups=groups[:2])


# Compiled


@pytest.mark.parametrize("preset", ["moex", *KEEPING])
def test_a_compiled_model_that_draws_has_two_graphs_and_draws_as_in_eager_mode(preset):
    from torch._dynamo.testing import CompileCounter

    torch._dynamo.reset()
    counter = CompileCounter()
    model = twin("resnet10t", moex_preset=preset, moex_prob=0.5).train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.0
    loss = MoExLoss(model, nn.CrossEntropyLoss())
    compiled, x, y = torch.compile(model, backend=counter, fullgraph=True), torch.randn(4, 3, 64, 64), torch.arange(4)
    moex, exchanged = find_moex(model), 0
    for step in range(25):
        moex.set_epoch(step)
        torch.manual_seed(step)
        expected = loss(model(x), y)
        before = moex.exchanged
        torch.manual_seed(step)
        found = loss(compiled(x), y)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
        exchanged += moex.exchanged - before
    assert 0 < exchanged < 25
    model.eval()
    compiled(x), compiled(x)
    assert counter.frame_count == 2


def test_changing_batch_sizes_cost_one_graph_with_a_dynamic_size():
    from torch._dynamo.testing import CompileCounter

    torch._dynamo.reset()
    counter = CompileCounter()
    model = twin("resnet10t", moex_prob=0.5).train()
    loss, compiled = MoExLoss(model, nn.CrossEntropyLoss()), torch.compile(model, backend=counter, fullgraph=True)
    for step in range(30):
        batch = (4, 4, 6, 5, 7)[step % 5]
        loss(compiled(torch.randn(batch, 3, 32, 32)), torch.randint(10, (batch,)))
    assert counter.frame_count == 2


def test_a_compiled_step_of_model_and_loss_mixes_the_labels():
    torch._dynamo.reset()
    model = twin("resnet10t", moex_prob=0.5, moex_lam=0.3).train()
    loss, x, y = MoExLoss(model, nn.CrossEntropyLoss()), images("resnet10t"), torch.arange(4)
    step = torch.compile(lambda x, y: loss(model(x), y), backend="aot_eager", fullgraph=True)
    for seed in range(6):
        torch.manual_seed(seed)
        expected = loss(model(x), y)
        torch.manual_seed(seed)
        torch.testing.assert_close(step(x, y), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layer", ["stem", "stage2"])
def test_compiled_checkpointing_trains_as_eager_mode_does(layer):
    torch._dynamo.reset()
    grads = []
    for compiling in (False, True):
        torch.manual_seed(0)
        model = twin("resnet10t", moex_layer=layer, moex_lam=1.0).train()
        model.set_grad_checkpointing(True)
        net = torch.compile(model, backend="aot_eager", fullgraph=True) if compiling else model
        torch.manual_seed(1)
        net(images("resnet10t")).square().mean().backward()
        grads.append([p.grad for p in model.parameters()])
    for a, b in zip(*grads):
        torch.testing.assert_close(b, a, rtol=1e-3, atol=1e-5)


# What would go wrong without a word


def test_a_user_module_with_an_attribute_called_module_is_no_wrapper():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.module = twin("resnet10t")

        def forward(self, x, **kwargs):
            return self.module(x)

    net = Net().train()
    result = MoExTask(net, nn.CrossEntropyLoss(), verbose=False)(images("resnet10t"), torch.arange(4))
    assert result["exchanged"] and find_moex(net).exchanged == 1
    insert_moex(nn.Sequential(nn.Linear(3, 3)), "0", channel_dim=-1)


def test_children_are_the_stock_models_own():
    model, stock = twin("resnet10t"), timm.create_model("resnet10t", num_classes=10)
    assert [name for name, _ in model.named_children()] == [name for name, _ in stock.named_children()]


def test_a_module_put_around_the_site_later_is_noticed():
    model = insert_moex(timm.create_model("resnet10t"), "layer1.0.conv2", channel_dim=1, lam=1.0).train()
    model.layer1[0].conv2 = nn.Sequential(model.layer1[0].conv2)
    with pytest.raises(RuntimeError, match="module at layer1.0.conv2 of ResNet was replaced or wrapped"):
        model(images("resnet10t"))


@pytest.mark.parametrize("wrap", [checkpoint_wrapper, lambda module: torch.compile(module, backend="eager")])
def test_a_block_that_was_checkpointed_or_compiled_later_still_exchanges(wrap):
    grads = []
    for wrapped in (False, True):
        model = keeping_twin(moex_preset="mixstyle", moex_prob=1.0)
        if wrapped:
            model.layer1[0] = wrap(model.layer1[0])
        torch.manual_seed(2)
        model(images("resnet10t").double()).square().mean().backward()
        assert find_moex(model).exchanged == 1
        grads.append([p.grad for p in model.parameters()])
    for a, b in zip(*grads):
        torch.testing.assert_close(b, a, rtol=1e-9, atol=1e-12)


def test_two_sites_that_are_one_module_are_refused():
    shared = nn.Linear(4, 4)
    net = nn.ModuleDict({"a": shared, "b": shared})
    with pytest.raises(ValueError, match="'a' and 'b' are the same module"):
        insert_moex(net, ("a", "b"), channel_dim=-1)


def test_a_path_into_a_timm_model_uses_its_table():
    vit = timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=0)
    net = insert_moex(Wrapper(vit), "backbone.blocks.1", channel_dim=-1)
    assert find_moex(net).sites[0].site.prefix_tokens == 1


def test_tracing_by_fx_is_refused():
    with pytest.raises(TypeError, match="torch.fx cannot trace"):
        torch.fx.symbolic_trace(insert_moex(nn.Sequential(Wrapper(nn.Linear(4, 4))), "0", channel_dim=-1))


def test_exchanging_in_a_generator_is_refused():
    model = twin("resnet10t")

    def batches():
        with exchanging(model, IDX):
            yield

    with pytest.raises(RuntimeError, match="generator or coroutine batches"):
        next(batches())


def test_accelerates_way_to_wrap_a_forward_keeps_the_exchange():
    code = """
import timm, timm_moex, torch
from types import MethodType
model = timm.create_model("moex_resnet10t", moex_lam=1.0).train()
assert not hasattr(model.forward, "__func__")  # accelerate binds it to the model if there is one
inner = model.forward
model.forward = lambda *args, **kwargs: inner(*args, **kwargs)
model(torch.randn(2, 3, 32, 32))
assert timm_moex.find_moex(model).exchanged == 1
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_model_that_was_compiled_in_place_is_refused():
    model = timm.create_model("resnet10t", num_classes=10)
    model.compile(backend="eager")
    with pytest.raises(TypeError, match=r"model is compiled by model.compile\(\)"):
        insert_moex(model)


def test_remove_also_removes_the_hooks_of_fused_modules():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU()).eval()
    insert_moex(model, "1", norm="in", lam=1.0)
    fused = torch.ao.quantization.fuse_modules(model, [["0", "1"]])
    for net in (model, fused):
        remove_moex(net)
        assert find_moex(net) is None and not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
