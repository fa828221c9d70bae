"""Compare the kernels with the reference; test_triton.py runs this in a separate process.

With TRITON_INTERPRET=1 in Triton's interpreter, else on a GPU.
"""

import itertools
import os
import sys
from functools import partial

import torch

from timm_moex import moment_exchange
from timm_moex.exchange import backend as default

assert "timm_moex.exchange._triton" not in sys.modules, "triton is imported before it is asked for"

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
torch.set_default_device("cpu" if INTERPRETED else "cuda")
DONORS = torch.tensor([1, 1, 0, 4, 2])  # a map, not a permutation
NORMS = ["pono", "in", "ln", "gn2", "gn-d2", "gpono2", "gpono-d3"]


def features(layout, shape=(5, 6, 7, 3)):
    x = torch.randn(shape) * 2 + 1
    if layout == "channels_last":
        return x.contiguous(memory_format=torch.channels_last), 1
    if layout == "last_axis":
        return x.movedim(1, -1).contiguous(), -1
    if layout == "gaps":
        return torch.stack([x, x + 1], 2).flatten(1, 2)[:, ::2].transpose(2, 3), 1
    return x, 1


def run(x, grad, backend, swap_index=None, **settings):
    x = x.detach().requires_grad_()
    swap_index = DONORS[: len(x)] % len(x) if swap_index is None else swap_index
    y = moment_exchange(x, swap_index, eps=1e-2, backend=backend, **settings)
    return y.detach(), torch.autograd.grad(y, x, grad)[0]


def check(x, **settings):
    grad = torch.randn_like(x)
    exact = run(x.float(), grad.float(), "reference", **settings)
    plain = run(x, grad, "reference", **settings)
    for found, low, true in zip(run(x, grad, "triton", **settings), plain, exact):
        # The interpreter truncates to bfloat16, and a GPU rounds to nearest.
        factor = 4 if x.dtype == torch.bfloat16 and INTERPRETED else 2
        error, allowed = (found - true).abs().max(), factor * (low - true).abs().max() + 2e-5
        assert found.dtype == x.dtype and error <= allowed, f"{x.shape} {x.dtype} {settings}: {error} > {allowed}"


torch.manual_seed(0)
cases = [(norm, "contiguous") for norm in NORMS] + [(norm, "channels_last") for norm in ("pono", "in", "gpono2")]
for norm, layout in [*cases, ("pono", "last_axis"), ("gn2", "gaps")]:
    x, channel_dim = features(layout)
    check(x, norm=norm, channel_dim=channel_dim)
for moments, layout in itertools.product(["mean", "std"], ["contiguous", "channels_last"]):
    check(features(layout)[0], moments=moments)
SHARES = torch.tensor([0.0, 1.0, 0.3, 0.9, 0.5])
for moments, detach, share in itertools.product(["both", "mean", "std"], ["none", "donor", "both"], [None, SHARES]):
    for layout in ("contiguous", "channels_last"):
        check(features(layout)[0], moments=moments, detach=detach, own_share=share)
check(features("gaps")[0], norm="gn2", own_share=SHARES.double(), detach="donor")
check(features("contiguous")[0], own_share=torch.tensor(0.3).expand(5))  # the kernels read shares and donors one by one
check(features("contiguous")[0], swap_index=torch.stack([DONORS, 4 - DONORS], 1)[:, 0])
for dtype, layout in [(torch.bfloat16, "contiguous"), (torch.bfloat16, "channels_last"), (torch.float16, "contiguous")]:
    check(features(layout, (3, 67, 13, 5))[0].to(dtype))
    for detach in ("none", "both"):
        check(features(layout, (3, 67, 13, 5))[0].to(dtype), norm="in", own_share=SHARES[1:4], detach=detach)
    check(features(layout, (3, 5, 37, 31))[0].to(dtype), norm="in")  # more than one tile of R
check(torch.randn(2, 1031), norm="pono")

y = torch.ops.timm_moex.exchange(torch.randn(2, 3, 4), torch.tensor([2, -1]), None, [1], 1e-5, "both", "none")[0]
assert y.isnan().all(), "an index out of range went unnoticed"
forward = torch.ops.timm_moex.exchange.default
x = features("channels_last")[0].requires_grad_()
for own_share, detach in ((None, "none"), (SHARES, "donor"), (SHARES, "both")):
    torch.library.opcheck(forward, (x, DONORS, own_share, [1], 1e-5, "both", detach))
    settings = {"own_share": own_share, "detach": detach}
    exchange = partial(moment_exchange, swap_index=DONORS, eps=1e-2, backend="triton", **settings)
    compiled = torch.compile(exchange, fullgraph=True, backend="aot_eager")
    values = features("channels_last")[0].requires_grad_()
    grad = torch.randn_like(values)
    of_graph = torch.autograd.grad(compiled(values), values, grad)[0]
    torch.testing.assert_close(of_graph, run(values, grad, "triton", **settings)[1])
for own_share, detach in ((None, "none"), (SHARES, "donor")):
    second, (values, _), along = [], features("channels_last"), torch.randn(5, 6, 7, 3)
    for backend in ("reference", "triton"):
        x, grad = values.detach().requires_grad_(), along.detach().requires_grad_()
        y = moment_exchange(x, DONORS, eps=1e-2, backend=backend, own_share=own_share, detach=detach)
        (first,) = torch.autograd.grad(y, x, grad, create_graph=True)
        second.append(torch.autograd.grad(first, (x, grad), along.cos()))
    torch.testing.assert_close(second[1], second[0], rtol=1e-4, atol=1e-5)
if INTERPRETED:  # the trial that the default rests on, as a GPU has it
    ones = torch.ones
    torch.ones = lambda *size, device, **how: ones(*size, **how)
for mode in (torch.no_grad, torch.inference_mode):
    default._triton_runs.cache_clear()
    with mode():
        assert default._triton_runs(0), f"Triton passes for broken under {mode.__name__}"
if not INTERPRETED:
    x = features("contiguous")[0]
    for settings in ({}, {"own_share": SHARES, "detach": "both"}):
        default_y, y = (moment_exchange(x, DONORS, backend=backend, **settings) for backend in (None, "triton"))
        assert default_y.equal(y), f"Triton is not the default on a GPU with {settings}"
print("interpreted" if INTERPRETED else "on a GPU", "equal to the reference", sep=": ")
