"""Measure the memory that an exchange keeps for backward, relative to its input. Writes benchmarks/results/memory.csv.

On CUDA also measure the peak of one forward and backward, in addition to the input and the gradient of the output.

    python -m benchmarks.speed.memory
"""

import torch

from .._results import write_rows
from ._measure import arguments, print_rows, set_up
from .op import contenders, tensors

SHAPE = (64, 64, 56, 56)


def kept(function, x, swap_index) -> int:
    """Count the bytes of the distinct storages that autograd saves, including the input's."""
    storages = {}

    def pack(tensor):
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        function(x, swap_index)
    return sum(storages.values())


def peak(function, x, grad, swap_index) -> int:
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    torch.autograd.grad(function(x, swap_index), x, grad)
    return torch.cuda.max_memory_allocated() - before


def main() -> None:
    options = arguments(__doc__).parse_args()
    device = set_up(options)
    rows = []
    for dtype in ("float32", "bfloat16"):
        for layout in ("NCHW", "channels_last"):
            for norm in ("pono", "in"):
                x, grad, swap_index = tensors(SHAPE, dtype, layout, device)
                size = x.numel() * x.element_size()
                for name, function in contenders(device, norm).items():
                    row = {"shape": "x".join(map(str, SHAPE)), "dtype": dtype, "layout": layout, "norm": norm}
                    row |= {"contender": name, "kept_per_input": f"{kept(function, x, swap_index) / size:.3f}"}
                    on_gpu = device.type == "cuda"
                    row["peak_per_input"] = f"{peak(function, x, grad, swap_index) / size:.3f}" if on_gpu else ""
                    rows.append(row)
    print_rows(rows, "dtype", "layout", "norm", "contender", "kept_per_input", "peak_per_input")
    write_rows("memory", rows, device, options.output)


if __name__ == "__main__":
    main()
