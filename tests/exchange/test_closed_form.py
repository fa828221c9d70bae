"""The closed form against the reference: values, gradients, precision, memory, transforms; both paths on the CPU."""

import subprocess
from functools import partial

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from timm_moex import moment_exchange
from timm_moex.exchange import closed_form

NORMS = ["pono", "in", "ln", "gn2", "gn-d2", "gpono2", "gpono-d3"]
LAYOUTS = ["contiguous", "channels_last", "last_axis", "gaps"]
DONORS = torch.tensor([1, 1, 0, 4, 2])  # sample 1 gives twice, sample 3 never: a map, not a permutation


def features(layout, dtype, channels=6, side=(7, 3)):
    """Features of an odd shape and the keyword that names their channel axis."""
    x = (torch.randn(5, channels, *side) * 2 + 1).to(dtype)
    if layout == "channels_last":
        return x.contiguous(memory_format=torch.channels_last), {}
    if layout == "last_axis":
        return x.movedim(1, -1).contiguous(), {"channel_dim": -1}
    if layout == "gaps":
        return torch.stack([x, x + 1], 2).flatten(1, 2)[:, ::2].transpose(2, 3), {}
    return x, {}


def run(x, grad, backend, **settings):
    x = x.detach().requires_grad_()
    y = moment_exchange(x, DONORS, backend=backend, **settings)
    return y.detach(), torch.autograd.grad(y, x, grad)[0]


@pytest.mark.parametrize("moments", ["both", "mean", "std"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("norm", NORMS)
def test_equals_the_reference(norm, layout, moments):
    x, where = features(layout, torch.float32)
    settings = {"norm": norm, "moments": moments, "eps": 1e-2, **where}  # groups of 2 and 3 can be all but constant
    grad = torch.randn_like(x)
    for found, expected in zip(run(x, grad, "closed_form", **settings), run(x, grad, "reference", **settings)):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
        assert found.stride() == expected.stride()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_code_path_for_accelerators_gives_the_same_result(monkeypatch, dtype):
    x, _ = features("channels_last", dtype)
    grad = torch.randn_like(x)
    expected = run(x, grad, "closed_form")
    monkeypatch.setattr(closed_form, "_SLOW_VAR", set())
    monkeypatch.setattr(closed_form, "_BLOCK", 2**62)
    torch.testing.assert_close(run(x, grad, "closed_form"), expected)


@pytest.mark.parametrize("moments", ["both", "mean", "std"])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "last_axis"])
@pytest.mark.parametrize("norm", NORMS)
def test_gradient_is_exact(norm, layout, moments):
    x, where = features(layout, torch.float64, side=(3, 2))
    settings = {"norm": norm, "moments": moments, "eps": 1e-2, **where}
    exchange = partial(moment_exchange, swap_index=DONORS, backend="closed_form", **settings)
    assert torch.autograd.gradcheck(exchange, x.requires_grad_(), fast_mode=True)


@pytest.mark.parametrize("moments", ["both", "mean", "std"])
@pytest.mark.parametrize("norm", ["pono", "in", "gn2"])
def test_positive_only_gradient_is_exact(norm, moments):
    x = torch.randn(5, 6, 3, 2, dtype=torch.float64)
    x[3] = -x[3].abs()  # no positive entry at all
    settings = {"norm": norm, "moments": moments, "eps": 1e-2, "positive_only": True}
    grad = torch.randn_like(x)
    torch.testing.assert_close(run(x, grad, "closed_form", **settings), run(x, grad, "reference", **settings))
    exchange = partial(moment_exchange, swap_index=DONORS, backend="closed_form", **settings)
    assert torch.autograd.gradcheck(exchange, x.requires_grad_(), fast_mode=True)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("norm", ["pono", "in", "ln", "gn2"])
def test_low_precision_is_as_close_to_float32_as_the_reference(norm, layout, dtype):
    x, where = features(layout, dtype, channels=26, side=(13, 11))
    grad = torch.randn_like(x)
    exact = run(x.float(), grad.float(), "reference", norm=norm, **where)
    plain = run(x, grad, "reference", norm=norm, **where)
    for found, low, true in zip(run(x, grad, "closed_form", norm=norm, **where), plain, exact):
        assert found.dtype == dtype
        assert (found - true).abs().max() <= 2 * (low - true).abs().max() + 1e-6


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("norm", ["pono", "in", "ln"])
def test_as_accurate_as_the_reference_if_the_mean_dwarfs_the_std(norm, layout):
    x, _ = features(layout, torch.float32, channels=67, side=(29, 31))
    x = x * 0.05 + 1e4
    grad = torch.randn_like(x)
    exact = run(x.double(), grad.double(), "reference", norm=norm)
    plain = run(x, grad, "reference", norm=norm)
    for found, reference, true in zip(run(x, grad, "closed_form", norm=norm), plain, exact):
        assert (found - true).abs().max() <= 2 * (reference - true).abs().max()


@pytest.mark.parametrize("shape", [(2, 1031), (3, 2, 1), (1, 37, 5, 3), (2, 70, 257), (2, 3, 5, 7, 11), (2, 2100, 2)])
@pytest.mark.parametrize("norm", ["pono", "in", "ln"])
def test_odd_shapes(norm, shape):
    if norm == "in" and (len(shape) == 2 or shape[2:] == (1,)):
        pytest.skip("no spatial axes, no moments")
    x, swap_index = torch.randn(shape), torch.arange(shape[0]).flip(0)
    results = []
    for backend in ("closed_form", "reference"):
        leaf = x.clone().requires_grad_()
        y = moment_exchange(leaf, swap_index, norm=norm, eps=1e-2, backend=backend)
        y.sin().sum().backward()
        results.append((y, leaf.grad))
    torch.testing.assert_close(results[0], results[1], rtol=1e-5, atol=2e-5)


def test_gradients_of_any_layout_are_accepted():
    x, _ = features("channels_last", torch.float32)
    for grad in (torch.ones(()).expand_as(x), torch.randn(5, 6, 7, 3), torch.randn(5, 7, 6, 3).transpose(1, 2)):
        torch.testing.assert_close(run(x, grad, "closed_form"), run(x, grad, "reference"), rtol=1e-5, atol=1e-5)


def test_empty_batch_and_empty_space():
    for shape in ((0, 4, 3, 3), (2, 4, 0, 3)):
        x = torch.randn(shape, requires_grad=True)
        y = moment_exchange(x, torch.arange(shape[0]), backend="closed_form")
        y.sum().backward()
        assert y.shape == shape and x.grad.shape == shape


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_keeps_one_input_and_the_moments_for_backward(dtype):
    x = torch.randn(4, 64, 16, 16, dtype=dtype, requires_grad=True)
    kept = {}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        moment_exchange(x, torch.randperm(4))
    assert sum(kept.values()) <= 1.1 * x.numel() * x.element_size()


@pytest.mark.parametrize("norm", ["pono", "gn2"])
def test_gradient_of_the_gradient_is_exact(norm):
    x = torch.randn(3, 4, 2, dtype=torch.float64, requires_grad=True)
    swap_index = torch.tensor([2, 0, 0])
    check = torch.autograd.gradgradcheck
    assert check(lambda x: moment_exchange(x, swap_index, norm=norm, eps=1e-2, backend="closed_form"), x)


def test_vmap_over_batches_and_over_their_gradients():
    x = torch.randn(3, 5, 6, 4)
    swap_index = torch.stack([torch.randperm(5) for _ in range(3)])

    def loss(x, swap_index):
        return moment_exchange(x, swap_index, backend="closed_form").sin().sum()

    each = torch.stack([moment_exchange(a, b) for a, b in zip(x, swap_index)])
    torch.testing.assert_close(torch.vmap(moment_exchange)(x, swap_index), each)
    each = torch.stack([torch.func.grad(loss)(a, b) for a, b in zip(x, swap_index)])
    torch.testing.assert_close(torch.vmap(torch.func.grad(loss))(x, swap_index), each)
    shared = torch.vmap(moment_exchange, in_dims=(1, None))(x.transpose(0, 1), swap_index[0])
    torch.testing.assert_close(shared, torch.stack([moment_exchange(a, swap_index[0]) for a in x]))


def test_compiles_to_one_graph_once_for_all_permutations():
    graphs = []

    def count(graph, inputs):
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(lambda x, i: moment_exchange(x, i, backend="closed_form"), fullgraph=True, backend=count)
    x = torch.randn(5, 6, 4, 4, requires_grad=True)
    for _ in range(5):
        swap_index = torch.randperm(5)
        torch.testing.assert_close(compiled(x, swap_index), moment_exchange(x, swap_index))
    assert len(graphs) == 1


@pytest.mark.parametrize("norm", ["pono", "in"])
def test_compiled_gradient_equals_eager(norm):
    compiled = torch.compile(
        lambda x: moment_exchange(x, DONORS, norm=norm, backend="closed_form"), fullgraph=True, backend="aot_eager"
    )
    x, _ = features("channels_last", torch.float32)
    x.requires_grad_()
    grad = torch.randn_like(x)
    found = torch.autograd.grad(compiled(x), x, grad)[0]
    torch.testing.assert_close(found, run(x, grad, "reference", norm=norm)[1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_under_checkpoint_and_autocast(use_reentrant):
    x, _ = features("contiguous", torch.float32)
    grad, leaf = torch.randn_like(x), x.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        y = checkpoint(moment_exchange, leaf, DONORS, use_reentrant=use_reentrant)
    assert y.dtype == torch.float32
    y.backward(grad)
    torch.testing.assert_close(leaf.grad, run(x, grad, "reference")[1], rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
def test_traced_graphs_and_fake_tensors_see_the_plain_operators():
    x = torch.randn(5, 6, 4, 4)
    traced = torch.jit.trace(moment_exchange, (x, DONORS), check_trace=False)
    other = torch.randn(5, 6, 4, 4)
    torch.testing.assert_close(traced(other, DONORS), moment_exchange(other, DONORS, backend="reference"))
    with torch._subclasses.FakeTensorMode():
        assert moment_exchange(torch.empty(5, 6, 4, 4), torch.zeros(5, dtype=torch.long, device="cpu")).shape == x.shape


def test_no_process_is_started_and_nothing_is_compiled(monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", lambda *args, **kwargs: pytest.fail(f"started {args}"))
    x = torch.randn(5, 64, 40, 40)
    grad = torch.randn_like(x)
    for found, expected in zip(run(x, grad, "closed_form"), run(x, grad, "reference")):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("norm", ["pono", "in"])
def test_views_with_the_negative_bit_count_as_what_they_show(norm):
    x = torch.randn(5, 6, 4, 4) + 3
    lazy, grad = torch._neg_view(x), torch._neg_view(torch.randn_like(x))
    assert lazy.is_neg() and grad.is_neg()
    found = run(lazy, grad, "closed_form", norm=norm)
    for one, other in zip(found, run(-x, grad.resolve_neg(), "reference", norm=norm)):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_blocks_of_any_size_give_the_same(monkeypatch, layout):
    x, where = features(layout, torch.float32, channels=37, side=(19, 23))
    grad = torch.randn_like(x)
    whole = run(x, grad, "closed_form", **where)
    monkeypatch.setattr(closed_form, "_BLOCK", 100)
    for found, expected in zip(run(x, grad, "closed_form", **where), whole):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_unknown_backend_is_refused_with_the_nearest_name():
    with pytest.raises(ValueError, match=r"backend='closed-form'.*did you mean 'closed_form'"):
        moment_exchange(torch.randn(2, 3), torch.tensor([1, 0]), backend="closed-form")


@pytest.mark.parametrize("share", [None, torch.tensor([0.2, 0.0, 0.9])])
@pytest.mark.parametrize("detach", ["none", "donor", "both"])
def test_batches_of_gradients_and_forward_mode_equal_the_formulas(share, detach):
    x = torch.randn(3, 4, 5, dtype=torch.float64, requires_grad=True)
    index, tangent = torch.tensor([1, 2, 0]), torch.randn(3, 4, 5, dtype=torch.float64)
    grads, results = torch.randn(6, 3, 4, 5, dtype=torch.float64), []
    for backend in ("closed_form", "reference"):

        def exchange(x, backend=backend):
            return moment_exchange(x, index, own_share=share, detach=detach, backend=backend)

        (batched,) = torch.autograd.grad(exchange(x), x, grads, is_grads_batched=True)
        jacobian = torch.autograd.functional.jacobian(exchange, x, vectorize=True)
        results.append([batched, jacobian, torch.func.jvp(exchange, (x,), (tangent,))[1]])
    for a, b in zip(*results):
        torch.testing.assert_close(a, b)
