"""MoEx works with the ways in which timm's users handle their models, on one small model of each of six families."""

import copy

import pytest
import timm
import torch
from small_twins import IDX, SMALL, images, small, twin
from timm.utils import ModelEmaV3, freeze, reparameterize_model
from torch import nn
from torch.func import functional_call, grad

from timm_moex import MoExTask, find_moex, insert_moex, remove_moex


@pytest.fixture(params=SMALL)
def arch(request):
    return request.param


def relative_error(a, b):
    return ((a.float() - b).norm() / b.norm()).item()


def gradients(model, x, **kwargs):
    torch.manual_seed(3)  # drop path
    model.zero_grad()
    model(x, **kwargs).square().mean().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_same(a, b):
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_costs_the_exchange_no_more_precision_than_the_model(arch, dtype):
    model, x = twin(arch).eval(), images(arch)
    with torch.no_grad():
        plain, exchanged = model(x), model(x, swap_index=IDX)
        with torch.autocast("cpu", dtype):
            low_plain, low = model(x), model(x, swap_index=IDX)
    assert low.dtype == dtype
    assert relative_error(low, exchanged) <= 2 * relative_error(low_plain, plain) + 1e-3
    assert relative_error(low, exchanged) < 0.5 * relative_error(plain, exchanged)


def test_autocast_gradients_are_finite_in_every_parameter(arch):
    model = twin(arch).train()
    with torch.autocast("cpu", torch.bfloat16):
        output = model(images(arch), swap_index=IDX)
    output.float().square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_channels_last_goes_through_the_exchange_and_changes_nothing(arch):
    model, x = twin(arch).eval(), images(arch)
    seen = []
    (site,) = find_moex(model).sites
    site.register_forward_hook(lambda module, args, output: seen.append((args[0], output)))
    with torch.no_grad():
        expected = model(x, swap_index=IDX)
        model.to(memory_format=torch.channels_last)
        output = model(x.to(memory_format=torch.channels_last), swap_index=IDX)
    torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-5)
    before, after = seen[-1]
    assert after.stride() == before.stride()
    if before.ndim == 4 and site.channel_dim == 1:
        assert after.is_contiguous(memory_format=torch.channels_last)


# resnet and vit: tests/insertion
@pytest.mark.parametrize("arch", [name for name in SMALL if not name.startswith(("resnet", "vit"))], indirect=True)
def test_compiled_full_graph_has_two_graphs_and_never_recompiles(arch):
    from torch._dynamo.testing import CompileCounter

    torch._dynamo.reset()
    counter = CompileCounter()
    model, x = twin(arch).eval(), images(arch)
    compiled = torch.compile(model, backend=counter, fullgraph=True)
    with torch.no_grad():
        for n in range(100):
            index = torch.randperm(4)
            output = compiled(x, swap_index=index)
            if n % 25 == 0:
                torch.testing.assert_close(output, model(x, swap_index=index))
                torch.testing.assert_close(compiled(x, swap_index=None), model(x))
    assert counter.frame_count == 2


def test_inductor_trains_as_eager_does():
    torch._dynamo.reset()
    net = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Conv2d(8, 8, 3, 2), nn.Flatten(), nn.Linear(392, 10))
    model = insert_moex(net, "1", norm="pono", channel_dim=1)  # few kernels: each costs seconds of C++
    tasks = [MoExTask(copy.deepcopy(model).train(), nn.CrossEntropyLoss(), verbose=False) for _ in range(2)]
    tasks[1].compile(fullgraph=True)
    grads = []
    for task in tasks:
        torch.manual_seed(3)
        result = task(images("resnet10t"), torch.arange(4))
        result["loss"].backward()
        assert result["exchanged"]
        grads.append([result["loss"].detach(), *(p.grad for p in task.parameters())])
    for eager, compiled in zip(*grads):
        torch.testing.assert_close(compiled, eager, rtol=1e-3, atol=1e-5)


def test_ema_follows_the_weights_and_never_exchanges_on_its_own(arch):
    task = MoExTask(twin(arch).train(), nn.CrossEntropyLoss(), verbose=False)
    ema = task.setup_ema(decay=0.5)
    assert isinstance(ema, ModelEmaV3)
    model, x = task.trainable_module, images(arch)
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    result = task(x, torch.arange(4))
    result["loss"].backward()
    optimizer.step()
    task.update_ema()
    averaged = ema.module.state_dict()
    for name, value in model.state_dict().items():
        expected = before[name].lerp(value, 0.5) if value.is_floating_point() else value
        torch.testing.assert_close(averaged[name], expected)
    assert find_moex(ema.module) is not find_moex(model)
    plain = small(arch).eval()
    plain.load_state_dict(averaged)
    with torch.no_grad():
        assert torch.equal(ema.module.eval()(x), plain(x))


def test_gradient_checkpointing_is_bit_exact(arch):
    model, x = twin(arch).train(), images(arch)
    checkpointed = copy.deepcopy(model)
    checkpointed.set_grad_checkpointing(True)
    results = []
    for m in (model, checkpointed):
        results.append(gradients(m, x, swap_index=IDX))
    assert_same(*results)
    assert any(not torch.equal(g, results[0][name]) for name, g in gradients(model, x, swap_index=None).items())


def test_features_are_the_backbones_also_right_after_an_exchange(arch):
    plain, model, x = small(arch).eval(), twin(arch).eval(), images(arch)
    with torch.no_grad():
        model(x, swap_index=IDX)
        assert torch.equal(model.forward_features(x), plain.forward_features(x))
        model(x, swap_index=IDX)
        if hasattr(plain, "forward_intermediates"):  # timm 1.0.28 has none for DenseNets
            final, intermediates = model.forward_intermediates(x)
            expected_final, expected = plain.forward_intermediates(x)
            assert torch.equal(final, expected_final)
            assert all(torch.equal(a, b) for a, b in zip(intermediates, expected, strict=True))
        nets = [make(arch, features_only=True).eval() for make in (small, twin)]
        assert find_moex(nets[1]) is not None
        assert all(torch.equal(a, b) for a, b in zip(*(net(x) for net in nets), strict=True))


def test_classifier_can_be_reset_between_exchanges(arch):
    model, x = twin(arch).eval(), images(arch)
    with torch.no_grad():
        features = model.forward_features(x)
        assert model(x, swap_index=IDX).shape == (4, 10)
        model.reset_classifier(3)
        exchanged = model(x, swap_index=IDX)
        assert exchanged.shape == (4, 3) and not torch.equal(exchanged, model(x))
        model.reset_classifier(0)
        assert model(x, swap_index=IDX).shape == (4, model.head_hidden_size)
        assert torch.equal(model.forward_features(x), features)


def test_frozen_layers_get_no_gradient_and_the_others_the_same(arch):
    model, x = twin(arch).train(), images(arch)
    full = gradients(copy.deepcopy(model), x, swap_index=IDX)
    names = [name for name, _ in model.named_parameters()]
    frozen = set(names[: len(names) // 2])
    for name, p in model.named_parameters():
        p.requires_grad_(name not in frozen)
    partial = gradients(model, x, swap_index=IDX)
    assert set(partial) == set(names) - frozen
    assert_same(partial, {name: full[name] for name in partial})


def test_timms_freeze_around_the_site():
    model, x = twin("resnet10t"), images("resnet10t")
    freeze(model, ["conv1", "bn1", "layer1"])
    found = gradients(model.train(), x, swap_index=IDX)
    assert found and not any(name.startswith(("conv1", "bn1", "layer1")) for name in found)


def test_a_model_whose_site_was_fused_away_evaluates_copies_and_refuses_to_exchange():
    model = timm.create_model("moex_shvit_s1", num_classes=10).eval()
    fused, x = reparameterize_model(model), torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(copy.deepcopy(fused)(x), model(x), rtol=1e-4, atol=1e-4)
        with pytest.raises(RuntimeError, match="patch_embed.*was replaced or wrapped after MoEx was inserted"):
            fused(x, swap_index=torch.tensor([1, 0]))
    remove_moex(fused)
    assert find_moex(model) and not find_moex(fused)


def test_functional_grad_equals_autograd(arch):
    model, x = twin(arch).eval(), images(arch)
    expected = gradients(model, x, swap_index=IDX)
    params = {name: p.detach() for name, p in model.named_parameters()}

    def loss(params):
        return functional_call(model, params, (x,), {"swap_index": IDX}).square().mean()

    for name, g in grad(loss)(params).items():
        torch.testing.assert_close(g, expected[name])


def test_moving_and_copying_between_steps_changes_no_step(arch):
    model, x = twin(arch).eval(), images(arch)
    single = gradients(model, x, swap_index=IDX)
    copied = copy.deepcopy(model)  # in the middle of training: the index of the last step is still there
    model.to(torch.float64)
    double = gradients(model, x.double(), swap_index=IDX)
    model.to(torch.float32).to("cpu", memory_format=torch.preserve_format)
    assert_same(gradients(model, x, swap_index=IDX), single)
    assert_same(gradients(copied, x, swap_index=IDX), single)
    for name in single:
        assert double[name].dtype == torch.float64
        torch.testing.assert_close(single[name].double(), double[name], rtol=1e-2, atol=1e-5)


def test_wrapper_of_transformers_is_refused_with_a_hint():
    class TimmWrapperForImageClassification(torch.nn.Module):  # as transformers' class of this name keeps its model
        def __init__(self):
            super().__init__()
            self.timm_model = timm.create_model("resnet10t", num_classes=2)

    wrapper = TimmWrapperForImageClassification()
    with pytest.raises(TypeError, match="insert MoEx into model.timm_model"):
        insert_moex(wrapper, "timm_model.layer1")
    assert find_moex(wrapper) is None
