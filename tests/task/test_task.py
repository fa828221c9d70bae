"""One decision, one permutation, two criterion calls; the same permutation for features and labels."""

import pytest
import timm
import torch
from timm.data import Mixup
from timm.loss import BinaryCrossEntropy, LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from timm.task import ClassificationTask
from torch import nn

from timm_moex import MoExTask, create_task, draw_swap_index, find_moex, insert_moex, mix_loss


class Probe(nn.Module):
    """A network whose logits reveal its features: a site, then flatten."""

    def __init__(self):
        super().__init__()
        self.site = nn.Identity()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x):
        return self.site(x).flatten(1) * self.scale


def probe(**kwargs):
    return insert_moex(Probe(), "site", norm="ln", channel_dim=1, **kwargs).train()


def task_of(model, criterion):
    return MoExTask(model, criterion, verbose=False)


def test_decision_and_permutation_come_from_the_given_generator():
    a, b = torch.Generator().manual_seed(3), torch.Generator().manual_seed(3)
    drawn = [draw_swap_index(7, 0.5, a) for _ in range(400)]
    again = [draw_swap_index(7, 0.5, b) for _ in range(400)]
    assert all((p is None and q is None) or torch.equal(p, q) for p, q in zip(drawn, again))
    exchanged = [p for p in drawn if p is not None]
    assert 160 < len(exchanged) < 240  # p, not p²
    assert all(p.dtype == torch.int64 and p.sort().values.equal(torch.arange(7)) for p in exchanged)
    assert len({tuple(p.tolist()) for p in exchanged}) > 100


def test_probability_zero_and_one_are_exact():
    assert all(draw_swap_index(4, 0.0) is None for _ in range(50))
    assert all(draw_swap_index(4, 1.0) is not None for _ in range(50))
    assert draw_swap_index(1).tolist() == [0]


@pytest.mark.parametrize("prob, batch", [(1.5, 4), (-0.1, 4), (0.5, 0)])
def test_bad_draws_are_refused(prob, batch):
    with pytest.raises(ValueError, match=f"prob={prob}" if batch else "batch_size=0"):
        draw_swap_index(batch, prob)


def test_lam_weighs_the_samples_own_label():
    output = torch.tensor([[9.0, 0.0], [0.0, 9.0]])
    target, swap_index = torch.tensor([0, 1]), torch.tensor([1, 0])
    criterion = nn.CrossEntropyLoss()
    right, wrong = criterion(output, target), criterion(output, 1 - target)
    torch.testing.assert_close(mix_loss(criterion, output, target, swap_index, 0.9), 0.9 * right + 0.1 * wrong)
    assert torch.equal(mix_loss(criterion, output, target, None, 0.9), right)


@pytest.mark.parametrize("batch", [1, 2, 5, 8])
def test_features_and_labels_go_by_the_same_permutation(batch):
    # Sample i has mean i; after the exchange its mean says who its donor was, and so must the loss's second target.
    x = torch.arange(batch).view(-1, 1, 1) + torch.linspace(-0.1, 0.1, 8).view(1, 2, 4)
    seen = []

    def criterion(output, target):
        seen.append((output.mean(1).round().long(), target))
        return output.square().mean()

    for _ in range(5):
        seen.clear()
        result = task_of(probe(), criterion)(x, torch.arange(batch))
        assert result["exchanged"] is True and result["site"] == "site"
        (donor_by_features, own), (_, donor_by_labels) = seen
        assert torch.equal(donor_by_features, donor_by_labels) and torch.equal(own, torch.arange(batch))


def test_without_exchange_the_loss_is_the_plain_one_in_one_call():
    calls = []

    def criterion(output, target):
        calls.append(target)
        return output.mean()

    task = task_of(probe(prob=0.0), criterion)
    result = task(torch.randn(4, 2, 4), torch.arange(4))
    assert result["exchanged"] is False and result["site"] is None and len(calls) == 1
    task = task_of(probe(prob=1.0), criterion)
    task.trainable_module.eval()
    assert task(torch.randn(4, 2, 4), torch.arange(4))["exchanged"] is False


def test_probability_is_applied_once():
    task = task_of(probe(prob=0.3), nn.CrossEntropyLoss())
    x, target = torch.randn(4, 2, 4), torch.zeros(4, dtype=torch.long)
    exchanged = sum(task(x, target)["exchanged"] for _ in range(600))
    assert 140 < exchanged < 220  # 180 ± 3.6 σ; p² would give 54


TARGETS = {
    "class index": (nn.CrossEntropyLoss(), lambda: torch.tensor([3, 1, 4, 1, 5])),
    "smoothing": (LabelSmoothingCrossEntropy(0.1), lambda: torch.tensor([3, 1, 4, 1, 5])),
    "soft": (SoftTargetCrossEntropy(), lambda: torch.rand(5, 8).softmax(1)),
    "bce with threshold": (BinaryCrossEntropy(smoothing=0.1, target_threshold=0.2), lambda: torch.rand(5, 8)),
    "bce of indices": (BinaryCrossEntropy(smoothing=0.1), lambda: torch.tensor([3, 1, 4, 1, 5])),
}


@pytest.mark.parametrize("kind", TARGETS)
def test_every_kind_of_target_gives_the_two_term_loss(kind):
    criterion, make = TARGETS[kind]
    target, x = make(), torch.randn(5, 2, 4)
    before = target.clone()
    model = probe(lam=0.7)
    torch.manual_seed(5)
    result = task_of(model, criterion)(x, target)
    torch.manual_seed(5)
    index = draw_swap_index(5)
    output = model(x, swap_index=index)
    expected = 0.7 * criterion(output, target) + 0.3 * criterion(output, target[index])
    torch.testing.assert_close(result["loss"], expected)
    assert torch.equal(target, before)
    result["loss"].backward()


def test_bce_with_threshold_needs_the_two_calls():
    criterion = BinaryCrossEntropy(target_threshold=0.2, smoothing=0.0)
    output, index = torch.randn(2, 4), torch.tensor([1, 0])
    target = torch.eye(4)[:2]
    one_call = criterion(output, 0.9 * target + 0.1 * target[index])
    assert abs(mix_loss(criterion, output, target, index, 0.9) - one_call) > 1e-3


def test_cutmix_and_moex_give_the_three_term_loss():
    torch.manual_seed(0)
    output, y, index = torch.randn(4, 6), torch.tensor([0, 1, 2, 3]), torch.tensor([2, 0, 3, 1])
    c, lam = 0.6, 0.9
    soft = c * torch.eye(6)[y] + (1 - c) * torch.eye(6)[y[index]]
    ce = nn.CrossEntropyLoss()
    expected = (
        c * lam * ce(output, y)
        + ((1 - c) * lam + c * (1 - lam)) * ce(output, y[index])
        + (1 - c) * (1 - lam) * ce(output, y[index][index])
    )
    torch.testing.assert_close(mix_loss(SoftTargetCrossEntropy(), output, soft, index, lam), expected)
    images, target = Mixup(mixup_alpha=0, cutmix_alpha=1.0, num_classes=8)(torch.randn(4, 2, 4, 4), y)
    model = insert_moex(timm.create_model("resnet10t", in_chans=2, num_classes=8)).train()
    assert task_of(model, SoftTargetCrossEntropy())(images.repeat(1, 1, 16, 16), target)["exchanged"]


def test_several_layers_are_drawn_in_turn():
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    model = insert_moex(net, ("0", "1", "2"), norm="pono", channel_dim=-1).train()
    task = task_of(model, nn.CrossEntropyLoss())
    x, target = torch.randn(2, 4), torch.tensor([0, 1])
    assert {task(x, target)["site"] for _ in range(40)} == {"0", "1", "2"}


def test_create_task_chooses_by_the_model():
    model = timm.create_model("moex_resnet10t", num_classes=4, moex_prob=0.0)
    assert type(create_task(model, nn.CrossEntropyLoss(), verbose=False)) is ClassificationTask
    find_moex(model).prob = 0.5
    assert type(create_task(model, nn.CrossEntropyLoss(), verbose=False)) is MoExTask
    plain = timm.create_model("resnet10t", num_classes=4)
    assert type(create_task(plain, nn.CrossEntropyLoss(), verbose=False)) is ClassificationTask
    with pytest.raises(ValueError, match="ResNet has no MoEx"):
        MoExTask(plain, nn.CrossEntropyLoss())


class Wrapper(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.inner = nn.Sequential(net)

    def forward(self, x):
        return self.inner(x)


@pytest.mark.parametrize("layers", ["stem", ("stem", "stage1", "stage4")])
def test_a_model_around_a_twin_trains_as_the_twin(layers):
    results = []
    for wrap in (lambda net: net, Wrapper):
        torch.manual_seed(0)
        net = timm.create_model("moex_resnet10t", num_classes=4, moex_layer=layers)
        result = task_of(wrap(net).train(), nn.CrossEntropyLoss())(torch.randn(4, 3, 32, 32), torch.arange(4))
        assert result["exchanged"]
        results.append(result)
    assert torch.equal(results[0]["loss"], results[1]["loss"]) and results[0]["site"] == results[1]["site"]
    model = Wrapper(probe(prob=0.0)).train()
    assert task_of(model, nn.CrossEntropyLoss())(torch.randn(4, 2, 4), torch.arange(4))["exchanged"] is False
    assert type(create_task(Wrapper(probe()), nn.CrossEntropyLoss(), verbose=False)) is MoExTask


def test_a_model_around_a_twin_trains_when_compiled():
    torch._dynamo.reset()
    model = Wrapper(timm.create_model("moex_resnet10t", num_classes=4)).train()
    task = task_of(model, nn.CrossEntropyLoss())
    task.compile(backend="eager", fullgraph=True)
    result = task(torch.randn(4, 3, 32, 32), torch.arange(4))
    result["loss"].backward()
    assert result["exchanged"] and all(p.grad is not None for p in model.parameters())


def test_two_models_with_moex_in_one_are_refused():
    model = nn.ModuleDict({"student": probe(), "teacher": probe()})
    for make in (MoExTask, create_task):
        with pytest.raises(ValueError, match="2 MoEx insertions, at student.*, teacher"):
            make(model, nn.CrossEntropyLoss())
