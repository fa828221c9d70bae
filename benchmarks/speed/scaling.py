"""Time the exchange by batch, side and channels: forward and backward, PONO. Writes benchmarks/results/scaling.csv.

python -m benchmarks.speed.scaling
python -m benchmarks.speed.scaling --device cuda
"""

import torch

from .._results import write_rows
from ._measure import arguments, keep_freed_memory, measure, print_rows, set_up
from .op import contenders, tensors

BATCH, CHANNELS, SIDE = 32, 64, 28
SWEEPS = {
    "batch": [(b, CHANNELS, SIDE, SIDE) for b in (8, 16, 32, 64, 128, 256, 512)],
    "side": [(BATCH, CHANNELS, s, s) for s in (14, 28, 56, 112)],
    "channels": [(BATCH, c, SIDE, SIDE) for c in (16, 32, 64, 128, 256, 512, 1024)],
}


def run_shape(shape: tuple, device: torch.device, seconds: float, clock: str) -> list[dict]:
    x, grad, swap_index = tensors(shape, "float32", "NCHW", device)
    y = torch.empty_like(x)
    functions = {"copy": lambda: y.copy_(x.detach())}
    for name, function in contenders(device, "pono").items():
        functions[name] = lambda f=function: torch.autograd.grad(f(x, swap_index), x, grad)
    where = {"shape": "x".join(map(str, shape)), "elements": x.numel()}
    return [where | row for row in measure(functions, device, seconds, clock)]


def main() -> None:
    options = arguments(__doc__).parse_args()
    device = set_up(options)
    keep_freed_memory(True)
    rows = []
    for sweep, shapes in SWEEPS.items():
        for shape in shapes:
            found = run_shape(shape, device, options.seconds / 6, options.clock)
            print(sweep, *shape)
            print_rows(found, "contender", "ms_50", "ratio_50")
            rows += [{"sweep": sweep} | row for row in found]
    write_rows("scaling", rows, device, options.output)


if __name__ == "__main__":
    main()
