"""A run's folder: what a new run rejects, what a resumed run repairs, and which checkpoints it accepts."""

import shutil
import subprocess
import sys
import tempfile
import zipfile

import pytest
import torch
import yaml
from PIL import Image
from tinydata import tiny_recipe, write_tiny

from timm_moex.cli import main
from timm_moex.training.loop import train
from timm_moex.training.recipe import Recipe, load_recipe
from timm_moex.training.run_folder import Progress, RunFolder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished") / "run"
    return run(tiny_recipe(data, epochs=2), folder).folder


@pytest.fixture
def folder(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


def run(recipe, folder, **kwargs):
    return train(recipe, folder, **{"log": lambda line: None, "progress": False, "in_memory": True} | kwargs)


def resume(data, folder, **settings):
    return run(tiny_recipe(data, epochs=2, resume=str(folder / "last.pth.tar"), **settings), folder)


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def remove_hub(folder):
    shutil.rmtree(folder / "hub")


def cut_off(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))


DAMAGE = {
    "nothing": lambda folder: None,
    "hub is missing": remove_hub,
    "weights are missing": lambda folder: (folder / "hub" / "model.safetensors").unlink(),
    "weights are cut off": lambda folder: cut_off(folder / "hub" / "model.safetensors"),
    "a weight is another": lambda folder: flip_a_bit(folder / "hub" / "model.safetensors"),
    "config is cut off": lambda folder: cut_off(folder / "hub" / "config.json"),
    "card is missing": lambda folder: (folder / "hub" / "README.md").unlink(),
    "summary is empty": lambda folder: (folder / "summary.csv").write_bytes(b""),
    "summary is missing": lambda folder: (folder / "summary.csv").unlink(),
    "summary is cut off": lambda folder: (folder / "summary.csv").write_bytes(b"epoch,tra"),
    "recipe is missing": lambda folder: (folder / "recipe.yaml").unlink(),
    "temporary files": lambda folder: [
        (folder / f".{name}.timm_moex-{16 * '0'}").write_bytes(b"half")
        for name in ("last.pth.tar", "summary.csv", "recipe.yaml")
    ],
    "temporary hub": lambda folder: shutil.copytree(folder / "hub", folder / ".hub.timm_moex-0123456789abcdef"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_finished_run_resumed_completes_what_is_missing(damage, data, finished, folder):
    DAMAGE[damage](folder)
    result = resume(data, folder)
    assert files(folder) == files(finished)
    assert result.metrics == torch.load(folder / "last.pth.tar", weights_only=True)["eval_metrics"]


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(b"of an earlier epoch")])
def test_the_best_checkpoint_is_rebuilt_if_the_last_epoch_is_the_best(damage, data, tmp_path):
    recipe = tiny_recipe(data, epochs=1)
    folder = run(recipe, tmp_path / "run").folder
    best, before = folder / "model_best.pth.tar", files(folder)
    damage(best)
    run(recipe.override(resume=str(folder / "last.pth.tar")), folder)
    assert best.is_file() and files(folder) == before


def break_nothing(path): ...


def make_a_folder(path):
    path.unlink()
    path.mkdir()


BEST = {
    "whole": (break_nothing, ""),
    "missing": (lambda path: path.unlink(), "is missing"),
    "cut off": (cut_off, "is damaged"),
    "a folder": (make_a_folder, "is damaged"),
}


@pytest.mark.parametrize("what", BEST)
def test_a_best_checkpoint_that_cannot_be_rebuilt_is_reported(what, data, tmp_path):
    damage, words = BEST[what]
    recipe = tiny_recipe(data, epochs=3, eval_metric="loss", lr=0.5, model_kwargs={"moex_prob": 0.0}, opt="momentum")
    folder = run(recipe, tmp_path / "run").folder
    last = folder / "last.pth.tar"
    assert torch.load(last, weights_only=True)["best"]["epoch"] < 2  # so large a step does not get better and better
    damage(folder / "model_best.pth.tar")
    lines = []
    run(recipe.override(resume=str(last)), folder, log=lines.append)
    assert [line for line in lines if "model_best" in line and words in line] == (lines if words else [])
    assert bool(lines) == bool(words)


def images(root, **counts):
    for split in ("train", "validation"):
        for name, count in counts.items():
            (root / split / name).mkdir(parents=True, exist_ok=True)
            for i in range(count):
                Image.new("L", (28, 28), i).save(root / split / name / f"{i}.png")
    return root


def on_folder(root, **settings):
    return tiny_recipe(root, dataset="", num_classes=None, epochs=2, batch_size=4, **settings)


def test_a_resumed_run_reports_added_or_removed_images(tmp_path):
    data, lines = images(tmp_path / "data", cat=5, dog=5), []
    folder = run(on_folder(data, stop_epoch=1), tmp_path / "run").folder
    (data / "train" / "cat" / "0.png").unlink()
    run(on_folder(data, resume=str(folder / "last.pth.tar")), folder, log=lines.append)
    assert "the training data now have 9 images; this run began with 10" in lines


def rename(data):
    (data / "train" / "dog").rename(data / "train" / "ant")
    (data / "validation" / "dog").rename(data / "validation" / "ant")


CHANGES = {
    "renamed": (rename, "the classes have changed since this run began: removed dog and added ant"),
    "added": (lambda data: images(data, eel=5), "the classes have changed since this run began: added eel"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_resumed_run_refuses_other_classes_by_name(change, tmp_path):
    data = images(tmp_path / "data", cat=5, dog=5)
    folder = run(on_folder(data, stop_epoch=1), tmp_path / "run").folder
    before = files(folder)
    CHANGES[change][0](data)
    with pytest.raises(ValueError, match=CHANGES[change][1]):
        run(on_folder(data, resume=str(folder / "last.pth.tar")), folder)
    assert files(folder) == before


def test_the_recipe_of_a_run_repeats_it(data, tmp_path):
    settings = dict(mixup=0.2, model_ema=False, model_ema_warmup=True, pad=2, smoothing=0.1)
    recipe = Recipe("mine", tiny_recipe(data, epochs=2).settings | settings, written=frozenset())
    first = run(recipe, tmp_path / "first", skip_unreadable=True)
    again = train(load_recipe(first.folder / "recipe.yaml"), tmp_path / "again", log=lambda line: None, progress=False)
    for name in ("summary.csv", "recipe.yaml", "hub/model.safetensors"):
        assert (first.folder / name).read_bytes() == (again.folder / name).read_bytes()
    assert load_recipe(first.folder / "hub" / "recipe.yaml").arguments().in_memory
    note = (first.folder / "recipe.yaml").read_text().splitlines()[1]
    ignored = "pad, in_memory, skip_unreadable"
    assert note == f"# Read only by timm-moex train, and ignored by timm's train.py --config: {ignored}"
    assert "model_ema_warmup" not in (first.folder / "recipe.yaml").read_text()  # which does nothing here


def test_settings_without_effect_do_not_prevent_resuming(data, tmp_path):
    recipe = Recipe("mine", tiny_recipe(data, epochs=2).settings | dict(clip_mode="agc"), written=frozenset())
    folder = run(recipe, tmp_path / "run", stop_epoch=1, in_memory=False).folder
    state = torch.load(folder / "last.pth.tar", weights_only=True)
    state["args"] |= {"pad": None, "clip_mode": "agc"}  # as an older version wrote them
    torch.save(state, folder / "last.pth.tar")
    again = load_recipe(folder / "recipe.yaml").override(resume=str(folder / "last.pth.tar"))
    run(again.override(["stop_epoch=2"]), folder, in_memory=False)
    assert len((folder / "summary.csv").read_text().split()) == 3


def test_files_that_are_not_temporary_stay(data, folder):
    for name in ("notes.tmp", "last.pth.tar.tmp"):
        (folder / name).write_text("mine")
    (folder / ".hub-personal").mkdir()
    resume(data, folder)
    assert (folder / "notes.tmp").read_text() == (folder / "last.pth.tar.tmp").read_text() == "mine"
    assert (folder / ".hub-personal").is_dir()


def test_the_recipe_does_not_name_the_checkpoint_it_was_resumed_from(data, folder):
    resume(data, folder)
    assert "resume" not in yaml.safe_load((folder / "recipe.yaml").read_text())


def old_kind(folder):
    """A checkpoint of the previous version, without the rows of summary.csv."""
    state = torch.load(folder / "last.pth.tar", weights_only=True)
    del state["history"]
    torch.save(state, folder / "last.pth.tar")


def test_a_checkpoint_without_history_takes_the_rows_from_the_summary(data, finished, folder):
    old_kind(folder)
    resume(data, folder)
    assert (folder / "summary.csv").read_bytes() == (finished / "summary.csv").read_bytes()


@pytest.mark.parametrize("rows", [b"", b"epoch,lr\n0,abc\n", None])
def test_a_checkpoint_without_history_needs_a_summary(rows, data, folder):
    old_kind(folder)
    (folder / "summary.csv").unlink() if rows is None else (folder / "summary.csv").write_bytes(rows)
    with pytest.raises(ValueError, match=r"summary\.csv (cannot be read|lacks epochs)"):
        resume(data, folder)


def flip(path, name, bit):
    """Flip a bit in the middle of one record of the checkpoint's archive."""
    with zipfile.ZipFile(path) as archive:
        record = next(info for info in archive.infolist() if info.filename.endswith(name))
        with archive.open(record) as opened:
            content = opened.read()
    whole = bytearray(path.read_bytes())
    at = whole.index(content, record.header_offset) + len(content) // 2 // 4 * 4 + bit // 8
    whole[at] ^= 1 << bit % 8
    path.write_bytes(bytes(whole))


BROKEN = {
    "empty": lambda path: path.write_bytes(b""),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-1000]),
    "cut in half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "text": lambda path: path.write_text("not a checkpoint"),
    "exponent of a weight": lambda path: flip(path, "/data/0", 30),
    "lowest bit of a weight": lambda path: flip(path, "/data/2", 0),
    "pickle": lambda path: flip(path, "data.pkl", 3),
    "list": lambda path: torch.save([1, 2], path),
    "tensor": lambda path: torch.save(torch.ones(3), path),
    "someone's weights": lambda path: torch.save({"state_dict": {}, "epoch": 3}, path),
    "code": lambda path: torch.save(print, path),
    "zip of something else": lambda path: zipfile.ZipFile(path, "w").writestr("a.txt", "a"),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_or_unrelated_checkpoint_is_rejected_by_name(how, data, folder, capsys):
    last = folder / "last.pth.tar"
    BROKEN[how](last)
    before = files(folder)
    with pytest.raises(
        ValueError, match=r"last\.pth\.tar' (is not a complete checkpoint|was not written by the built-in)"
    ):
        resume(data, folder)
    assert files(folder) == before
    recipe = folder / "again.yaml"
    recipe.write_text(yaml.safe_dump(tiny_recipe(data, epochs=2).settings))
    assert main(["train", str(recipe), "--in-memory", "--resume", str(last)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_checkpoint_of_another_model_is_refused(data, folder):
    state = torch.load(folder / "last.pth.tar", weights_only=True)
    state["state_dict"] = {key: value for key, value in list(state["state_dict"].items())[:-2]}
    torch.save(state, folder / "last.pth.tar")
    with pytest.raises(ValueError, match="does not fit this run"):
        resume(data, folder)


def test_a_run_is_not_overwritten_and_not_mixed_with_another(data, folder, tmp_path):
    recipe, last = tiny_recipe(data, epochs=2), str(folder / "last.pth.tar")
    with pytest.raises(FileExistsError, match="already contains a run; continue it with --resume"):
        run(recipe, folder)
    with pytest.raises(ValueError, match=r"was saved with different settings: lr=0\.02 \(was 0\.01\)"):
        run(recipe.override(resume=last, lr=0.02), folder)
    with pytest.raises(FileNotFoundError, match="no such file"):
        run(recipe.override(resume=last + "x"), folder)
    with pytest.raises(ValueError, match="resumes only in its own folder, not in"):
        run(recipe.override(resume=last), tmp_path / "other")
    with pytest.raises(ValueError, match="resumes only from its last.pth.tar.*initial_checkpoint"):
        run(recipe.override(resume=str(folder / "model_best.pth.tar")), folder)
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("name", ["recipe.yaml", "summary.csv", "model_best.pth.tar", "hub/thesis.tex"])
def test_a_new_run_does_not_replace_files_of_others(name, data, tmp_path):
    path = tmp_path / "run" / name
    path.parent.mkdir(parents=True)
    path.write_text("lr: 0.1")
    with pytest.raises(FileExistsError, match=path.name):
        run(tiny_recipe(data, epochs=1), tmp_path / "run")
    assert path.read_text() == "lr: 0.1" and len(files(tmp_path / "run")) == 1


HOLD = """
import sys, time
from pathlib import Path
from timm_moex.training.recipe import Recipe, load_recipe
from timm_moex.training.run_folder import RunFolder
with RunFolder(sys.argv[1]).locked():
    print("locked", flush=True)
    time.sleep(100)
"""


def test_two_trainings_do_not_write_into_one_folder(data, tmp_path):
    folder = tmp_path / "run"
    other = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "locked\n"
    with pytest.raises(FileExistsError, match=f"another training run is writing to {folder}"):
        run(tiny_recipe(data, epochs=1), folder)
    assert not folder.exists()
    other.kill()
    other.wait()
    run(tiny_recipe(data, epochs=1), folder)  # a killed process leaves no lock
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_the_lock_of_a_run_does_not_depend_on_the_temporary_folder(data, tmp_path, monkeypatch):
    (tmp_path / "link").symlink_to(tmp_path / "run", target_is_directory=True)
    with RunFolder(tmp_path / "run").locked():
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        with (
            pytest.raises(FileExistsError, match="another training run is writing"),
            RunFolder(tmp_path / "link").locked(),
        ):
            raise AssertionError("locked twice")


def test_the_lock_is_free_after_an_error(data, tmp_path):
    with pytest.raises(ValueError):
        run(tiny_recipe(data, opt="sdg"), tmp_path / "run")
    with RunFolder(tmp_path / "run").locked():
        pass


def test_the_earlier_of_two_equal_epochs_is_the_best():
    progress = Progress()
    for top1 in (50.0, 60.0, 60.0, 55.0):
        progress.add({"loss": 1.0}, {"top1": top1, "loss": 2.0}, 0.1, "top1")
    assert progress.best == {"epoch": 1, "top1": 60.0} and not progress.is_best
    progress.add({"loss": 1.0}, {"top1": 70.0, "loss": 2.0}, 0.1, "top1")
    assert progress.is_best and progress.epochs_done == 5
