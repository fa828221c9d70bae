"""Images that cannot be read: an error with their name, or replaced and counted, or left out and counted."""

import pytest
import timm
import torch
from PIL import Image
from timm.data import resolve_data_config

from timm_moex.cli import main
from timm_moex.hub import save_folder
from timm_moex.training.datasets import DataError, open_dataset, unreadable_files
from timm_moex.training.loaders import create_eval_loader

CONFIG = resolve_data_config({"input_size": (3, 32, 32)})
BROKEN = ("corrupt", "truncated", "empty", "dangling")


@pytest.fixture(params=BROKEN)
def folder(request, tmp_path):
    """Write three images of each of two classes, one of them broken; return the root and the broken file."""
    for name in "ab":
        (tmp_path / "validation" / name).mkdir(parents=True)
        for i in range(3):
            pixels = torch.randint(256, (32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(i))
            Image.fromarray(pixels.numpy()).save(tmp_path / "validation" / name / f"{i}.png")
    broken = tmp_path / "validation" / "a" / "1.png"
    content = broken.read_bytes()
    if request.param == "dangling":
        broken.unlink()
        broken.symlink_to(tmp_path / "nowhere.png")
    else:
        broken.write_bytes(
            {"corrupt": b"no image", "truncated": content[: len(content) // 2], "empty": b""}[request.param]
        )
    return tmp_path, broken


def labels_of(dataset, workers=0):
    loader = create_eval_loader(dataset, CONFIG, 2, device=torch.device("cpu"), num_workers=workers)
    return torch.cat([labels for _, labels in loader]).tolist()


@pytest.mark.parametrize("workers", [0, 1])
def test_is_an_error_by_name(folder, workers):
    root, broken = folder
    with pytest.raises(DataError, match=str(broken)):
        labels_of(open_dataset("", root, "validation"), workers)


def test_is_left_out_and_counted(folder):
    root, broken = folder
    dataset = open_dataset("", root, "validation", unreadable="drop")
    assert unreadable_files(dataset) == [str(broken)] and labels_of(dataset) == [0, 0, 1, 1, 1]


@pytest.mark.parametrize("workers", [0, 1])
def test_is_replaced_and_counted_even_in_a_worker(folder, workers):
    root, broken = folder
    dataset = open_dataset("", root, "validation", unreadable="replace")
    assert unreadable_files(dataset) == []
    assert labels_of(dataset, workers) == [0, 0, 0, 1, 1, 1] and unreadable_files(dataset) == [str(broken)]


def test_nothing_readable_is_an_error(tmp_path):
    (tmp_path / "validation" / "a").mkdir(parents=True)
    (tmp_path / "validation" / "a" / "0.png").write_bytes(b"")
    for unreadable in ("drop", "replace"):
        with pytest.raises(DataError, match="none of the 1 images can be read"):
            labels_of(open_dataset("", tmp_path, "validation", unreadable=unreadable))


def test_eval_names_it_or_counts_it(folder, tmp_path, capsys):

    root, broken = folder
    hub = save_folder(timm.create_model("test_resnet", num_classes=2), tmp_path / "hub", CONFIG)
    words = ["eval", str(hub), "--data-dir", str(root), "--workers", "1"]
    assert main(words) == 2
    error = capsys.readouterr().err
    assert f"{broken} cannot be read as an image" in error and error.count("\n") == 1
    assert main([*words, "--skip-unreadable"]) == 0
    out = capsys.readouterr().out
    assert "skipped 1 images that cannot be read" in out and " 5 images" in out


def test_an_image_that_vanishes_after_the_check_is_an_error(folder):
    root, _ = folder
    dataset = open_dataset("", root, "validation", unreadable="drop")
    later = root / "validation" / "b" / "2.png"
    later.write_bytes(b"")
    with pytest.raises(DataError, match=str(later)):
        labels_of(dataset)


def test_unknown_way_is_refused(folder):
    with pytest.raises(ValueError, match="unreadable='dropp': expected one of error, replace, drop"):
        open_dataset("", folder[0], "validation", unreadable="dropp")
