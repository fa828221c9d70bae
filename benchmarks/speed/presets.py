"""Time a training step of each preset against plain timm: ResNet-50, with every site exchanging in every step.

This is an upper bound on the cost of a preset: MixStyle's sites exchange in half of the steps, permuted AdaIN's in 1%.
The rows `NAME alone` time only the operators, forward and backward, on the sites' features. Writes
benchmarks/results/presets.csv.

    python -m benchmarks.speed.presets
    python -m benchmarks.speed.presets --device cuda
"""

from collections.abc import Callable
from unittest.mock import patch

import timm
import torch
from torch import nn

from timm_moex import draw_own_share, find_moex
from timm_moex.insertion.presets import PRESETS
from timm_moex.insertion.site_exchange import SiteExchange

from .._results import write_rows
from ._measure import arguments, measure, print_rows, set_up

MODEL, CLASSES = "resnet50", 100
SHAPES = {"cpu": (8, 96), "cuda": (128, 224)}  # batch, side


class PresetStep:
    """Training steps of a twin with a preset, or of plain timm's model without one."""

    def __init__(self, preset: str | None, images: torch.Tensor, target: torch.Tensor):
        torch.manual_seed(0)
        settings = {} if preset is None else {"moex_preset": preset}
        name = MODEL if preset is None else f"moex_{MODEL}"
        self.model = timm.create_model(name, num_classes=CLASSES, **settings).to(images.device).train()
        self.optimizer = torch.optim.SGD(self.model.parameters(), 1e-3, 0.9)
        self.moex = find_moex(self.model)
        self.images, self.target, self.criterion = images, target, nn.CrossEntropyLoss()

    def draw(self) -> dict[str, dict[str, torch.Tensor]]:
        """Draw donors for every site, and shares if the preset uses them."""
        device, sites = self.images.device, self.moex.site_names
        drawn = {"swap_index": {site: torch.randperm(len(self.images)).to(device) for site in sites}}
        if self.moex.alpha:
            shares = {site: draw_own_share(len(self.images), self.moex.alpha).to(device) for site in sites}
            drawn["own_share"] = shares
        return drawn

    def train(self) -> None:
        self.optimizer.zero_grad()
        output = self.model(self.images, **({} if self.moex is None else self.draw()))
        self.criterion(output, self.target).backward()
        self.optimizer.step()

    def exchanges_alone(self) -> Callable[[], None]:
        """Return a function that runs only the operators, forward and backward, on the inputs of the sites."""
        calls, exchange = [], SiteExchange.forward

        def spy(site, x, swap_index, own_share=None):
            calls.append((site, x.detach().requires_grad_(), swap_index, own_share))
            return x

        with patch.object(SiteExchange, "forward", spy), torch.no_grad():
            self.model(self.images, **self.draw())
        grads = [torch.randn_like(x) for _, x, *_ in calls]

        def run() -> None:
            for (site, x, *drawn), grad in zip(calls, grads):
                torch.autograd.grad(exchange(site, x, *drawn), x, grad)

        return run


def main() -> None:
    options = arguments(__doc__).parse_args()
    device = set_up(options)
    batch, side = SHAPES[device.type]
    images, target = torch.randn(batch, 3, side, side, device=device), torch.randint(CLASSES, (batch,), device=device)
    steps = {name: PresetStep(name, images, target) for name in PRESETS}
    training = {"plain": PresetStep(None, images, target).train} | {name: s.train for name, s in steps.items()}
    training |= {f"{name} alone": step.exchanges_alone() for name, step in steps.items()}
    where = {"model": MODEL, "shape": f"{batch}x3x{side}x{side}", "dtype": "float32", "layout": "NCHW"}
    rows = []
    for row in measure(training, device, options.seconds, options.clock):
        preset = row["contender"].removesuffix(" alone")
        sites = len(steps[preset].moex.site_names) if preset in steps else 0
        rows.append(where | {"sites": sites} | row)
    print_rows(rows, "contender", "sites", "ms_50", "ratio_20", "ratio_50", "ratio_80", "ratio_min")
    write_rows("presets", rows, device, options.output)


if __name__ == "__main__":
    main()
