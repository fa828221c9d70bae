"""Every script in examples/ trains a few steps on packaged or generated data, and some of them exchange."""

import importlib
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch

from timm_moex import MomentExchange

EXAMPLES = Path(__file__).parents[2] / "examples"
STEPS = 8
HEAVY = {  # example → the library it needs, in the extra [examples]
    "accelerate_loop": "accelerate",
    "fastai_learner": "fastai",
    "huggingface_trainer": "transformers",
    "lightning_module": "lightning",
}
SAVE = {"accelerate_loop", "fastai_learner", "finetune_folder", "groups", "huggingface_trainer", "lightning_module"}
SITES = {"groups": 3, "segmentation": 2}  # MixStyle tosses a coin at each
BY_TORCHRUN = "distributed"
NAMES = sorted(path.stem for path in EXAMPLES.glob("*.py") if path.stem != BY_TORCHRUN)


@pytest.fixture
def exchanges():
    """A list that grows by the number of samples of each exchange."""
    seen = []

    def note(module, args, output):
        if isinstance(module, MomentExchange):
            seen.append(len(args[0]))

    handle = torch.nn.modules.module.register_module_forward_hook(note)
    yield seen
    handle.remove()


@pytest.mark.parametrize("name", NAMES)
def test_example_trains_exchanges_some_of_its_batches_and_evaluates(name, exchanges, monkeypatch, tmp_path, capsys):
    if name in HEAVY:
        pytest.importorskip(HEAVY[name], reason=f"needs {HEAVY[name]}, of the extra [examples]", exc_type=ImportError)
    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.chdir(tmp_path)
    example = importlib.import_module(name)
    monkeypatch.delitem(sys.modules, name)
    torch.manual_seed(3)  # this seed exchanges some of the eight batches in every example, and not all
    losses = [float(loss) for loss in example.main(steps=STEPS)]
    assert len(losses) == STEPS and all(math.isfinite(loss) for loss in losses)
    assert 0 < len(exchanges) < STEPS * SITES.get(name, 1) and min(exchanges) > 1
    saved = list(tmp_path.glob("output/*"))
    assert bool(saved) == (name in SAVE)
    classes = 2 if name == "groups" else 10
    assert all(timm.create_model(f"local-dir:{folder}", pretrained=True).num_classes == classes for folder in saved)
    assert name == "plain_pytorch" or re.search(r"(top-?1|intersection).*\d", capsys.readouterr().out)


def test_plain_loop_has_at_most_thirty_lines():
    source = (EXAMPLES / "plain_pytorch.py").read_text(encoding="utf-8")
    assert len([line for line in source.splitlines() if line.strip()]) <= 30


def test_two_processes_train_under_torchrun_with_permutations_of_their_own(tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    script = [*command, EXAMPLES / "distributed.py", "8"]
    done = subprocess.run(script, cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    counts = re.findall(r"rank \d: (\d+) of 8 batches exchanged", done.stdout)
    assert len(counts) == 2 and counts[0] != counts[1] and all(0 < int(count) < 8 for count in counts)
    assert "top-1: " in done.stdout
    assert timm.create_model(f"local-dir:{tmp_path / 'output/distributed'}", pretrained=True).num_classes == 10


def test_every_example_says_how_it_is_used():
    for path in EXAMPLES.glob("*.py"):
        source = path.read_text(encoding="utf-8")
        assert source.startswith('"""') and "def main(" in source, path.name
