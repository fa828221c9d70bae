"""Compiled models draw independently: several in one process, and models with graph breaks."""

import pytest
import torch
from small_twins import images, twin
from torch import nn
from torch._dynamo.testing import CompileCounter

from timm_moex import MoExLoss, find_moex, insert_moex


def test_models_of_one_architecture_share_a_graph_but_no_draws():
    torch._dynamo.reset()
    counter, x, target = CompileCounter(), images("resnet10t"), torch.arange(4) % 3
    models = [twin("resnet10t", moex_lam=0.5).train() for _ in range(3)]
    for done, model in enumerate(models):
        criterion = MoExLoss(model, nn.CrossEntropyLoss())
        compiled = torch.compile(model, backend=counter)
        for _ in range(2):
            criterion(compiled(x), target).backward()
        assert [find_moex(m).forwards for m in models] == [2] * (done + 1) + [0] * (2 - done)
    shared = not torch.__version__.startswith("2.8.")  # torch 2.8 guards each model separately
    assert counter.frame_count == (1 if shared else 3)


class Breaking(nn.Module):
    """A network with a graph break after its first layer."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Linear(8, 5)

    def forward(self, x):
        x = self.first(x)
        torch._dynamo.graph_break()
        return self.head(self.second(x).relu().mean((2, 3)))


@pytest.mark.parametrize("layer", ["first", "second"])
@pytest.mark.parametrize("lam", [1.0, 0.5])
def test_a_model_with_a_graph_break_trains_as_it_does_uncompiled(layer, lam):
    torch._dynamo.reset()
    model = Breaking()
    insert_moex(model, layer, lam=lam, channel_dim=1)
    criterion, compiled = MoExLoss(model, nn.CrossEntropyLoss()), torch.compile(model, backend="eager")
    x, target = torch.randn(8, 3, 12, 12), torch.arange(8) % 5
    for size in (8, 6, 8):
        results = []
        for net in (model, compiled):
            torch.manual_seed(size)
            model.zero_grad()
            loss = criterion(net(x[:size]), target[:size])
            loss.backward()
            results.append((loss.detach(), *(p.grad for p in model.parameters())))
        for expected, found in zip(*results, strict=True):
            torch.testing.assert_close(found, expected)
    assert find_moex(model).exchanged == 6
    with pytest.raises(RuntimeError):
        compiled(x[:, :2])
    criterion(compiled(x), target)  # an error leaves nothing behind
