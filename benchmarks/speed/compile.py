"""Time the exchange under torch.compile(fullgraph=True) and count graphs over 100 permutations. Writes compile.csv.

python -m benchmarks.speed.compile
python -m benchmarks.speed.compile --device cuda
"""

import torch
from torch._dynamo.utils import counters

from .._results import write_rows
from ._measure import arguments, keep_freed_memory, measure, print_rows, set_up
from .op import assert_right, contenders, tensors

FORMS = [(dtype, layout) for dtype in ("float32", "bfloat16") for layout in ("NCHW", "channels_last")]
CASES = {
    "cpu": [((64, 64, 56, 56), *form) for form in FORMS],
    "cuda": [((256, 64, 56, 56), *form) for form in FORMS] + [((256, 256, 56, 56), "bfloat16", "channels_last")],
}


def graphs_over_permutations(function, x, grad) -> int:
    """Count the graphs that Dynamo compiles for 100 permutations; 1 means that no permutation caused a recompile."""
    counters.clear()
    for _ in range(100):
        swap_index = torch.randperm(len(x), device=x.device)
        torch.autograd.grad(function(x, swap_index), x, grad)
    return counters["stats"]["unique_graphs"]


def run_case(shape: tuple, dtype: str, layout: str, device: torch.device, seconds: float, clock: str) -> list[dict]:
    x, grad, swap_index = tensors(shape, dtype, layout, device)
    y = torch.empty_like(x)
    functions, graphs = {"copy": lambda: y.copy_(x.detach())}, {}
    for name, eager in contenders(device, "pono").items():
        functions[name] = lambda f=eager: torch.autograd.grad(f(x, swap_index), x, grad)
        if name == "x * 0.5":
            continue
        torch._dynamo.reset()
        compiled = torch.compile(eager, fullgraph=True)
        assert_right(eager, "pono", x, grad, swap_index)
        small = x.detach()[:2, :, :8, :8].contiguous(memory_format=torch.channels_last).requires_grad_()
        graphs[f"{name} compiled"] = graphs_over_permutations(compiled, small, torch.ones_like(small))
        compiled = torch.compile(eager, fullgraph=True, dynamic=False)
        functions[f"{name} compiled"] = lambda f=compiled: torch.autograd.grad(f(x, swap_index), x, grad)
    where = {"shape": "x".join(map(str, shape)), "dtype": dtype, "layout": layout, "norm": "pono"}
    return [
        where | {"graphs": graphs.get(row["contender"], "")} | row for row in measure(functions, device, seconds, clock)
    ]


def main() -> None:
    options = arguments(__doc__).parse_args()
    device = set_up(options)
    keep_freed_memory(True)
    rows = []
    for shape, dtype, layout in CASES[device.type]:
        rows += (found := run_case(shape, dtype, layout, device, options.seconds, options.clock))
        print(shape, dtype, layout)
        print_rows(found, "contender", "graphs", "ms_50", "ratio_20", "ratio_50", "ratio_80")
    write_rows("compile", rows, device, options.output)


if __name__ == "__main__":
    main()
