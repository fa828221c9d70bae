"""`save_folder` replaces an existing folder in one step or leaves it alone, no matter when it is interrupted."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import timm
from hub_folders import CONFIG, files_of, write_folder

from timm_moex.hub import save_folder
from timm_moex.utils import files

SUPPORT = Path(__file__).parents[1] / "support"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the kills need os.fork")
@pytest.mark.parametrize("way", ["exchange", "rename"])
def test_a_killed_save_leaves_the_old_or_the_new_folder_complete(way):
    paths = os.pathsep.join([str(SUPPORT), str(SUPPORT.parents[1])])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(SUPPORT / "kill_saves.py"), way],
        env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    *kills, last = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(kills) >= 20 and all(kill["killed"] for kill in kills) and not last["killed"]
    for kill in kills:
        left, aside = kill["left"], [name for name in kill["left"] if name.startswith("hub.old-")]
        if way == "exchange" or not aside:
            assert left["hub"] in ("old", "new"), kill
        else:  # between the two renames the old folder has a name that its owner finds
            assert left.get("hub") == "new" or left[aside[0]] == "old", kill
        # the next save completes the work, and removes what has no owner
        assert kill["is_new"] and sorted(kill["after"]) == sorted(["hub", *aside])
    assert {kill["left"].get("hub") for kill in kills} >= {"old", "new"}
    assert any(name.startswith(".hub.timm_moex-") for kill in kills for name in kill["left"])


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_without_an_exchange_the_old_folder_comes_back_after_any_exception(error, tmp_path, monkeypatch):
    folder = write_folder(tmp_path / "hub", seed=0)
    old, rename = files_of(folder), os.rename

    def stop_before_the_new_one(source, target):
        if Path(target) == folder and ".timm_moex-" in str(source):
            raise error
        rename(source, target)

    monkeypatch.setattr(files, "_exchange", lambda a, b: False)
    monkeypatch.setattr(os, "rename", stop_before_the_new_one)
    with pytest.raises(error):
        write_folder(folder, seed=1)
    assert files_of(folder) == old and [path.name for path in tmp_path.iterdir()] == ["hub"]


@pytest.mark.parametrize("way", ["exchange", "rename"])
def test_if_a_file_appears_meanwhile_the_old_folder_is_kept(way, tmp_path, monkeypatch):
    folder = write_folder(tmp_path / "hub", seed=0)
    old, replace = files_of(folder), files.replace_folder

    def with_a_late_file(new, target):
        if files_of(target) == old:
            (target / "notes.txt").write_text("mine")
        return replace(new, target)

    if way == "rename":
        monkeypatch.setattr(files, "_exchange", lambda a, b: False)
    monkeypatch.setattr("timm_moex.hub.folder.replace_folder", with_a_late_file)
    with pytest.raises(FileExistsError, match="is not replaced because it contains notes.txt"):
        write_folder(folder, seed=1)
    assert files_of(folder) == old | {"notes.txt": b"mine"} and [path.name for path in tmp_path.iterdir()] == ["hub"]


def test_folders_of_similar_names_are_left_alone(tmp_path):
    for name in (".hub-personal", ".hub.timm_moex-personal", ".hub.timm_moex-0123456789abcdef"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "diary.txt").write_text("mine")
    folder = write_folder(write_folder(tmp_path / "hub"))
    assert folder == tmp_path / "hub" and len(list(tmp_path.glob("*/diary.txt"))) == 3


def test_a_link_is_followed(tmp_path):
    target = write_folder(tmp_path / "disk" / "hub", seed=0)
    (tmp_path / "link").symlink_to(target)
    write_folder(tmp_path / "link", seed=1)
    assert (tmp_path / "link").is_symlink() and files_of(target) == files_of(write_folder(tmp_path / "new", seed=1))
    (tmp_path / "dangling").symlink_to(tmp_path / "disk" / "later")
    write_folder(tmp_path / "dangling")
    assert (tmp_path / "disk" / "later" / "config.json").is_file()


def test_tilde_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    folder = save_folder(timm.create_model("test_resnet", num_classes=10), "~/models/hub", CONFIG)
    assert folder == tmp_path / "home" / "models" / "hub" and (folder / "config.json").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


def test_a_file_is_written_atomically_through_a_link_and_other_temporary_files_stay(tmp_path):
    (tmp_path / "real.txt").write_text("old")
    (tmp_path / "link.txt").symlink_to("real.txt")
    (tmp_path / "link.txt.tmp").write_text("mine")
    files.write_atomically(tmp_path / "link.txt", lambda file: file.write(b"new"))
    assert (tmp_path / "link.txt").is_symlink() and (tmp_path / "real.txt").read_text() == "new"
    with pytest.raises(ZeroDivisionError):
        files.write_atomically(tmp_path / "real.txt", lambda file: 1 / 0)
    assert (tmp_path / "real.txt").read_text() == "new" and len(list(tmp_path.iterdir())) == 3
    assert (tmp_path / "link.txt.tmp").read_text() == "mine"
