"""Time a training step that exchanges every batch against plain timm, Mixup, CutMix and the plain formula.

All contenders use the same images, model and optimizer, and time zero_grad, forward, loss, backward and step. `exchange
alone` times only the operator, forward and backward, on the site's features. Evaluation compares the twin with the
plain model. Ratios are relative to the plain step of the same round. Writes benchmarks/results/step.csv.

    python -m benchmarks.speed.step
    python -m benchmarks.speed.step --device cuda --dtype bfloat16 --layout channels_last
"""

from collections.abc import Callable
from functools import partial
from unittest.mock import patch

import timm
import torch
from timm.data import Mixup
from timm.loss import SoftTargetCrossEntropy
from torch import nn

import timm_moex
from timm_moex import mix_loss, moment_exchange

from .._results import write_rows
from ._measure import arguments, measure, print_rows, set_up

# model: (batch, side) on the CPU, on CUDA
MODELS = {
    "resnet50": ((8, 96), (256, 224)),
    "resnet20_cifar": ((64, 32), (1024, 32)),
    "convnext_tiny": ((4, 128), (256, 224)),
    "vit_small_patch16_224": ((2, 224), (256, 224)),
    "efficientnet_b0": ((8, 128), (256, 224)),
}
CLASSES = 100
EXCHANGE = "timm_moex.exchange.layer.moment_exchange"


class Step:
    """A model, its twin and a training step for each contender."""

    def __init__(self, name: str, shape: tuple, device: torch.device, dtype: torch.dtype, form: torch.memory_format):
        torch.manual_seed(0)
        self.model = timm.create_model(f"moex_{name}", num_classes=CLASSES).to(device, memory_format=form)
        self.plain = timm.create_model(name, num_classes=CLASSES).to(device, memory_format=form)
        self.plain.load_state_dict(self.model.state_dict())
        batch, side = shape
        channels = self.plain.default_cfg["input_size"][0]
        self.images = torch.randn(batch, channels, side, side, device=device).to(memory_format=form)
        self.target = torch.randint(CLASSES, (batch,), device=device)
        self.autocast = partial(torch.autocast, device.type, dtype, enabled=dtype != torch.float32)
        self.optimizers = {m: torch.optim.SGD(m.parameters(), 1e-3, 0.9) for m in (self.model, self.plain)}
        self.hard, self.soft = nn.CrossEntropyLoss(), SoftTargetCrossEntropy()

    def run(self, model: nn.Module, loss) -> None:
        self.optimizers[model].zero_grad()
        with self.autocast():
            value = loss()
        value.backward()
        self.optimizers[model].step()

    def train_plain(self) -> None:
        self.run(self.plain, lambda: self.hard(self.plain(self.images), self.target))

    def train_mixed(self, mixup: Mixup) -> None:
        images, target = mixup(self.images.clone(), self.target)  # Mixup writes into its input
        self.run(self.plain, lambda: self.soft(self.plain(images), target))

    def train_exchanged(self, backend: str | None = None) -> None:
        swap_index = torch.randperm(len(self.images)).to(self.target.device)

        def loss():
            output = self.model(self.images, swap_index=swap_index)
            return mix_loss(self.hard, output, self.target, swap_index, 0.9)

        with patch(EXCHANGE, partial(moment_exchange, backend=backend)):
            self.run(self.model, loss)

    def exchange_alone(self) -> Callable[[], object]:
        """Return a function that runs only the operator, forward and backward, on the input of the site."""
        calls = []

        def spy(x, swap_index, **settings):
            calls.append((x.detach().requires_grad_(), swap_index, settings))
            return x

        with patch(EXCHANGE, spy), torch.no_grad(), self.autocast():
            self.model(self.images, swap_index=torch.randperm(len(self.images)).to(self.target.device))
        ((x, swap_index, settings),) = calls
        grad = torch.randn_like(x)
        return lambda: torch.autograd.grad(moment_exchange(x, swap_index, **settings), x, grad)

    def evaluate(self, model: nn.Module) -> None:
        with torch.inference_mode(), self.autocast():
            model(self.images)


def run_model(name: str, device: torch.device, options) -> list[dict]:
    shape = MODELS[name][device.type == "cuda"]
    form = torch.channels_last if options.layout == "channels_last" else torch.contiguous_format
    step = Step(name, shape, device, getattr(torch, options.dtype), form)
    step.plain.eval(), step.model.eval()
    with torch.inference_mode():
        assert torch.equal(step.plain(step.images), step.model(step.images)), "the twin is not the plain model"
    where = {"model": name, "shape": "x".join(map(str, step.images.shape)), "dtype": options.dtype}
    where |= {"layout": options.layout, "site": timm_moex.find_moex(step.model).site_names[0]}
    evaluation = {"plain": lambda: step.evaluate(step.plain), "exchange": lambda: step.evaluate(step.model)}
    rows = [{"work": "evaluate"} | row for row in measure(evaluation, device, options.seconds, options.clock)]
    step.plain.train(), step.model.train()
    mixup, cutmix = Mixup(0.2, num_classes=CLASSES), Mixup(0.0, 1.0, num_classes=CLASSES)
    training = {
        "plain": step.train_plain,
        "exchange": step.train_exchanged,
        "exchange alone": step.exchange_alone(),
        "exchange, plain formula": lambda: step.train_exchanged("reference"),
        "Mixup": lambda: step.train_mixed(mixup),
        "CutMix": lambda: step.train_mixed(cutmix),
    }
    if device.type == "cuda":  # Triton is the default there
        training["exchange, closed form"] = lambda: step.train_exchanged("closed_form")
    rows += [{"work": "train"} | row for row in measure(training, device, 4 * options.seconds, options.clock)]
    return [where | row for row in rows]


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS), metavar="MODEL")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32", help="bfloat16 by autocast")
    parser.add_argument("--layout", choices=["NCHW", "channels_last"], default="NCHW")
    options = parser.parse_args()
    device = set_up(options)
    rows = []
    for name in options.models:
        rows += (found := run_model(name, device, options))
        print(name)
        print_rows(found, "work", "contender", "ms_50", "ratio_20", "ratio_50", "ratio_80", "ratio_min")
        write_rows("step", rows, device, options.output)  # after each model: GPU time can end before the last one


if __name__ == "__main__":
    main()
