"""The built-in trainer: exact resume, its errors, and the files it writes."""

import csv

import pytest
import timm
import torch
from timm.models import load_checkpoint as timm_load_checkpoint
from timm.task import resume_task_checkpoint
from tinydata import tiny_recipe, write_tiny

import timm_moex.training.loop as trainer
from timm_moex import create_task
from timm_moex.training.build import set_up_training
from timm_moex.training.loop import train
from timm_moex.training.model import create_model


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_tiny(tmp_path_factory.mktemp("tiny"))


def run(recipe, folder, **kwargs):
    return train(recipe, folder, log=lambda line: None, progress=False, **kwargs)


def load(path):
    return torch.load(path, weights_only=True)


def assert_same(a, b, where=""):
    assert type(a) is type(b), where
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_same(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b)):
            assert_same(x, y, f"{where}[{i}]")
    else:
        assert a == b, where


def stop_at(monkeypatch, epoch):
    """Kill the process in the middle of an epoch, after some of its steps."""
    real = trainer._backward
    steps = iter(range(1000))

    def backward(run, loss, update):
        real(run, loss, update)
        if next(steps) == epoch * len(run.train_loader) + 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(trainer, "_backward", backward)


RESUMED = {
    "plain": dict(),
    "in_memory": dict(in_memory=True),
    "ema_mixup_erasing_in_memory": dict(in_memory=True, model_ema=True, mixup=0.2, cutmix=1.0, reprob=0.5),
    "workers_adamw_accumulation_per_update": dict(
        workers=2, opt="adamw", lr=1e-3, grad_accum_steps=2, sched_on_updates=True, clip_grad=1.0, reprob=0.5
    ),
}


@pytest.mark.parametrize("name", RESUMED)
def test_resume_continues_bit_exactly(name, data, tmp_path, monkeypatch):
    settings = dict(RESUMED[name])
    kwargs = dict(in_memory=settings.pop("in_memory", False))
    recipe = tiny_recipe(data, **settings)
    straight = run(recipe, tmp_path / "straight", **kwargs)
    with monkeypatch.context() as patch:
        stop_at(patch, 1)
        with pytest.raises(KeyboardInterrupt):
            run(recipe, tmp_path / "cut", **kwargs)
    last = tmp_path / "cut" / "last.pth.tar"
    assert load(last)["epoch"] == 0
    torch.manual_seed(123)  # whatever happened in between
    resumed = run(recipe.override(resume=str(last)), tmp_path / "cut", **kwargs)
    a, b = load(straight.folder / "last.pth.tar"), load(last)
    assert_same(a, b)
    assert straight.metrics == resumed.metrics and straight.best == resumed.best
    assert (straight.folder / "summary.csv").read_bytes() == (resumed.folder / "summary.csv").read_bytes()


def test_interrupting_changes_the_run_when_the_random_state_is_not_restored(data, tmp_path, monkeypatch):
    # So that the test above cannot pass because nothing in a step is random.
    recipe = tiny_recipe(data)
    straight = run(recipe, tmp_path / "straight")
    with monkeypatch.context() as patch:
        stop_at(patch, 1)
        with pytest.raises(KeyboardInterrupt):
            run(recipe, tmp_path / "cut")
    monkeypatch.setattr("timm_moex.training.checkpoint.set_rng_state", lambda state, generator: None)
    last = tmp_path / "cut" / "last.pth.tar"
    resumed = run(recipe.override(resume=str(last)), tmp_path / "cut")
    assert straight.metrics["loss"] != resumed.metrics["loss"]


def test_result_is_the_last_epoch_and_the_files_say_so(data, tmp_path):
    result = run(tiny_recipe(data), tmp_path / "run", in_memory=True)
    rows = list(csv.DictReader((result.folder / "summary.csv").open()))
    assert [row["epoch"] for row in rows] == ["0", "1", "2"]
    assert float(rows[-1]["eval_top1"]) == result.metrics["top1"]
    assert float(rows[-1]["eval_loss"]) == result.metrics["loss"]
    assert all(0 <= float(row["train_exchanged"]) <= 1 for row in rows)
    best = load(result.folder / "model_best.pth.tar")
    assert best["epoch"] == result.best["epoch"] == max(range(3), key=lambda i: (float(rows[i]["eval_top1"]), -i))
    assert not list(result.folder.glob("*.tmp"))


def test_checkpoints_open_with_timm_itself(data, tmp_path):
    recipe = tiny_recipe(data, model_ema=True)
    result = run(recipe, tmp_path / "run", in_memory=True)
    last = str(result.folder / "last.pth.tar")
    model = timm.create_model("test_resnet", num_classes=10, in_chans=1)
    timm_load_checkpoint(model, last, use_ema=True)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), result.model.state_dict().values()))
    moex = create_model(recipe.arguments())
    task = create_task(moex, verbose=False, criterion=torch.nn.CrossEntropyLoss())
    optimizer = torch.optim.SGD(moex.parameters(), lr=1.0, momentum=0.9)
    assert resume_task_checkpoint(task, last, optimizer=None) == 3
    assert_same(dict(moex.state_dict()), dict(load(last)["state_dict"]))
    assert optimizer.param_groups[0]["lr"] == 1.0


def test_without_exchange_the_twin_trains_as_its_backbone(data, tmp_path):
    twin = run(tiny_recipe(data, model_kwargs={"moex_prob": 0.0}, epochs=1), tmp_path / "twin", in_memory=True)
    plain = run(tiny_recipe(data, model="test_resnet", model_kwargs={}, epochs=1), tmp_path / "plain", in_memory=True)
    assert twin.metrics == plain.metrics
    assert_same(dict(twin.model.state_dict()), dict(plain.model.state_dict()))


def test_nan_loss_names_epoch_step_and_lr_and_leaves_the_last_checkpoint(data, tmp_path, monkeypatch):
    folder, real = tmp_path / "run", trainer._backward
    steps = iter(range(1000))

    def poison(run, loss, update):
        real(run, loss, update)
        if next(steps) == 4:  # the second of three steps of epoch 1: step 2 then sees it
            next(iter(run.task.parameters())).data.fill_(float("nan"))

    monkeypatch.setattr(trainer, "_backward", poison)
    message = r"loss is nan at epoch 1, step 2 .*lr 0\.0\d+; the checkpoint of epoch 0 "
    with pytest.raises(FloatingPointError, match=message):
        run(tiny_recipe(data), folder, in_memory=True)
    assert load(folder / "last.pth.tar")["epoch"] == 0
    assert len((folder / "summary.csv").read_text().splitlines()) == 2


def test_weights_that_turn_nan_in_the_last_step_are_not_saved(data, tmp_path, monkeypatch):
    real = trainer._backward
    steps = iter(range(1000))

    def poison(run, loss, update):
        real(run, loss, update)
        if next(steps) == 2:
            next(iter(run.task.parameters())).data.fill_(float("nan"))

    monkeypatch.setattr(trainer, "_backward", poison)
    with pytest.raises(FloatingPointError, match="loss is nan after epoch 0 .*no checkpoint has been written yet"):
        run(tiny_recipe(data), tmp_path / "run", in_memory=True)
    assert not list((tmp_path / "run").glob("*.tar"))


def test_failed_write_leaves_the_old_checkpoint(data, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    real, calls = torch.save, iter(range(10))

    def full_disk(state, file):
        real(state, file)
        if next(calls) == 1:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OSError, match="No space left"):
        run(tiny_recipe(data), folder, in_memory=True)
    assert load(folder / "last.pth.tar")["epoch"] == 0
    assert not list(folder.glob("*.tmp"))


@pytest.mark.parametrize(
    "settings, message",
    [
        (dict(model="moex_test_resnt"), "model: 'moex_test_resnt' is not registered; did you mean 'moex_test_resnet'"),
        (dict(model_kwargs={"moex_probb": 1.0}), "unknown keyword 'moex_probb'"),
        (dict(device="cuda:99"), "device: 'cuda:99' is not available on this machine; try --device cpu"),
        (dict(opt="sdg"), "opt: 'sdg': timm has no such optimizer"),
        (dict(sched="plateau"), "sched: 'plateau': the built-in trainer supports 'cosine'"),
        (dict(mixup=0.2, batch_size=15), "batch_size: 15: Mixup and CutMix need an even batch size"),
        (dict(amp=True, model_dtype="bfloat16"), "amp: true with model_dtype: bfloat16: set only one of them"),
        (dict(bce_loss=True, smoothing=0.0), "bce_loss: true has no effect without mixup, cutmix or smoothing"),
        (dict(batch_size=64), "batch_size=64 is larger than the training set of 48 images"),
    ],
)
def test_impossible_settings_are_rejected_before_training(settings, message, data, tmp_path):
    with pytest.raises(ValueError) as caught:
        run(tiny_recipe(data, **settings), tmp_path / "run", in_memory=True)
    assert message in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_lr_and_schedule_are_those_of_stock_train_py(data):
    parts = set_up_training(tiny_recipe(data, lr=None, lr_base=0.2, batch_size=16, grad_accum_steps=2).arguments())
    assert parts.args.lr == pytest.approx(0.2 * 32 / 256)
    parts = set_up_training(tiny_recipe(data, lr=None, opt="adamw", batch_size=16).arguments())
    assert parts.args.lr == pytest.approx(0.1 * (16 / 256) ** 0.5)
    assert parts.epochs == 3 and parts.updates_per_epoch == 3


def test_bf16_amp_channels_last_and_compile_train(data, tmp_path):
    settings = dict(amp=True, amp_dtype="bfloat16", channels_last=True, torchcompile="eager", epochs=1)
    result = run(tiny_recipe(data, **settings), tmp_path / "run", in_memory=True)
    assert result.metrics["count"] == 20
    assert {p.dtype for p in result.model.parameters()} == {torch.float32}
    assert "_orig_mod" not in "".join(load(result.folder / "last.pth.tar")["state_dict"])


def reported(recipe, folder, **kwargs):
    lines = []
    train(recipe, folder, **{"log": lines.append, "progress": False, "in_memory": True} | kwargs)
    return lines


def test_the_loss_on_own_labels_is_the_plain_cross_entropy_of_the_same_outputs(data, tmp_path):
    recipe = tiny_recipe(data, epochs=1, mixup=0.5, cutmix=1.0, batch_size=48, model_kwargs={"moex_prob": 1.0})
    seen, real = [], trainer._Losses.add

    def add(self, step, result, target, lr):
        seen.append((result["output"].detach(), target))
        real(self, step, result, target, lr)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer._Losses, "add", add)
        (line,) = reported(recipe, tmp_path / "mixed")
    own = torch.nn.functional.cross_entropy(*seen[0]).item()
    (row,) = csv.DictReader((tmp_path / "mixed" / "summary.csv").open())
    assert float(row["train_loss_own"]) == pytest.approx(own) and row["train_loss"] != row["train_loss_own"]
    assert f"train loss {float(row['train_loss']):.4f} (own labels {own:.4f})" in line and "exchanged 100%" in line
    plain = tiny_recipe(data, epochs=1, smoothing=0.0, model_kwargs={"moex_prob": 0.0})
    (line,) = reported(plain, tmp_path / "plain")
    assert "own labels" not in line and "exchanged" not in line


def test_the_time_left_is_printed_once_after_the_first_epoch(data, tmp_path):
    lines = reported(tiny_recipe(data), tmp_path / "run")
    assert [line.partition(" ")[0] for line in lines] == ["epoch", "about", "epoch", "epoch"]
    assert lines[1].endswith("left for 2 more epochs")
    again = tiny_recipe(data, resume=str(tmp_path / "run" / "last.pth.tar"))
    assert reported(again, tmp_path / "run") == []


def test_a_log_without_a_terminal_gets_a_line_a_minute(data, tmp_path, monkeypatch):
    clock = iter(range(0, 10**6, 25))
    monkeypatch.setattr(trainer.time, "monotonic", lambda: float(next(clock)))
    recipe = tiny_recipe(data, epochs=1, batch_size=8)
    steps = [line for line in reported(recipe, tmp_path / "run", progress=True) if "step" in line]
    assert [line.rpartition("  train loss")[0] for line in steps] == ["epoch 1/1  step 3/6", "epoch 1/1  step 6/6"]
    assert not [line for line in reported(recipe, tmp_path / "silent") if "step" in line]


def test_an_ema_that_keeps_much_of_the_initial_weights_is_reported(data, tmp_path):
    words = "will still contain 91% of the initial weights; set model_ema_warmup: true, or lower the decay"
    assert words in reported(tiny_recipe(data, model_ema=True, model_ema_decay=0.99), tmp_path / "slow")[0]
    for name, settings in {"warm": dict(model_ema_warmup=True), "fast": dict(model_ema_decay=0.5)}.items():
        assert not [x for x in reported(tiny_recipe(data, model_ema=True, **settings), tmp_path / name) if "ema" in x]
