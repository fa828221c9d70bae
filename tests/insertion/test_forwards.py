"""An exchange belongs to one forward: other threads, nested calls and interrupts do not affect it."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import timm
import torch

from timm_moex import exchanging, insert_moex
from timm_moex.insertion import forwards

BATCH = 6
INDEXES = [torch.tensor(p) for p in ([1, 2, 3, 4, 5, 0], [5, 4, 3, 2, 1, 0], [2, 3, 4, 5, 0, 1], [3, 4, 5, 0, 1, 2])]


def twin(**kwargs):
    torch.manual_seed(0)
    return insert_moex(timm.create_model("resnet10t", num_classes=10), **kwargs)


def images(seed=0):
    return torch.randn(BATCH, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


def features(model, x):
    return model.forward_head(model.forward_features(x))


# Threads


def test_threads_on_one_model_each_exchange_their_own():
    model = twin().eval()
    x = images()
    with torch.no_grad():
        expected = [model(x, swap_index=index) for index in INDEXES] + [model(x)]
    meet = threading.Barrier(5)
    wrong = []

    def work(number):
        index = INDEXES[number] if number < 4 else None
        meet.wait()
        with torch.no_grad():
            for _ in range(30):
                if not torch.equal(model(x, swap_index=index), expected[number]):
                    wrong.append(number)

    with ThreadPoolExecutor(5) as pool:
        list(pool.map(work, range(5)))
    assert not wrong


def test_a_forward_that_waits_in_its_site_is_not_changed_by_one_in_another_thread():
    model = twin().eval()
    x, inside, go_on = images(), threading.Event(), threading.Event()
    with torch.no_grad():
        expected = [model(x, swap_index=index) for index in INDEXES[:2]]

    def wait(module, args):
        if threading.current_thread().name == "slow":
            inside.set()
            assert go_on.wait(60)

    model.conv1.register_forward_pre_hook(wait)
    results = {}

    def slow():
        with torch.no_grad():
            results["slow"] = model(x, swap_index=INDEXES[0])

    thread = threading.Thread(target=slow, name="slow")
    thread.start()
    assert inside.wait(60)
    with torch.no_grad():
        between = model(x, swap_index=INDEXES[1])
    go_on.set()
    thread.join()
    assert torch.equal(between, expected[1]) and torch.equal(results["slow"], expected[0])


# Calls within calls


@pytest.mark.parametrize("inner", [None, 1], ids=["plain", "exchanging"])
@pytest.mark.parametrize("place", ["conv1", "layer2"])
def test_a_call_from_a_hook_does_not_affect_the_exchanging_forward_around_it(inner, place):
    model = twin().eval()
    x = images()
    inner = {} if inner is None else {"swap_index": INDEXES[inner]}
    with torch.no_grad():
        expected, expected_inner = model(x, swap_index=INDEXES[0]), model(x, **inner)
        seen = []

        def call(module, args, output):
            if not seen:
                seen.append(None)
                seen.append(model(x, **inner))

        getattr(model, place).register_forward_hook(call)
        assert torch.equal(model(x, swap_index=INDEXES[0]), expected)
        assert torch.equal(seen[1], expected_inner)
        seen.clear()
        with exchanging(model, INDEXES[0]):
            assert torch.equal(model(x), expected)
        assert torch.equal(seen[1], expected_inner)


def test_a_failing_call_in_a_hook_does_not_affect_the_outer_forward():
    model = twin().eval()
    x = images()
    with torch.no_grad():
        expected = model(x, swap_index=INDEXES[0])
        seen = []

        def call(module, args, output):
            if not seen:
                seen.append(None)
                with pytest.raises(ValueError, match="shape"):
                    model(x, swap_index=INDEXES[1][:2])

        model.conv1.register_forward_hook(call)
        assert torch.equal(model(x, swap_index=INDEXES[0]), expected)


def test_a_forward_within_backward_exchanges_as_any_other():
    model = twin().eval()
    x, seen = images(), []
    expected = model(x, swap_index=INDEXES[1]).detach()
    y = torch.ones(3, requires_grad=True).sum()
    y.register_hook(lambda grad: seen.append(model(x, swap_index=INDEXES[1]).detach()))
    y.backward()
    assert torch.equal(seen[0], expected)


# Ends by force


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, RuntimeError, GeneratorExit])
@pytest.mark.parametrize("place", ["conv1", "layer3"])
def test_no_way_of_ending_a_forward_leaves_state_behind(error, place):
    model = twin().eval()
    x = images()
    with torch.no_grad():
        plain, expected = model(x), model(x, swap_index=INDEXES[1])

        def stop(module, args):
            raise error("stop")

        handle = getattr(model, place).register_forward_pre_hook(stop)
        with pytest.raises(error) as caught:  # keeps the traceback, and with it the frames, alive
            model(x, swap_index=INDEXES[0])
        with pytest.raises(error), exchanging(model, INDEXES[0]):
            model.forward_features(x)
        handle.remove()
        assert torch.equal(features(model, x), plain)
        assert torch.equal(model(x), plain)
        with exchanging(model, INDEXES[1]):
            assert torch.equal(features(model, x), expected)
        assert caught.value.args == ("stop",)
    assert not forwards._local.stack


def test_an_interrupt_caught_by_a_hook_does_not_affect_the_outer_forward():
    model = twin().eval()
    x, calls = images(), []
    with torch.no_grad():
        expected = model(x, swap_index=INDEXES[0])

        def interrupted(module, args):
            calls.append(module)
            if len(calls) == 1:
                with pytest.raises(KeyboardInterrupt):
                    model(x, swap_index=INDEXES[1])
            elif len(calls) == 2:
                raise KeyboardInterrupt

        model.bn1.register_forward_pre_hook(interrupted)
        assert torch.equal(model(x, swap_index=INDEXES[0]), expected)
    assert len(calls) == 2
