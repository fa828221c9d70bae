"""Own shares, constant moments and matched distributions equal their formulas, looped over samples in float64."""

import itertools

import pytest
import torch

from timm_moex import match_distribution, moment_exchange
from timm_moex.exchange.arguments import DETACH, MOMENTS

AXES = {"in": (1, 2), "pono": (0,), "ln": (0, 1, 2), "freq": (0, 2)}  # of a sample (C, H, W)
INDEX = torch.tensor([2, 0, 2, 1, 3])
SHARE = torch.tensor([0.0, 1.0, 0.25, 0.9, 0.5])
EPS = 1e-3


def features(dtype=torch.float64, seed=0):
    x = torch.randn(5, 3, 4, 6, dtype=dtype, generator=torch.Generator().manual_seed(seed))
    return (2 * x + torch.arange(5.0).view(-1, 1, 1, 1).to(dtype)).requires_grad_()


def by_hand(x, norm, share, detach, moments):
    """y = x_hat (l std + (1 - l) donor's std) + l mean + (1 - l) donor's mean, sample by sample."""
    axes, out = AXES[norm], []
    for i, sample in enumerate(x):
        donor = x[INDEX[i]]
        mean, std = sample.mean(axes, keepdim=True), (sample.var(axes, keepdim=True) + EPS).sqrt()
        mean_d, std_d = donor.mean(axes, keepdim=True), (donor.var(axes, keepdim=True) + EPS).sqrt()
        if detach == "both":
            mean, std = mean.detach(), std.detach()
        if detach in ("both", "donor"):
            mean_d, std_d = mean_d.detach(), std_d.detach()
        own = 0.0 if share is None else share[i].double()
        new_mean = mean if moments == "std" else own * mean + (1 - own) * mean_d
        new_std = std if moments == "mean" else own * std + (1 - own) * std_d
        out.append((sample - mean) / std * new_std + new_mean)
    return torch.stack(out)


@pytest.mark.parametrize("backend", ["reference", "closed_form"])
@pytest.mark.parametrize("norm", AXES)
@pytest.mark.parametrize("share, detach, moments", list(itertools.product((None, SHARE), DETACH, MOMENTS)))
def test_values_and_gradients_are_those_of_the_formula(norm, share, detach, moments, backend):
    x = features()
    grad = torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(1))
    settings = dict(norm=norm, eps=EPS, own_share=share, detach=detach, moments=moments, backend=backend)
    y, expected = moment_exchange(x, INDEX, **settings), by_hand(x, norm, share, detach, moments)
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)
    ours, theirs = torch.autograd.grad(y, x, grad)[0], torch.autograd.grad(expected, x, grad)[0]
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("norm, share, moments", list(itertools.product(AXES, (None, SHARE.double()), MOMENTS)))
def test_gradcheck_of_the_first_and_the_second_derivative(norm, share, moments):
    x = features()[:, :2, :2, :3].detach().requires_grad_()

    def exchange(x):
        return moment_exchange(x, INDEX, norm=norm, eps=EPS, own_share=share, moments=moments)

    assert torch.autograd.gradcheck(exchange, x) and torch.autograd.gradgradcheck(exchange, x)


@pytest.mark.parametrize("detach", DETACH)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_share_of_zero_is_an_exchange_to_the_bit(dtype, layout, detach):
    x = torch.randn(8, 16, 96, 96).to(dtype, memory_format=layout).requires_grad_()
    index, grad = torch.randperm(8), torch.randn(8, 16, 96, 96).to(dtype)
    whole = moment_exchange(x, index, detach=detach)
    shared = moment_exchange(x, index, detach=detach, own_share=torch.zeros(8))
    assert torch.equal(whole, shared)
    assert torch.equal(torch.autograd.grad(whole, x, grad)[0], torch.autograd.grad(shared, x, grad)[0])


def test_a_share_of_one_changes_nothing():
    x = features(torch.float32)
    torch.testing.assert_close(moment_exchange(x, INDEX, own_share=torch.ones(5)), x)


@pytest.mark.parametrize("norm", ["in", "pono", "freq"])
@pytest.mark.parametrize("detach", DETACH)
def test_large_dense_features_agree_with_the_reference(norm, detach):
    x = torch.randn(4, 32, 48, 48, dtype=torch.float32).requires_grad_()
    index, share, grad = torch.randperm(4), torch.rand(4), torch.randn(4, 32, 48, 48)
    results = []
    for backend, y_of in (("closed_form", x), ("reference", x.detach().double().requires_grad_())):
        y = moment_exchange(y_of, index, norm=norm, own_share=share, detach=detach, backend=backend)
        results.append((y, torch.autograd.grad(y, y_of, grad.to(y.dtype))[0]))
    for ours, exact in zip(*results):
        torch.testing.assert_close(ours, exact.float(), rtol=1e-4, atol=1e-4)


def test_compiled_and_mapped_shares():
    x, share = features(torch.float32), SHARE
    expected = moment_exchange(x, INDEX, norm="in", own_share=share, detach="both")
    compiled = torch.compile(
        lambda x, index, share: moment_exchange(x, index, norm="in", own_share=share, detach="both"),
        fullgraph=True,
        backend="aot_eager",
    )
    torch.testing.assert_close(compiled(x, INDEX, share), expected)
    batches, indexes, shares = torch.stack([x, x + 1]), torch.stack([INDEX, INDEX.flip(0)]), torch.rand(2, 5)
    mapped = torch.vmap(lambda x, i, s: moment_exchange(x, i, own_share=s))(batches, indexes, shares)
    one_by_one = [moment_exchange(*each[:2], own_share=each[2]) for each in zip(batches, indexes, shares)]
    torch.testing.assert_close(mapped, torch.stack(one_by_one))
    torch.testing.assert_close(
        torch.vmap(lambda x: moment_exchange(x, INDEX, own_share=share))(batches),
        torch.stack([moment_exchange(x, INDEX, own_share=share) for x in batches]),
    )


@pytest.mark.parametrize("share", [None, SHARE])
@pytest.mark.parametrize("last", [False, True])
def test_matched_distributions_are_those_of_the_formula(share, last):
    x = features()
    given = x.movedim(1, -1) if last else x
    y = match_distribution(given, INDEX, own_share=share, channel_dim=-1 if last else 1)
    y = y.movedim(-1, 1) if last else y
    grad = torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(1))
    rows = []
    for i, sample in enumerate(x):
        own = 0.0 if share is None else share[i].double()
        for channel, donor in zip(sample.flatten(1), x[INDEX[i]].flatten(1)):
            order, sorted_donor = channel.argsort(), donor.sort().values
            matched = torch.stack([sorted_donor[(order == k).nonzero().item()] for k in range(len(channel))])
            rows.append(channel + (1 - own) * (matched - channel.detach()))
    expected = torch.stack(rows).view(x.shape)
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)
    ours, theirs = torch.autograd.grad(y, x, grad)[0], torch.autograd.grad(expected, x, grad)[0]
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


def test_a_full_match_has_the_donors_values_in_the_samples_order():
    x = features()
    y = match_distribution(x, INDEX)
    torch.testing.assert_close(y.flatten(2).sort().values, x[INDEX].flatten(2).sort().values)
    assert torch.equal(y.flatten(2).argsort(), x.flatten(2).argsort())


@pytest.mark.parametrize(
    "arguments, error, words",
    [
        (dict(own_share=torch.ones(4)), ValueError, r"own_share must have shape \(5,\)"),
        (dict(own_share=torch.ones(5, dtype=torch.int64)), TypeError, "own_share must be a floating point tensor"),
        (dict(own_share=0.5), TypeError, "own_share must be a floating point tensor, got float"),
        (dict(own_share=torch.tensor([0, 0, 0, 0, 1.5])), ValueError, "own_share=1.5: expected values in"),
        (dict(own_share=torch.tensor([0, 0, 0, 0, float("nan")])), ValueError, "own_share=nan"),
        (dict(own_share=torch.ones(5, requires_grad=True)), ValueError, "own_share requires grad"),
        (dict(detach="donors"), ValueError, "detach='donors'.*did you mean 'donor'"),
        (dict(norm="frq"), ValueError, "norm='frq' is unknown.*did you mean 'freq'"),
        (dict(own_share=torch.ones(5), backend="triton"), (ValueError, ImportError), "triton"),
    ],
)
def test_wrong_arguments_are_refused_by_name(arguments, error, words):
    with pytest.raises(error, match=words):
        moment_exchange(features(torch.float32), INDEX, **arguments)


def test_frequencies_need_four_axes():
    with pytest.raises(ValueError, match="norm='freq' requires x of shape \\(batch, channel, frequency, time\\)"):
        moment_exchange(torch.randn(5, 3, 4), INDEX, norm="freq")
