"""A donor index out of range is rejected everywhere; it never selects another sample."""

import pytest
import torch
from torch import nn

from timm_moex import mix_loss, moment_exchange

BAD = [[0, -1, 1], [0, 3, 1], [-4, 0, 1], [2**40, 0, 1], [0, 1, -(2**63)]]
bad = pytest.mark.parametrize("values", BAD, ids=str)


class Labelled(torch.Tensor):
    """A subclass that adds nothing."""


def features():
    return torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0))


@bad
@pytest.mark.parametrize("kind", ["tensor", "parameter", "subclass"])
@pytest.mark.parametrize("backend", ["reference", "closed_form"])
def test_eager(values, kind, backend):
    index = torch.tensor(values)
    if kind == "parameter":
        index = nn.Parameter(index, requires_grad=False)
    elif kind == "subclass":
        index = index.as_subclass(Labelled)
    with pytest.raises(IndexError):
        moment_exchange(features(), index, backend=backend)


@bad
@pytest.mark.parametrize("compiler", ["aot_eager", "inductor"])
def test_compiled(values, compiler):
    compiled = torch.compile(moment_exchange, backend=compiler, fullgraph=True)
    good = torch.tensor([1, 2, 0])
    torch.testing.assert_close(compiled(features(), good), moment_exchange(features(), good))
    try:
        y = compiled(features(), torch.tensor(values))
    except (IndexError, RuntimeError):
        return
    assert y.isnan().any(1).any(1).tolist() == [not 0 <= v < 3 for v in values]


@bad
def test_vmap_reads_no_other_batch(values):
    x = torch.randn(2, 3, 4, 5)
    index = torch.tensor([[1, 2, 0], values])
    for indexes, in_dims in ((index, (0, 0)), (torch.tensor(values), (0, None))):
        try:
            y = torch.vmap(moment_exchange, in_dims=in_dims)(x, indexes)
        except (IndexError, RuntimeError):
            continue
        wrong = torch.broadcast_to((indexes < 0) | (indexes >= 3), (2, 3))
        assert torch.equal(y.isnan().flatten(2).any(2), wrong)


@bad
@pytest.mark.parametrize("compiled", [False, True])
def test_labels_are_not_mixed_with_those_of_a_donor_that_does_not_exist(values, compiled):
    def loss(output, target, index):
        return mix_loss(nn.functional.mse_loss, output, target, index, 0.9)

    call = torch.compile(loss, backend="aot_eager", fullgraph=True) if compiled else loss
    with pytest.raises((IndexError, RuntimeError)):
        call(torch.randn(3, 4), torch.randn(3, 4), torch.tensor(values))
