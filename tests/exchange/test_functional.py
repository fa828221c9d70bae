"""The exchange against literal tables and the formula, and all its errors."""

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from timm_moex import moment_exchange

ALL_NORMS = ["pono", "in", "ln", "gn2", "gn-d2", "gpono2", "gpono-d2"]
SHAPES = [(3, 4, 5), (3, 4, 5, 7), (3, 4, 2, 3, 5)]


def formula(x, swap_index, groups, spatial, eps=1e-5):
    """method.md's formula, sample by sample and group by group, in Python loops over float64 (channels first)."""
    y = torch.empty_like(x)
    channels = x.shape[1] // groups
    flat, out = x.flatten(2), y.view(x.shape).flatten(2)
    for i, j in enumerate(swap_index.tolist()):
        for g in range(groups):
            rows = slice(g * channels, (g + 1) * channels)
            positions = [slice(None)] if spatial else [slice(p, p + 1) for p in range(flat.shape[2])]
            for p in positions:
                own, donor = flat[i, rows, p], flat[j, rows, p]
                std_own, std_donor = (own.var() + eps).sqrt(), (donor.var() + eps).sqrt()
                out[i, rows, p] = (own - own.mean()) / std_own * std_donor + donor.mean()
    return out.view(x.shape)


# norm → (groups as a function of C, over space)
AXES = {
    "pono": (lambda c: 1, False),
    "in": (lambda c: c, True),
    "ln": (lambda c: 1, True),
    "gn2": (lambda c: 2, True),
    "gn-d2": (lambda c: c // 2, True),
    "gpono2": (lambda c: 2, False),
    "gpono-d2": (lambda c: c // 2, False),
}


def test_pono_matches_numbers_worked_out_by_hand():
    # Sample 0 has mean 2, var 2 (unbiased), sample 1 mean 10, var 50; eps 0: x̂ = ±1/√2.
    x = torch.tensor([[1.0, 3.0], [5.0, 15.0]])
    y = moment_exchange(x, torch.tensor([1, 0]), eps=0.0)
    torch.testing.assert_close(y, torch.tensor([[5.0, 15.0], [1.0, 3.0]]))
    y = moment_exchange(x, torch.tensor([1, 0]), eps=0.0, moments="mean")
    torch.testing.assert_close(y, torch.tensor([[9.0, 11.0], [-3.0, 7.0]]))
    y = moment_exchange(x, torch.tensor([1, 0]), eps=0.0, moments="std")
    torch.testing.assert_close(y, torch.tensor([[-3.0, 7.0], [9.0, 11.0]]))


def test_positive_only_matches_numbers_worked_out_by_hand():
    # Positive entries: (1, 3) with mean 2, biased var 1, and (4,) with mean 4, var 0; the third sample has none.
    x = torch.tensor([[1.0, 3.0, -7.0], [4.0, -1.0, 0.0], [-1.0, -2.0, -3.0]])
    y = moment_exchange(x, torch.tensor([1, 0, 0]), eps=1.0, positive_only=True)
    r = 2**0.5
    expected = torch.tensor([[-1 / r, 1 / r, -9 / r], [0.0, -5.0, -4.0], [-1.0, -2.0, -3.0]])
    expected = torch.stack([expected[0] * 1 + 4, expected[1] * r + 2, expected[2] * r + 2])
    torch.testing.assert_close(y, expected)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("norm", ALL_NORMS)
def test_every_norm_equals_the_formula(norm, shape):
    x = torch.randn(shape, dtype=torch.float64)
    swap_index = torch.tensor([2, 0, 1])
    groups, spatial = AXES[norm]
    expected = formula(x, swap_index, groups(shape[1]), spatial)
    torch.testing.assert_close(moment_exchange(x, swap_index, norm=norm), expected)
    y32 = moment_exchange(x.float(), swap_index, norm=norm)
    torch.testing.assert_close(y32, expected.float(), rtol=0, atol=2e-6 * expected.abs().max().item())


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("norm", ALL_NORMS)
def test_channels_last_axis_gives_the_same_exchange(norm, shape):
    x, swap_index = torch.randn(shape), torch.tensor([1, 2, 0])
    first = moment_exchange(x, swap_index, norm=norm)
    last = moment_exchange(x.movedim(1, -1).contiguous(), swap_index, norm=norm, channel_dim=-1)
    torch.testing.assert_close(last.movedim(-1, 1), first)


@pytest.mark.parametrize("moments", ["both", "mean", "std"])
@pytest.mark.parametrize("norm", ALL_NORMS)
def test_gradient_flows_through_both_samples_moments(norm, moments):
    x = torch.randn(3, 4, 3, 2, dtype=torch.float64, requires_grad=True)
    for swap_index in ([1, 2, 0], [0, 1, 2], [1, 1, 1]):  # cycle, identity, and a donor used by all
        index = torch.tensor(swap_index)
        assert torch.autograd.gradcheck(lambda t, i=index: moment_exchange(t, i, norm=norm, moments=moments), x)


def test_a_single_positive_entry_has_no_variance_and_eps_bounds_what_follows():
    x = torch.tensor([[[[2.0]], [[0.0]], [[0.0]]], [[[1.0]], [[3.0]], [[0.0]]]])  # second: mean 2, variance 1
    for eps in (1e-4, 1.0):
        y = moment_exchange(x, torch.tensor([1, 0]), eps=eps, positive_only=True)
        expected = torch.tensor([0.0, -2.0, -2.0]) / eps**0.5 * (1 + eps) ** 0.5 + 2
        torch.testing.assert_close(y[0].flatten(), expected)


def test_positive_only_gradient_is_exact():
    x = torch.randn(3, 4, 3, dtype=torch.float64)
    x = (x + 0.1 * x.sign()).requires_grad_()  # away from the kink at 0
    index = torch.tensor([1, 2, 0])
    assert torch.autograd.gradcheck(lambda t: moment_exchange(t, index, positive_only=True), x)


def test_donor_receives_a_gradient_though_its_own_output_is_not_used():
    x = torch.randn(2, 5, requires_grad=True)
    moment_exchange(x, torch.tensor([1, 0]))[0].square().sum().backward()
    assert x.grad[1].abs().max() > 1e-3


@pytest.mark.parametrize("norm", ALL_NORMS)
def test_identity_permutation_returns_x(norm):
    x = torch.randn(5, 4, 3, 3)
    torch.testing.assert_close(moment_exchange(x, torch.arange(5), norm=norm), x, rtol=1e-5, atol=1e-5)


# Not groups of 2: their std can be far below the spacing of float32 at 1e4, whatever the algorithm.
@pytest.mark.parametrize("norm", ["pono", "in", "ln", "gn2", "gn-d16", "gpono2", "gpono-d16"])
def test_stable_if_the_mean_dwarfs_the_std(norm):
    x = 1e4 + 0.1 * torch.randn(3, 64, 16, 16, dtype=torch.float64)
    x = x.float()  # what float32 can hold of it is the input
    index = torch.tensor([1, 2, 0])
    y, exact = moment_exchange(x, index, norm=norm), moment_exchange(x.double(), index, norm=norm)
    assert (y.double() - exact).abs().max() < 5e-3  # float32 spacing at 1e4 is 1e-3; one-pass moments miss by > 0.1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_statistics_are_float32(dtype):
    x = (100 + torch.randn(3, 64, 9, 9)).to(dtype)
    index = torch.tensor([1, 2, 0])
    y = moment_exchange(x, index)
    assert y.dtype == dtype
    exact = moment_exchange(x.double(), index)
    # Only the last rounding may remain.
    torch.testing.assert_close(y.double(), exact.to(dtype).double(), rtol=2 * torch.finfo(dtype).eps, atol=0)


@pytest.mark.parametrize("norm", ALL_NORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_memory_format_is_preserved(norm, dtype):
    x = torch.randn(2, 4, 6, 6, dtype=dtype).to(memory_format=torch.channels_last)
    y = moment_exchange(x, torch.tensor([1, 0]), norm=norm)
    assert y.stride() == x.stride()
    x3d = torch.randn(2, 4, 3, 5, 6, dtype=dtype).to(memory_format=torch.channels_last_3d)
    assert moment_exchange(x3d, torch.tensor([1, 0]), norm=norm).stride() == x3d.stride()


@pytest.mark.parametrize("norm", ALL_NORMS)
def test_non_contiguous_and_odd_input(norm):
    base = torch.randn(7, 4, 11, 13)
    x = base[::2, :, 1::3].transpose(2, 3)
    index = torch.tensor([3, 0, 1, 2])
    torch.testing.assert_close(moment_exchange(x, index, norm=norm), moment_exchange(x.contiguous(), index, norm=norm))


def test_input_is_not_written_to():
    x = torch.randn(3, 4, 5)
    before = x.clone()
    moment_exchange(x, torch.tensor([2, 1, 0]))
    assert torch.equal(x, before)


def test_batch_of_one_is_the_identity():
    x = torch.randn(1, 4, 3, 3)
    torch.testing.assert_close(moment_exchange(x, torch.tensor([0])), x)


def test_under_checkpoint_and_autocast():
    x = torch.randn(3, 4, 5, 5, requires_grad=True)
    index = torch.tensor([1, 2, 0])
    moment_exchange(x, index).square().sum().backward()
    plain, x.grad = x.grad, None
    checkpoint(moment_exchange, x, index, use_reentrant=False).square().sum().backward()
    assert torch.equal(plain, x.grad)
    with torch.autocast("cpu", torch.bfloat16):
        assert moment_exchange(x, index).dtype == torch.float32


def test_docstring_snippet_is_the_formula():
    x, swap_index = torch.randn(3, 4, 5, 5), torch.tensor([1, 2, 0])
    lines = moment_exchange.__doc__.splitlines()
    start = next(n for n, line in enumerate(lines) if "mean, var =" in line)
    scope = {"x": x, "swap_index": swap_index, "eps": 1e-5}
    exec("\n".join(line.strip() for line in lines[start : start + 3]), scope)
    torch.testing.assert_close(moment_exchange(x, swap_index), scope["y"])


X = torch.randn(4, 6, 3, 3)
IDX = torch.tensor([1, 2, 3, 0])
REFUSED = {
    "bn": (dict(norm="bn"), ValueError, "shares its moments"),
    "unknown norm": (dict(norm="pno"), ValueError, "'pno' is unknown.*did you mean 'pono'"),
    "zero groups": (dict(norm="gn0"), ValueError, "gn0"),
    "groups do not divide": (dict(norm="gn4"), ValueError, "6 channels cannot be divided into 4 groups"),
    "group size does not divide": (dict(norm="gpono-d4"), ValueError, "groups of 4 channels"),
    "groups of one channel": (dict(norm="gpono6"), ValueError, "1 element"),
    "pono of one channel": (dict(x=X[:, :1]), ValueError, "1 element"),
    "in at 1x1": (dict(x=X[:, :, :1, :1], norm="in"), ValueError, "1 element"),
    "in without space": (dict(x=X[:, :, 0, 0], norm="in"), ValueError, "1 element"),
    "integer features": (dict(x=X.long()), TypeError, "floating point.*int64"),
    "one dimension": (dict(x=X[:, 0, 0, 0]), ValueError, "2 to 5 dimensions"),
    "middle channel axis": (dict(channel_dim=2), ValueError, "channel_dim=2"),
    "moments": (dict(moments="var"), ValueError, "moments='var'"),
    "eps": (dict(eps=-1.0), ValueError, "eps=-1.0"),
    "eps nan": (dict(eps=float("nan")), ValueError, "eps=nan"),
    "index dtype": (dict(swap_index=IDX.int()), TypeError, "int64, got torch.int32"),
    "index a list": (dict(swap_index=[1, 2, 3, 0]), TypeError, "got list"),
    "index shape": (dict(swap_index=IDX[None]), ValueError, r"shape \(4,\)"),
    "index length": (dict(swap_index=IDX[:3]), ValueError, r"shape \(4,\)"),
    "index device": (dict(swap_index=IDX.to("meta")), ValueError, "meta.*cpu"),
    "index too large": (dict(swap_index=IDX + 1), IndexError, r"1..4.*\[0, 4\)"),
    "index negative": (dict(swap_index=IDX - 1), IndexError, "-1..2"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_refused_by_name(case):
    changed, error, message = REFUSED[case]
    arguments = {"x": X, "swap_index": IDX, **changed}
    with pytest.raises(error, match=message):
        moment_exchange(arguments.pop("x"), arguments.pop("swap_index"), **arguments)
