"""`MoExLoss` mixes the labels of each draw once, and raises if a draw is lost or used twice."""

import copy
import pickle
import warnings

import pytest
import torch
from small_twins import IDX, images, twin
from timm.loss import BinaryCrossEntropy
from torch import nn

from timm_moex import MoExLoss, MoExTask, find_moex, mix_loss

X, Y = images("resnet10t"), torch.arange(4)


def bound(criterion=None, **kwargs):
    model = twin("resnet10t", **({"moex_lam": 0.7} | kwargs)).train()
    return model, MoExLoss(model, criterion or nn.CrossEntropyLoss())


@pytest.mark.parametrize(
    "criterion, target",
    [
        (nn.CrossEntropyLoss(), Y),
        (nn.CrossEntropyLoss(reduction="none"), Y),
        (nn.CrossEntropyLoss(reduction="sum"), torch.eye(10)[:4]),
        (BinaryCrossEntropy(smoothing=0.1, target_threshold=0.2), torch.rand(4, 10)),
        (torch.nn.functional.cross_entropy, Y),
    ],
)
def test_labels_are_mixed_by_the_draw(criterion, target):
    model, loss = bound(criterion)
    torch.manual_seed(1)
    exchanges = find_moex(model).draw(4, X.device)
    torch.manual_seed(1)
    output = model(X)
    index = exchanges["stem"].swap_index
    assert (index != torch.arange(4)).any()  # else any weight would do
    expected = 0.7 * criterion(output, target) + 0.3 * criterion(output, target[index])
    torch.testing.assert_close(loss(output, target), expected)


def test_evaluation_and_no_grad_are_the_criterion():
    model, loss = bound()
    output = model(X)
    with torch.no_grad():
        torch.testing.assert_close(loss(output, Y), nn.functional.cross_entropy(output, Y))
    loss(output, Y)
    model.eval()
    output = model(X)
    with torch.no_grad():
        torch.testing.assert_close(loss(output, Y), nn.functional.cross_entropy(output, Y))


def test_a_draw_that_no_loss_mixed_makes_the_next_forward_raise():
    model, loss = bound()
    model(X)
    with pytest.raises(RuntimeError, match="called again before MoExLoss.*swap_index=None.*swap_index=index"):
        model(X)
    loss(model(X), Y)  # the next step works


def test_a_loss_for_the_same_forward_twice_raises():
    model, loss = bound()
    output = model(X)
    loss(output, Y)
    with pytest.raises(RuntimeError, match="twice for one forward"):
        loss(output, Y)


def test_forwards_without_an_exchange_leave_the_loss_alone():
    model, loss = bound()
    output = model(X)
    with torch.no_grad():
        model(X)  # batch norm recalibration, say
    model.eval()(X)
    loss(output, Y)
    model.train()
    output = model(X, swap_index=None)
    torch.testing.assert_close(loss(output, Y), nn.functional.cross_entropy(output, Y))


def test_one_draw_for_the_two_forwards_of_sam():
    model, loss = bound()
    for _ in range(2):
        output = model(X, swap_index=IDX)
        expected = mix_loss(nn.functional.cross_entropy, output, Y, IDX, 0.7)
        torch.testing.assert_close(loss(output, Y), expected)
    model(X, swap_index=IDX)
    model(X, swap_index=IDX)  # those who draw themselves may also use mix_loss, and no draw is lost


def test_without_the_loss_a_model_that_mixes_labels_warns_once_and_exchanges_nothing():
    model = twin("resnet10t", moex_lam=0.7).train()
    with pytest.warns(UserWarning, match="no moments are exchanged.*MoExLoss"):
        model(X)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model(X)
    assert find_moex(model).exchanged == 0


def test_a_copy_of_the_model_does_not_draw_and_a_copy_of_both_does():
    model, loss = bound()
    assert not find_moex(copy.deepcopy(model)).mixes_labels
    for copier in (copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))):
        other, others = copier((model, loss))
        others(other(X), Y)
        assert find_moex(other).exchanged == 1 and others.moex is find_moex(other)
    assert find_moex(model).exchanged == 0


def test_the_trainer_of_hugging_face_normalises_by_the_items_of_the_step():
    for criterion in (nn.CrossEntropyLoss(), nn.CrossEntropyLoss(reduction="sum")):
        model, loss = bound(criterion, moex_lam=1.0)
        output = model(X, swap_index=None)
        halves = [loss({"logits": o}, y, num_items_in_batch=4) for o, y in zip(output.split(2), Y.split(2))]
        torch.testing.assert_close(sum(halves), nn.functional.cross_entropy(output, Y))


class Head(nn.Module):
    """A user's model, whose output is not the twin's."""

    def __init__(self, model):
        super().__init__()
        self.body = model
        self.head = nn.Linear(10, 10)

    def forward(self, x):
        return self.head(self.body(x).relu())


@pytest.mark.parametrize("wrap", [lambda model: model, Head])
def test_the_loss_mixes_the_labels_of_the_forward_behind_the_output(wrap):
    model, loss = bound()
    net = wrap(model).train()
    ema = copy.deepcopy(net).eval()
    lost = net(X)  # an interrupt came before the loss
    for plain in (ema(X), net.eval()(X), net.train()(X, swap_index=None) if net is model else ema(X)):
        torch.testing.assert_close(loss(plain, Y), nn.functional.cross_entropy(plain, Y))
    assert not torch.equal(loss(lost, Y), nn.functional.cross_entropy(lost, Y))
    plain = ema(X)
    torch.testing.assert_close(loss(plain, Y), nn.functional.cross_entropy(plain, Y))


def test_own_donors_stay_with_their_forward():
    model, loss = bound()
    others = IDX.flip(0)
    outputs = [(model(X, swap_index=index), index) for index in (IDX, others)]
    plain = model(X, swap_index=None)
    for output, index in outputs:
        expected = mix_loss(nn.functional.cross_entropy, output, Y, index, 0.7)
        torch.testing.assert_close(loss(output, Y), expected)
    torch.testing.assert_close(loss(plain, Y), nn.functional.cross_entropy(plain, Y))


def test_a_compiled_models_own_donors_reach_the_loss():
    torch._dynamo.reset()
    model, loss = bound()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    for index in (IDX, IDX.flip(0)):
        output = compiled(X, swap_index=index)
        expected = mix_loss(nn.functional.cross_entropy, output, Y, index, 0.7)
        torch.testing.assert_close(loss(output, Y), expected)


def test_logging_the_loss_of_a_detached_output_does_not_consume_a_draw():
    model, loss = bound()
    output = model(X)
    torch.testing.assert_close(loss(output.detach(), Y), nn.functional.cross_entropy(output, Y))
    assert not torch.equal(loss(output, Y), nn.functional.cross_entropy(output, Y))
    loss(output.detach(), Y)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_forward_that_failed_leaves_no_draw(error):
    model, loss = bound()

    def fail(*_):
        raise error("out of memory")

    handle = model.layer4.register_forward_hook(fail)
    with pytest.raises(error, match="out of memory"):
        model(X)
    handle.remove()
    loss(model(X[:2]), Y[:2])


def test_a_criterion_may_take_several_outputs():
    model, loss = bound(lambda outputs, target: sum(nn.functional.cross_entropy(o, target) for o in outputs))
    output = model(X)
    assert not torch.equal(loss((output, output), Y), 2 * nn.functional.cross_entropy(output, Y))


def test_the_loss_has_what_its_criterion_has():
    class Criterion(nn.CrossEntropyLoss):
        def activation(self, output):
            return output.softmax(-1)

    model, loss = bound(Criterion())
    assert loss.reduction == "mean" and torch.equal(loss.activation(X), X.softmax(-1))
    loss.reduction = "none"  # as fastai does for the loss of each sample
    assert loss(model(X), Y).shape == (4,) and copy.deepcopy(loss).criterion.reduction == "none"
    with pytest.raises(AttributeError, match="no attribute 'decodes'"):
        loss.decodes  # noqa: B018
    assert not hasattr(MoExLoss(model, torch.nn.functional.cross_entropy), "reduction")


def test_refusals():
    model, loss = bound()
    with pytest.raises(TypeError, match="criterion is already a MoExLoss"):
        MoExLoss(model, loss)
    assert MoExTask(model, loss, verbose=False).criterion is loss
    with pytest.raises(ValueError, match="has no MoEx"):
        MoExLoss(nn.Linear(2, 2), nn.CrossEntropyLoss())
    with pytest.raises(TypeError, match="criterion must be callable, got str"):
        MoExLoss(twin("resnet10t"), "ce")
    model, loss = bound()
    output = model(X)
    with pytest.raises(ValueError, match="swap_index must have shape"):
        loss(output[:2], Y[:2])


def test_a_compiled_model_called_without_donors_mixes_nothing():
    torch._dynamo.reset()
    model, loss = bound()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    loss(compiled(X), Y)
    output = compiled(X, swap_index=None)
    torch.testing.assert_close(loss(output, Y), nn.functional.cross_entropy(output, Y))
    output = compiled(X)
    loss(output, Y)
    with pytest.raises(RuntimeError, match="twice for one forward"):
        loss(output, Y)


def test_a_step_that_failed_between_model_and_loss_is_named_in_the_error():
    model, loss = bound()
    net = Head(model).train()
    net.head = nn.Linear(9, 10)
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        net(X)
    net.head = nn.Linear(10, 10)
    with pytest.raises(RuntimeError, match="If the last step failed between the model and its loss"):
        net(X)
    loss(net(X), Y)


def test_the_labels_of_a_frozen_model_are_mixed():
    model, loss = bound()
    model.requires_grad_(False)
    for _ in range(2):
        torch.manual_seed(1)
        output = model(X)
        torch.manual_seed(1)
        index = find_moex(model).draw(4, X.device)["stem"].swap_index
        expected = mix_loss(nn.functional.cross_entropy, output, Y, index, 0.7)
        torch.testing.assert_close(loss(output, Y), expected)
    net = Head(model).train()  # the head is trained
    loss(net(X), Y).backward()
