"""Time the exchange operator relative to `y.copy_(x)` in the same round.

Contenders: `x * 0.5`, which reads and writes once in forward and once in backward, the minimum for an operator that
returns a new tensor; `reference`, the formula under autograd; and the package's `closed_form` and, on CUDA, `triton`.
On the CPU, four cases are repeated with the system's allocator (`allocator` = system), for which new pages are
expensive. Writes benchmarks/results/op.csv.

    python -m benchmarks.speed.op
    python -m benchmarks.speed.op --device cuda
"""

import torch
from torch import Tensor

from timm_moex import moment_exchange
from timm_moex.exchange.backend import BACKENDS

from .._results import write_rows
from ._measure import arguments, keep_freed_memory, measure, print_rows, set_up

CPU_CASES = [
    ((64, 64, 56, 56), dtype, layout, "pono", allocator)
    for dtype in ("float32", "bfloat16")
    for layout in ("NCHW", "channels_last")
    for allocator in ("kept", "system")
] + [
    ((32, 256, 56, 56), "float32", "NCHW", "pono", "kept"),
    ((64, 64, 56, 56), "float32", "NCHW", "in", "kept"),
    ((64, 64, 56, 56), "float32", "channels_last", "in", "kept"),
    ((64, 64, 56, 56), "float32", "NCHW", "ln", "kept"),
]
CUDA_CASES = [
    ((256, 64, 56, 56), dtype, layout, norm, "cuda")
    for norm in ("pono", "in", "ln")
    for dtype in ("float32", "bfloat16")
    for layout in ("NCHW", "channels_last")
] + [((256, 256, 56, 56), "bfloat16", "channels_last", "pono", "cuda")]


def elementwise(x: Tensor, swap_index: Tensor) -> Tensor:
    return x * 0.5


def contenders(device: torch.device, norm: str) -> dict:
    names = [name for name in BACKENDS if name != "triton" or device.type == "cuda"]

    def exchange(backend):
        return lambda x, swap_index: moment_exchange(x, swap_index, norm=norm, backend=backend)

    return {"x * 0.5": elementwise} | {name: exchange(name) for name in names}


def tensors(shape: tuple, dtype: str, layout: str, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Draw features that require a gradient, a gradient of the output, and a permutation."""
    form = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    x, grad = (torch.randn(shape, device=device).to(getattr(torch, dtype), memory_format=form) for _ in range(2))
    return x.requires_grad_(), grad, torch.randperm(shape[0], device=device)


def assert_right(exchange, norm: str, x: Tensor, grad: Tensor, swap_index: Tensor) -> None:
    """Check that output and gradient have at most twice the error of the reference in the same dtype."""
    few = min(8, len(x))
    x, grad, swap_index = x.detach()[:few], grad[:few], swap_index.argsort()[:few].argsort()

    def run(function, x, grad):
        x = x.requires_grad_()
        y = function(x, swap_index)
        return y.detach().double(), torch.autograd.grad(y, x, grad)[0].double()

    def reference(x, swap_index):
        return moment_exchange(x, swap_index, norm=norm, backend="reference")

    exact = run(reference, x.double(), grad.double())
    for found, low, true in zip(run(exchange, x.clone(), grad), run(reference, x.clone(), grad), exact):
        error, allowed = (found - true).abs().max(), 2 * (low - true).abs().max() + 1e-6
        assert error <= allowed, f"error {error} > {allowed}"


def directions(function, x: Tensor, grad: Tensor, swap_index: Tensor) -> dict:
    y = function(x, swap_index)
    return {
        "forward": lambda: function(x, swap_index),
        "backward": lambda: torch.autograd.grad(y, x, grad, retain_graph=True),
        "both": lambda: torch.autograd.grad(function(x, swap_index), x, grad),
    }


def run_case(case: tuple, device: torch.device, seconds: float, clock: str) -> list[dict]:
    shape, dtype, layout, norm, allocator = case
    keep_freed_memory(allocator == "kept")
    x, grad, swap_index = tensors(shape, dtype, layout, device)
    y = torch.empty_like(x)
    functions = {("copy", "both"): lambda: y.copy_(x.detach())}
    for name, function in contenders(device, norm).items():
        if name != "x * 0.5":
            assert_right(function, norm, x, grad, swap_index)
        for direction, call in directions(function, x, grad, swap_index).items():
            functions[name, direction] = call
    where = {"shape": "x".join(map(str, shape)), "dtype": dtype, "layout": layout, "norm": norm, "allocator": allocator}
    rows = []
    for row in measure(functions, device, seconds, clock):
        name, direction = row.pop("contender")
        rows.append(where | {"contender": name, "direction": direction} | row)
    return rows


def main() -> None:
    parser = arguments(__doc__)
    options = parser.parse_args()
    device = set_up(options)
    rows = []
    for case in CUDA_CASES if device.type == "cuda" else CPU_CASES:
        rows += (found := run_case(case, device, options.seconds, options.clock))
        print(*case)
        print_rows(found, "contender", "direction", "ms_50", "ratio_20", "ratio_50", "ratio_80")
    write_rows("op", rows, device, options.output)


if __name__ == "__main__":
    main()
