"""Several sites under compilation, autocast, gradient checkpointing, DDP and deep copies."""

import copy

import pytest
import torch
import torch.distributed as dist
from small_twins import IDX, images, twin
from torch.nn.parallel import DistributedDataParallel

from timm_moex import MoExTask, find_moex

SHARE = torch.tensor([0.0, 0.3, 1.0, 0.6])
EVERY_SITE = {"stage1": IDX, "stage2": IDX.flip(0), "stage3": IDX}
STYLES = ["mixstyle", "efdmix", "padain"]


def style_twin(preset="mixstyle", **settings):
    sites = {"moex_layer": ["stage1", "stage2", "stage3"]} if preset == "padain" else {}
    return twin("resnet10t", moex_preset=preset, **sites, **settings).train()


def gradients(call, model):
    model.zero_grad()
    output = call(images("resnet10t"), swap_index=EVERY_SITE, own_share=SHARE)
    output.float().square().mean().backward()
    return output.detach(), [p.grad.clone() for p in model.parameters()]


def assert_same(ours, theirs, **tolerance):
    torch.testing.assert_close(ours[0], theirs[0], **tolerance)
    for a, b in zip(ours[1], theirs[1]):
        torch.testing.assert_close(a, b, **tolerance)


def test_a_compiled_model_exchanges_at_every_site():
    torch.compiler.reset()
    model = style_twin()
    expected = gradients(reference := copy.deepcopy(model), reference)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    assert_same(gradients(compiled, model), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("preset", STYLES)
def test_gradient_checkpointing_repeats_every_exchange(preset):
    expected = gradients(plain := style_twin(preset), plain)
    model = style_twin(preset)
    model.set_grad_checkpointing()
    assert_same(gradients(model, model), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("preset", STYLES)
def test_autocast_keeps_the_statistics_in_float32(preset):
    expected = gradients(plain := style_twin(preset), plain)
    model = style_twin(preset)
    with torch.autocast("cpu", torch.bfloat16):
        output, grads = gradients(model, model)
    torch.testing.assert_close(output.float(), expected[0], rtol=0.1, atol=0.1)
    assert all(grad.isfinite().all() for grad in grads)


def test_ddp_passes_a_mapping_through():
    expected = gradients(plain := style_twin(), plain)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        model = style_twin()
        assert_same(gradients(DistributedDataParallel(model), model), expected)
    finally:
        dist.destroy_process_group()


def test_a_deep_copy_exchanges_by_itself():
    model = style_twin().eval()
    other = copy.deepcopy(model)
    with torch.no_grad():
        one = model(images("resnet10t"), swap_index=EVERY_SITE)
        assert torch.equal(one, other(images("resnet10t"), swap_index=EVERY_SITE))
    assert find_moex(other) is not find_moex(model)


def test_a_compiled_task_takes_every_set_of_sites():
    torch.compiler.reset()
    torch.manual_seed(0)
    model = style_twin(moex_layer=["stage1", "stage2"])
    task = MoExTask(model, torch.nn.CrossEntropyLoss(), verbose=False)
    task.compile(backend="aot_eager")
    x, target = images("resnet10t"), torch.arange(4)
    seen = set()
    for _ in range(5):
        result = task(x, target)
        result["loss"].backward()
        seen.add(result["sites"])
    assert len(seen) > 1


def test_a_compiled_task_compiles_once_and_never_again():
    from torch._dynamo.testing import CompileCounter

    torch.compiler.reset()
    torch.manual_seed(0)
    counter = CompileCounter()
    task = MoExTask(twin("resnet10t", moex_prob=0.5).train(), torch.nn.CrossEntropyLoss(), verbose=False)
    task.compile(backend=counter)
    exchanged = [task(images("resnet10t"), torch.arange(4))["exchanged"] for _ in range(40)]
    assert 0 < sum(exchanged) < 40 and counter.frame_count == 1


def test_a_compiled_mixstyle_task_has_one_graph_for_every_set_of_sites():
    from torch._dynamo.testing import CompileCounter

    torch.compiler.reset()
    torch.manual_seed(0)
    counter = CompileCounter()
    model = style_twin()
    task = MoExTask(model, torch.nn.CrossEntropyLoss(), verbose=False)
    task.compile(backend=counter)
    seen = set()
    for _ in range(60):
        seen.add(task(images("resnet10t"), torch.arange(4))["sites"])
    model.eval()
    with torch.no_grad():
        task.get_eval_model()(images("resnet10t"))
    assert len(seen) == 8 and counter.frame_count == 2
