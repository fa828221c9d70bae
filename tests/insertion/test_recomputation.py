"""Gradient checkpointing recomputes a segment with the exchange of the forward it belongs to, or raises."""

import copy
import threading

import pytest
import timm
import torch
from torch.utils.checkpoint import checkpoint

from timm_moex import exchanging, insert_moex
from timm_moex.insertion import forwards

BATCH = 6
INDEXES = [torch.tensor(p) for p in ([1, 2, 3, 4, 5, 0], [5, 4, 3, 2, 1, 0], [2, 3, 4, 5, 0, 1])]


def gradients(model):
    found = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    return found


class Checkpointed(torch.nn.Module):
    """A twin whose site is in a checkpointed segment, reentrant or not."""

    def __init__(self, use_reentrant):
        super().__init__()
        self.a, self.b, self.c = torch.nn.Linear(5, 7), torch.nn.Linear(7, 7), torch.nn.Linear(7, 3)
        self.use_reentrant = use_reentrant

    def forward(self, x):
        x = self.a(x)
        segment = lambda x: self.b(x.sin()).cos()  # noqa: E731
        x = segment(x) if self.use_reentrant is None else checkpoint(segment, x, use_reentrant=self.use_reentrant)
        return self.c(x)


def nets(use_reentrant):
    torch.manual_seed(0)
    net = Checkpointed(None)
    insert_moex(net, "b", norm="pono", channel_dim=-1)
    checkpointed = copy.deepcopy(net)
    checkpointed.use_reentrant = use_reentrant
    return net.train(), checkpointed.train()


def rows(seed=0):
    return torch.randn(BATCH, 5, generator=torch.Generator().manual_seed(seed))


ORDERS = {
    "both at once": lambda losses: sum(losses).backward(),
    "first first": lambda losses: [loss.backward() for loss in losses],
    "last first": lambda losses: [loss.backward() for loss in reversed(losses)],
}


@pytest.mark.parametrize("use_reentrant", [False, True])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("indexes", [(0, 1), (0, None), (None, 0), (0, 1, None, 2)])
def test_several_checkpointed_forwards_before_backward_keep_their_own_exchange(use_reentrant, order, indexes):
    results = []
    for net in nets(use_reentrant):
        losses = [
            net(rows(n), swap_index=None if i is None else INDEXES[i]).square().mean() for n, i in enumerate(indexes)
        ]
        ORDERS[order](losses)
        results.append(gradients(net))
    for a, b in zip(*results):
        torch.testing.assert_close(b, a)


def test_timms_checkpointing_of_two_forwards():
    model = insert_moex(timm.create_model("resnet10t", num_classes=10), "stage2").train()
    checkpointed = copy.deepcopy(model)
    checkpointed.set_grad_checkpointing(True)
    results = []
    for m in (model, checkpointed):
        losses = [
            m(torch.randn(BATCH, 3, 32, 32, generator=torch.Generator().manual_seed(n)), swap_index=INDEXES[n])
            .square()
            .mean()
            for n in range(2)
        ]
        sum(losses).backward()
        results.append(gradients(m))
    for a, b in zip(*results):
        torch.testing.assert_close(b, a)


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_an_evaluation_between_forward_and_backward_changes_no_gradient(use_reentrant):
    results = []
    for net in nets(use_reentrant):
        loss = net(rows(), swap_index=INDEXES[0]).square().mean()
        with torch.no_grad():
            net(rows(1)), net(rows(1), swap_index=INDEXES[1])
        loss.backward()
        results.append(gradients(net))
    for a, b in zip(*results):
        torch.testing.assert_close(b, a)


@pytest.mark.parametrize("use_reentrant", [False, True])
@pytest.mark.parametrize("way", ["call", "direct"])
def test_recomputation_within_an_exchanging_body_and_after_it(use_reentrant, way):
    results = []
    for net in nets(use_reentrant):
        with exchanging(net, INDEXES[0]):
            net(rows()).square().mean().backward()
        with exchanging(net, INDEXES[1]):
            loss = (net(rows(1)) if way == "call" else net.forward(rows(1))).square().mean()
        net(rows(2), swap_index=None)
        loss.backward()
        results.append(gradients(net))
    for a, b in zip(*results):
        torch.testing.assert_close(b, a)


@pytest.mark.parametrize("use_reentrant", [False, True])
@pytest.mark.filterwarnings("ignore:this model has moex_prob")
def test_a_checkpointed_direct_call_is_recomputed_plainly(use_reentrant):
    results = []
    for net in nets(use_reentrant):
        before = net.forward(rows()).square().mean()
        exchanged = net(rows(1), swap_index=INDEXES[0]).square().mean()
        after = net.forward(rows(2)).square().mean()
        (before + exchanged + after).backward()
        results.append(gradients(net))
    for a, b in zip(*results):
        torch.testing.assert_close(b, a)


@pytest.mark.parametrize("inner", [None, 1])
def test_a_checkpointed_call_within_another_is_recomputed_as_itself(inner):
    results = []
    for net in nets(False):
        losses = []

        def call(module, args, net=net, losses=losses):
            if not losses:
                losses.append(None)
                index = None if inner is None else INDEXES[inner]
                losses.append(net(rows(1), swap_index=index).square().mean())

        net.c.register_forward_pre_hook(call)
        losses.append(net(rows(), swap_index=INDEXES[0]).square().mean())
        sum(losses[1:]).backward()
        results.append(gradients(net))
    for a, b in zip(*results):
        torch.testing.assert_close(b, a)


def test_checkpointed_forwards_of_two_threads_are_right_or_refused():
    net, checkpointed = nets(False)
    expected = []
    for n in range(2):
        net(rows(n), swap_index=INDEXES[n]).square().mean().backward()
        expected.append(gradients(net))
    losses = {}

    def forward(n):
        losses[n] = checkpointed(rows(n), swap_index=INDEXES[n]).square().mean()

    threads = [threading.Thread(target=forward, args=(n,)) for n in range(2)]
    for thread in threads:
        thread.start()
        thread.join()
    for n in range(2):  # the nodes of both threads have the same numbers
        with pytest.raises(RuntimeError, match="matches forwards of two threads"):
            losses[n].backward()
    del losses[1]
    forward(0)
    checkpointed.zero_grad()
    losses[0].backward()
    for a, b in zip(expected[0], gradients(checkpointed)):
        torch.testing.assert_close(b, a)


def test_forwards_are_forgotten_with_their_graphs():
    net = nets(False)[1]
    for n in range(5):
        loss = net(rows(n), swap_index=INDEXES[0]).square().mean()
        if n % 2:
            loss.backward()
    del loss
    net(rows(), swap_index=None)
    kept = [forward for forward in forwards._known if forward.moex is net.moex]
    assert len(kept) <= 1 and all(not forward.exchanges for forward in kept)


def test_a_recomputation_of_unknown_origin_is_refused():
    net = nets(False)[1]
    loss = net(rows(), swap_index=INDEXES[0]).square().mean()
    forwards._known.clear()
    with pytest.raises(RuntimeError, match="the forward that first computed it is unknown"):
        loss.backward()
