"""Evaluation is exact over every sample."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from timm_moex.training.evaluate import evaluate


class Lookup(nn.Module):
    """Logits by hand: an image is the number of its row."""

    def __init__(self, logits):
        super().__init__()
        self.logits = logits

    def forward(self, x):
        return self.logits[x.flatten().long()]


def batches(target, size):
    x = torch.arange(len(target)).float().view(-1, 1, 1, 1)
    return list(zip(x.split(size), target.split(size)))


@pytest.mark.parametrize("size", [1, 4, 7, 100])
def test_metrics_do_not_depend_on_the_batch_size(size):
    torch.manual_seed(0)
    logits, target = torch.randn(23, 12), torch.randint(12, (23,))
    ranks = (logits > logits.gather(1, target[:, None])).sum(1)
    metrics = evaluate(Lookup(logits), batches(target, size), "cpu")
    assert metrics["count"] == 23
    assert metrics["top1"] == 100 * int((ranks == 0).sum()) / 23
    assert metrics["top5"] == 100 * int((ranks < 5).sum()) / 23
    assert metrics["loss"] == pytest.approx(F.cross_entropy(logits, target).item(), abs=1e-6)


def test_fewer_than_five_classes_make_top5_complete():
    metrics = evaluate(Lookup(torch.eye(3)), batches(torch.tensor([0, 1, 0]), 2), "cpu")
    assert metrics["top5"] == 100 and metrics["top1"] == pytest.approx(200 / 3)


def test_empty_loader_is_an_error():
    with pytest.raises(ValueError, match="no samples"):
        evaluate(nn.Identity(), [], "cpu")


def test_autocast_and_channels_last_reach_the_model():
    seen = {}

    class Spy(nn.Conv2d):
        def forward(self, x):
            seen.update(channels_last=x.is_contiguous(memory_format=torch.channels_last), training=self.training)
            out = super().forward(x)
            seen.update(dtype=out.dtype)
            return out.mean((2, 3))

    loader = [(torch.randn(2, 3, 4, 4), torch.tensor([0, 1]))]
    evaluate(Spy(3, 6, 1), loader, "cpu", amp_dtype=torch.bfloat16, channels_last=True)
    assert seen == {"channels_last": True, "training": False, "dtype": torch.bfloat16}
