"""Folders as people have them: hidden files, other suffixes, odd names, odd pixels, and labels that do not fit."""

import csv
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from picture_folders import BLUE, GREEN, RED, picture_recipe, write_pictures
from PIL import Image
from safetensors.torch import load_file, save_file
from timm.data import resolve_data_config
from tinydata import write_tiny

from timm_moex.cli import main
from timm_moex.hub import save_folder
from timm_moex.pictures.predictions import prediction_grid
from timm_moex.training.build import set_up_training
from timm_moex.training.datasets import DataError, ignored_files, label_names, open_dataset, unreadable_files
from timm_moex.training.images import check_image_mode, convert_image
from timm_moex.training.loop import train


def run(capsys, *words):
    code = main([str(word) for word in words])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture
def folder(tmp_path):
    return write_pictures(tmp_path / "data", {"train/cat": RED, "train/dog": BLUE}, count=4)


def save_hub(folder, classes=("cat", "dog")):
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=len(classes))
    return save_folder(model, folder / "hub", resolve_data_config({"input_size": (3, 32, 32)}), label_names=classes)


# Names


@pytest.mark.parametrize("name", [".ipynb_checkpoints", ".git", "@eaDir", "__MACOSX"])
def test_hidden_folders_are_not_classes(folder, name):
    for place in (folder / "train", folder / "train" / "cat"):
        write_pictures(place, {f"{name}/inside": GREEN, name: GREEN})
    (folder / "train" / "cat" / "._0.png").write_bytes(b"resource fork")
    dataset = open_dataset("", folder, "train")
    assert label_names(dataset) == ["cat", "dog"] and len(dataset) == 8 and ignored_files(dataset) == ""


def test_two_folders_of_one_name_are_not_merged(tmp_path):
    write_pictures(tmp_path, {"train/cat/day1": RED, "train/dog/day1": BLUE})
    with pytest.raises(DataError, match="cat.day1 and dog.day1 would both become class 'day1'.*group_folders: true"):
        open_dataset("", tmp_path, "train")


def test_a_picture_in_no_class_folder_is_named(folder):
    shutil.copy(folder / "train" / "cat" / "0.png", folder / "train" / "thumb.png")
    with pytest.raises(DataError, match=r"thumb\.png: this image is not in a class folder"):
        open_dataset("", folder, "train")


def test_suffixes_that_pillow_reads_are_read_and_others_counted(folder):
    write_pictures(folder / "train", {"fox": GREEN}, count=1)
    image = Image.open(folder / "train" / "fox" / "0.png")
    for suffix in (".webp", ".bmp", ".tif", ".JPG"):
        image.save(folder / "train" / "fox" / f"0{suffix}")
    for name in ("1.gif", "2.gif", "notes.txt", "README"):
        (folder / "train" / "fox" / name).write_bytes(b"")
    dataset = open_dataset("", folder, "train")
    assert [int(y) for _, y in dataset] == [0] * 4 + [1] * 4 + [2] * 5
    assert ignored_files(dataset) == f"{folder / 'train'}: 4 files ignored (.gif 2, .txt 1, without a suffix 1)"
    assert len(open_dataset("", folder, "train", input_key=".webp;.gif")) == 3  # timm's way to choose suffixes
    with pytest.raises(DataError, match=r"17 files ignored \(\.png 9, .*: found no images with the suffixes \.xyz"):
        open_dataset("", folder, "train", input_key=".xyz")


def test_ignored_files_are_reported_once(folder, tmp_path, capsys):
    (folder / "train" / "cat" / "old.gif").write_bytes(b"")
    recipe = picture_recipe(folder, val_fraction=0.25, batch_size=2)
    train(recipe, tmp_path / "run", log=print, progress=False)
    out = capsys.readouterr().out
    assert out.count("train: 1 file ignored (.gif 1)\n") == 1
    assert "1 file ignored (.gif 1)" in run(capsys, "eval", tmp_path / "run" / "hub", "--data-dir", folder / "train")[1]


def test_a_class_map_with_a_byte_order_mark_and_an_empty_line_keeps_its_classes(folder):
    (folder / "map.txt").write_bytes(b"\xef\xbb\xbfdog\r\ncat\r\n\r\n")
    dataset = open_dataset("", folder, "train", class_map="map.txt")
    assert label_names(dataset) == ["dog", "cat"] and [int(y) for _, y in dataset] == [1] * 4 + [0] * 4
    (folder / "map.txt").write_text("dog\n")
    assert ignored_files(open_dataset("", folder, "train", class_map="map.txt")) == (
        f"{folder / 'train'}: 4 files ignored (of other classes 4)"
    )
    for content, words in (("dog\ncat\ndog\n", "lists 'dog' twice"), ("", "lists no classes")):
        (folder / "map.txt").write_text(content)
        with pytest.raises(DataError, match=words):
            open_dataset("", folder, "train", class_map="map.txt")
    with pytest.raises(DataError, match="class_map: 'mapp.txt': no such file"):
        open_dataset("", folder, "train", class_map="mapp.txt")


def test_the_order_does_not_depend_on_the_file_system(tmp_path):
    # natural_key takes these for equal: in timm their order is that of a set, and differs between processes
    write_pictures(tmp_path / "train", {name: RED for name in ("1", "01", "001", "a", "A")}, count=1)
    assert label_names(open_dataset("", tmp_path, "train")) == ["001", "01", "1", "A", "a"]


def test_order_and_labels_are_timms(tmp_path):
    write_pictures(tmp_path / "train", {"2": RED, "10": BLUE, "b/c": GREEN, "B2": RED}, count=12)
    ours, theirs = open_dataset("", tmp_path, "train"), timm.data.create_dataset("", str(tmp_path), "train")
    assert ours.reader.samples == theirs.reader.samples and ours.reader.class_to_idx == theirs.reader.class_to_idx


@pytest.mark.skipif(os.name == "nt", reason="names of files are text there")
def test_a_class_folder_that_is_not_utf8_is_an_error_before_any_training(folder):
    path = os.fsencode(folder / "train") + b"/caf\xe9"
    try:
        os.mkdir(path)
    except OSError:
        pytest.skip("this file system takes only UTF-8")
    shutil.copy(folder / "train" / "cat" / "0.png", path + b"/0.png")
    with pytest.raises(DataError, match=r"caf\\udce9': the name of a class folder must be valid UTF-8"):
        open_dataset("", folder, "train")


def test_a_folder_that_may_not_be_read_is_an_error(folder, monkeypatch):
    scandir = os.scandir

    def refuse(path):
        if Path(path).name == "cat":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr("os.scandir", refuse)
    with pytest.raises(DataError, match="cat: Permission denied"):
        open_dataset("", folder, "train")


@pytest.mark.parametrize("target", ["train", "train/cat", ""])
def test_a_link_to_a_folder_above_is_an_error(folder, target):
    try:
        (folder / "train" / "cat" / "again").symlink_to(folder / target, target_is_directory=True)
    except OSError:
        pytest.skip("no symbolic links here")
    with pytest.raises(DataError, match="again: this link points to a folder that contains it"):
        open_dataset("", folder, "train")


def test_a_class_folder_may_be_a_link(folder, tmp_path):
    write_pictures(tmp_path / "elsewhere", {"fox": GREEN}, count=2)
    try:
        (folder / "train" / "fox").symlink_to(tmp_path / "elsewhere" / "fox", target_is_directory=True)
    except OSError:
        pytest.skip("no symbolic links here")
    assert [int(y) for _, y in open_dataset("", folder, "train")] == [0] * 4 + [1] * 4 + [2] * 2


@pytest.mark.parametrize("names", [["$1 bill", "$\\bad$"], ["a$b", "c_{"]])
def test_predict_draws_class_names_as_they_are(tmp_path, names):
    path = tmp_path / "grid.png"
    prediction_grid(torch.rand(2, 3, 8, 8), torch.tensor([0, 1]), torch.tensor([1, 1]), names, path)
    assert path.stat().st_size > 1000


# Pixels


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
@pytest.mark.parametrize("unreadable", ["error", "drop", "replace"])
def test_a_named_pipe_among_the_pictures_does_not_hang(folder, unreadable):
    os.mkfifo(folder / "train" / "cat" / "pipe.png")
    if hasattr(signal, "alarm"):
        signal.alarm(20)
    try:
        if unreadable == "error":
            with pytest.raises(DataError, match="pipe.png cannot be read as an image: not a regular file"):
                list(open_dataset("", folder, "train"))
            return
        dataset = open_dataset("", folder, "train", unreadable=unreadable)
        assert len(list(dataset)) == (8 if unreadable == "drop" else 9) and len(unreadable_files(dataset)) == 1
    finally:
        signal.alarm(0)


def test_grey_values_of_16_bits_are_scaled(folder, tmp_path):
    values = np.linspace(0, 65535, 32 * 32).reshape(32, 32).astype(np.uint16)
    Image.fromarray(values).save(folder / "train" / "cat" / "0.png")
    for mode in ("L", "RGB"):
        image, _ = open_dataset("", folder, "train", input_img_mode=mode)[0]
        pixels = np.asarray(image)
        assert pixels.min() == 0 and 126 < pixels.mean() < 129 and (pixels == 255).mean() < 0.01


def test_pixels_of_32_bits_are_refused_by_name(folder):
    Image.fromarray(np.full((32, 32), 0.5, dtype=np.float32)).save(folder / "train" / "cat" / "0.tif")
    with pytest.raises(DataError, match="0.tif cannot be read as an image: the image has 32-bit pixels, mode F"):
        list(open_dataset("", folder, "train"))


@pytest.mark.parametrize("image", [Image.new("P", (2, 2)), Image.new("1", (2, 2), 1), Image.new("LA", (2, 2))])
def test_other_modes_are_pillows(image):
    assert np.array_equal(np.asarray(convert_image(image, "RGB")), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_a_model_of_so_many_channels_can_be_trained_evaluated_and_drawn(folder, tmp_path, channels, capsys):
    size = [channels, 32, 32]
    recipe = picture_recipe(folder, val_fraction=0.25, batch_size=2, input_size=size, mean=[0.5], std=[0.5])
    result = train(recipe, tmp_path / "run", log=print, progress=False)
    words = (tmp_path / "run" / "hub", "--data-dir", folder, "--val-fraction", "0.25")
    assert f"top-1 {result.metrics['top1']:.2f}" in run(capsys, "eval", *words)[1]
    code, out, err = run(capsys, "predict", *words, "--output", tmp_path / "p.png")
    assert code == 0 and (tmp_path / "p.png").is_file(), err


def test_modes_and_channels_that_do_not_fit_are_named_at_set_up(folder):
    base = dict(val_fraction=0.25, batch_size=2, mean=[0.5], std=[0.5])
    for settings, words in (
        (dict(input_img_mode="XYZ"), "input_img_mode: 'XYZ': expected one of L, "),
        (dict(input_img_mode="RGBB"), "did you mean 'RGB'"),
        (dict(input_img_mode="RGBA"), "'RGBA' has 4 channels, but the model needs 3"),
        (dict(input_size=[5, 32, 32]), "images of 5 channels"),
    ):
        with pytest.raises(DataError, match=words):
            set_up_training(picture_recipe(folder, **base, **settings).arguments())
    assert check_image_mode(2) == "LA"


# Labels and numbers


def rewrite_labels(data: Path, change):
    path = data / "FashionMNIST" / "raw" / "t10k-labels-idx1-ubyte"
    content = bytearray(path.read_bytes())
    labels = change(content[8:])
    content[4:8] = len(labels).to_bytes(4, "big")
    path.write_bytes(bytes(content[:8]) + bytes(labels))


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda labels: labels[:-1] + b"\xc8", "has the label 200, but its 10 classes are numbered 0 to 9"),
        (lambda labels: labels[:-1] + b"\x0a", "has the label 10, but its 10 classes are numbered 0 to 9"),
        (lambda labels: labels[:-4], "has 16 labels for 20 images"),
    ],
)
def test_labels_that_do_not_fit_are_named(tmp_path, change, words, capsys):
    data = write_tiny(tmp_path / "data")
    rewrite_labels(data, change)
    words_of_data = ("--dataset", "torch/fashion_mnist", "--data-dir", data)
    code, _, err = run(capsys, "eval", "resnet20_cifar.fmnist_sample", *words_of_data)
    assert code == 2 and words in err and err.count("\n") == 1


def test_weights_that_are_nan_are_an_error_whatever_top1_says(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    hub = save_hub(tmp_path)
    weights = load_file(hub / "model.safetensors")
    weights["fc.bias"].fill_(float("nan"))
    save_file(weights, hub / "model.safetensors", {"format": "pt"})
    for words in (("eval",), ("eval", "--min-top1", "50"), ("eval", "--min-top1", "0")):
        code, out, err = run(capsys, words[0], hub, "--data-dir", folder / "train", *words[1:])
        assert code == 2 and "the loss is nan" in err and "top-1" not in out
    code, _, err = run(capsys, "predict", hub, "--data-dir", folder / "train")
    assert code == 2 and "logits are not finite" in err and not (tmp_path / "predictions.png").exists()


def test_per_class_lists_the_models_classes(folder, tmp_path, capsys):
    hub = save_hub(tmp_path, ("dog", "bird", "cat"))
    run(capsys, "eval", hub, "--data-dir", folder / "train", "--per-class", tmp_path / "classes.csv")
    rows = list(csv.reader((tmp_path / "classes.csv").open()))[1:]
    assert [row[:2] for row in rows] == [["dog", "4"], ["cat", "4"]]


def test_names_of_other_datasets_are_mapped_too(tmp_path):
    data = write_tiny(tmp_path / "data")
    names = label_names(open_dataset("torch/fashion_mnist", data, "validation"))
    plain = [int(y) for _, y in open_dataset("torch/fashion_mnist", data, "validation")]
    mapped = open_dataset("torch/fashion_mnist", data, "validation", classes=names[::-1])
    assert [int(y) for _, y in mapped] == [9 - y for y in plain]
    with pytest.raises(DataError, match="classes that were not in training: 'Ankle boot' and lacks 'shoe'"):
        open_dataset("torch/fashion_mnist", data, "validation", classes=[*names[:9], "shoe"])
