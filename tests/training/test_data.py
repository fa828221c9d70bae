"""Datasets and loaders: their errors, and equality of the in-memory set with timm's loader."""

from collections import Counter
from pathlib import Path

import pytest
import torch
from PIL import Image
from timm.data import create_dataset, resolve_data_config
from tinydata import tiny_recipe, write_tiny

from benchmarks.study import make_sample
from timm_moex.training.datasets import DataError, label_names, open_dataset, sample_dir
from timm_moex.training.distributed import Processes
from timm_moex.training.in_memory import InMemoryLoader
from timm_moex.training.loaders import create_eval_loader, create_loaders

CPU = torch.device("cpu")
DEBIAN = Path("/usr/share/datasets/fashion-mnist")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return write_tiny(tmp_path_factory.mktemp("tiny"))


def loaders(recipe, pad):
    args = recipe.override(in_memory=pad is not None, pad=pad).arguments()
    config = resolve_data_config(vars(args))
    return create_loaders(args, config, Processes(CPU), torch.float32)


def test_sample_is_balanced_and_opens_with_plain_timm():
    for split, count in (("train", 600), ("validation", 100)):
        dataset = create_dataset("torch/fashion_mnist", root=str(sample_dir()), split=split)
        assert Counter(label for _, label in dataset) == dict.fromkeys(range(10), count)
    assert label_names(dataset)[9] == "Ankle boot"
    assert "Permission is hereby granted" in (sample_dir() / "LICENSE").read_text()


@pytest.mark.skipif(not DEBIAN.exists(), reason="Debian package dataset-fashion-mnist is not installed")
def test_sample_is_what_the_kept_script_draws(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["make_sample.py", "--source", str(DEBIAN), "--output", str(tmp_path)])
    make_sample.main()
    drawn = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    assert len(drawn) == 4
    for path in drawn:
        assert path.read_bytes() == (sample_dir() / path.relative_to(tmp_path)).read_bytes()


@pytest.fixture
def folder(tmp_path):
    for split, classes in (("train", "abc"), ("test", "abc")):
        for name in classes:
            (tmp_path / split / name).mkdir(parents=True)
            Image.new("RGB", (8, 8)).save(tmp_path / split / name / "0.png")
    return tmp_path


def test_missing_data_split_or_class_is_an_error(folder, tiny):
    with pytest.raises(DataError, match="data_dir is not set"):
        open_dataset("", None, "train")
    with pytest.raises(DataError, match="nowhere' does not exist"):
        open_dataset("", folder / "nowhere", "train")
    with pytest.raises(DataError, match="no folder 'validation' for this split; found test, train"):
        open_dataset("", folder, "validation")  # timm would take the whole folder, with classes test and train
    with pytest.raises(DataError, match=r"num_classes=10, but .* has 3 classes \(a, b, c\)"):
        open_dataset("", folder, "train", num_classes=10)
    with pytest.raises(DataError, match="torch/fashion_mnist.*Dataset not found"):
        open_dataset("torch/fashion_mnist", folder, "train")
    with pytest.raises(DataError, match="split='tset'"):
        open_dataset("torch/fashion_mnist", tiny, "tset")
    with pytest.raises(DataError, match="Unknown torchvision dataset"):
        open_dataset("torch/fashionmnist", tiny, "train")
    with pytest.raises(DataError, match="which only timm's train.py supports"):
        open_dataset("wds/x", folder, "train")
    assert len(open_dataset("", folder, "test", num_classes=3)) == 3
    assert label_names(open_dataset("", folder, "train")) == ["a", "b", "c"]


def test_in_memory_evaluation_is_bit_equal_to_timms_loader(tiny):
    recipe = tiny_recipe(tiny, batch_size=16)
    (_, plain), (_, kept) = loaders(recipe, None), loaders(recipe, 4)
    batches = list(zip(plain, kept, strict=True))
    assert [len(x) for (x, _), _ in batches] == [16, 4] and len(kept) == 2
    for (x, y), (u, v) in batches:
        assert torch.equal(x, u) and torch.equal(y, v)


def in_memory(tiny, **kwargs):
    dataset = open_dataset("torch/fashion_mnist", tiny, "train")
    config = dict(input_size=(1, 28, 28), mean=(0.0,), std=(1.0,), crop_pct=1.0)
    config |= dict(interpolation="bilinear", crop_mode="center")
    return InMemoryLoader(create_eval_loader(dataset, config, 10, device=CPU), training=True, **kwargs)


def windows(image, pad):
    """Every crop of a zero-padded image (H, W), and its mirror image, as bytes → (top, left, flipped)."""
    padded = torch.nn.functional.pad(image, (pad,) * 4)
    height, width = image.shape
    found = {}
    for top in range(2 * pad + 1):
        for left in range(2 * pad + 1):
            crop = padded[top : top + height, left : left + width]
            found[crop.numpy().tobytes()] = (top, left, False)
            found[crop.flip(1).numpy().tobytes()] = (top, left, True)
    return found


def test_every_augmented_image_is_one_of_its_crops_or_their_mirror_images(tiny):
    loader = in_memory(tiny, pad=2, hflip=0.5)
    original = {image.numpy().tobytes(): int(y) for image, y in zip(loader.images[:, 0, 2:-2, 2:-2], loader.targets)}
    known = {}
    for image, y in zip(loader.images[:, 0, 2:-2, 2:-2], loader.targets):
        known |= {key: (place, int(y)) for key, place in windows(image, 2).items()}
    assert len(original) == 48
    places = []
    for _ in range(4):
        for images, targets in loader:
            for image, y in zip(images[:, 0].mul(255).round().to(torch.uint8), targets):
                place, label = known[image.numpy().tobytes()]
                assert label == y
                places.append(place)
    tops, lefts, flips = zip(*places)
    assert set(tops) == set(lefts) == set(range(5))
    assert 0.3 < sum(flips) / len(flips) < 0.7


def test_an_epoch_uses_every_image_once_except_the_short_last_batch(tiny):
    loader = in_memory(tiny, pad=0, hflip=0.0)
    first, second = ([x for x, _ in loader] for _ in range(2))
    assert len(first) == len(loader) == 4 and all(len(x) == 10 for x in first)
    assert len({x.numpy().tobytes() for x in torch.cat(first)}) == 40
    assert not torch.equal(first[0], second[0])
    again = in_memory(tiny, pad=0, hflip=0.0)
    assert torch.equal(next(iter(again))[0], first[0])


def test_in_memory_leaves_the_global_generators_alone(tiny):
    loader = in_memory(tiny, pad=4, hflip=0.5)
    before = torch.get_rng_state()
    list(loader)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("settings", [dict(color_jitter=0.4), dict(aa="rand-m9"), dict(vflip=0.5)])
def test_in_memory_rejects_unsupported_augmentation(settings, tiny):
    with pytest.raises(DataError, match=f"--in-memory .*does not support {next(iter(settings))}="):
        loaders(tiny_recipe(tiny, **settings), 4)


def test_in_memory_supports_no_aug(tiny):
    train_loader, _ = loaders(tiny_recipe(tiny, no_aug=True, color_jitter=0.4), 4)
    assert train_loader.pad == 0 and train_loader.hflip == 0
