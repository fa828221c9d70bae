"""Wrong recipes, data and checkpoints, each with the expected error."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml
from bad_input_insertion import Case
from picture_folders import picture_recipe, write_pictures
from tinydata import tiny_recipe, write_tiny

from timm_moex.training.build import set_up_training
from timm_moex.training.datasets import DataError, open_dataset, sample_dir
from timm_moex.training.evaluate import evaluate
from timm_moex.training.images import CheckedImages
from timm_moex.training.in_memory import InMemoryLoader
from timm_moex.training.inference import imagenet_subset, locate_subset, open_inference
from timm_moex.training.keys import parse_range
from timm_moex.training.loop import train
from timm_moex.training.recipe import Recipe, RecipeError, load_recipe

_SAMPLE = "torch/fashion_mnist"


def _recipe(**settings: Any) -> Callable[[Path], Any]:
    return lambda tmp_path: Recipe("x", settings).arguments()


def _file(content: str | bytes) -> Callable[[Path], Any]:
    def run(tmp_path: Path) -> None:
        path = tmp_path / "r.yaml"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        load_recipe(path)

    return run


def _set(word: str) -> Callable[[Path], Any]:
    return lambda tmp_path: Recipe("x", {"model_kwargs": {}}).override([word])


def _set_up(**settings: Any) -> Callable[[Path], Any]:
    def run(tmp_path: Path) -> None:
        data = write_tiny(tmp_path / "data", train=8, test=4)
        set_up_training(tiny_recipe(data, **{"batch_size": 4, **settings}).arguments())

    return run


def _open(name: str = _SAMPLE, root: Any = None, split: str = "train", **kwargs: Any) -> Callable[[Path], Any]:
    return lambda tmp_path: open_dataset(name, root if root is not None else sample_dir(), split, **kwargs)


def _pictures(*folders: str, split: str = "train", **kwargs: Any) -> Callable[[Path], Any]:
    """Open a folder that has a picture in each of `folders`."""

    def run(tmp_path: Path) -> None:
        write_pictures(tmp_path, {folder: (9, 9, 9) for folder in folders}, count=2)
        list(open_dataset("", tmp_path, split, **kwargs))

    return run


def _pictures_with(change: Callable[[Path], Any], **kwargs: Any) -> Callable[[Path], Any]:
    """Open train/cat and train/dog after a change of the folder `train`."""

    def run(tmp_path: Path) -> None:
        write_pictures(tmp_path, {"train/cat": (9, 9, 9), "train/dog": (9, 9, 9)}, count=2)
        change(tmp_path / "train")
        list(open_dataset("", tmp_path, "train", **kwargs))

    return run


def _train_on(*folders: str, **settings: Any) -> Callable[[Path], Any]:
    def run(tmp_path: Path) -> None:
        write_pictures(tmp_path, {folder: (9, 9, 9) for folder in folders}, count=4)
        set_up_training(picture_recipe(tmp_path, **{"batch_size": 2, **settings}).arguments())

    return run


def _resume(content: bytes | dict[str, Any] | None) -> Callable[[Path], Any]:
    def run(tmp_path: Path) -> None:
        data, path = write_tiny(tmp_path / "data", train=8, test=4), tmp_path / "run" / "last.pth.tar"
        path.parent.mkdir()
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif content is not None:
            torch.save(content, path)
        recipe = tiny_recipe(data, batch_size=4, resume=str(path))
        train(recipe, path.parent, log=lambda line: None, progress=False)

    return run


def _initial(key: str, content: bytes) -> Callable[[Path], Any]:
    def run(tmp_path: Path) -> None:
        path = tmp_path / "weights.pth"
        path.write_bytes(content)
        _set_up(**{key: str(path), "pretrained": True if key == "pretrained_path" else False})(tmp_path)

    return run


_RANGES: dict[str, tuple[Any, str]] = {
    "hflip": (7, "0 to 1"),
    "vflip": (-0.5, "0 to 1"),
    "reprob": (3, "0 to 1"),
    "mixup_prob": (1.5, "0 to 1"),
    "grayscale_prob": (2, "0 to 1"),
    "clip_grad": (-1, "above 0, or null"),
    "lr": (-0.1, "above 0, or null"),
    "lr_base": (float("nan"), "above 0"),
    "weight_decay": (float("inf"), "at least 0"),
    "momentum": (1.5, "below 1"),
    "crop_pct": (0, "above 0 and at most 1"),
    "mixup": (-1, "at least 0"),
    "cutmix": (-1, "at least 0"),
    "cutmix_minmax": ([0.9, 0.1], "2 ascending values"),
    "num_classes": (1, "at least 2"),
    "batch_size": (0, "at least 1"),
    "epochs": (-3, "at least 1"),
    "grad_accum_steps": (0, "at least 1"),
    "smoothing": (1, "below 1"),
    "drop": (1.0, "below 1"),
    "model_ema_decay": (1.0, "below 1"),
    "bn_eps": (0, "above 0"),
    "std": ([0.0], "above 0"),
    "scale": ([1.0], "2 ascending values"),
    "decay_milestones": ([30, 20], "ascending values"),
    "workers": (-1, "0 to 1024"),
    "seed": (2**40, "0 to 4294967295"),
    "input_size": ([3, -1, 32], "at least 1"),
}
_SERVED = {
    "sched": "plateau",
    "amp_dtype": "bf16",
    "remode": "cons",
    "interpolation": "cubic",
    "worker_seeding": "some",
}

_IDLE: dict[str, tuple[Any, str]] = {
    "mixup_off_epoch": (5, "without mixup"),
    "model_ema_decay": (0.99, "without model_ema"),
    "torchcompile_mode": ("max-autotune", "without torchcompile"),
    "clip_mode": ("agc", "without clip_grad"),
    "bce_target_thresh": (0.2, "without bce_loss"),
    "opt_betas": ([0.9, 0.99], "with opt: sgd"),
    "pad": (2, "without in_memory"),
}

CASES: list[Case] = [
    *(
        (f"recipe with {key} {value}", _recipe(**{key: value}), RecipeError, (f"{key}: ", str(value), words))
        for key, (value, words) in _RANGES.items()
    ),
    *(
        (f"recipe with {key} {value}", _recipe(**{key: value}), RecipeError, (f"{key}: ", value, "supports"))
        for key, value in _SERVED.items()
    ),
    ("recipe of an unknown key", _recipe(bacth_size=4), RecipeError, ("bacth_size", "did you mean 'batch_size'")),
    ("recipe with a text for a number", _recipe(lr="fast"), RecipeError, ("lr: 'fast'", "a number")),
    ("recipe with a list for a mapping", _recipe(model_kwargs=["a"]), RecipeError, ("model_kwargs", "a mapping")),
    ("recipe with a number for a list", _recipe(mean=0.5), RecipeError, ("mean: 0.5", "a list")),
    ("recipe with null for a number", _recipe(batch_size=None), RecipeError, ("batch_size: None", "an integer")),
    ("recipe with a huge integer", _recipe(epochs=2**70), RecipeError, ("epochs", "64 bits")),
    ("recipe with a huge float", _recipe(weight_decay=1e300), RecipeError, ("weight_decay: 1e+300", "32-bit")),
    (
        "recipe of stock train.py",
        _recipe(kd_model_name="resnet18"),
        RecipeError,
        ("does not support kd_model_name", "train.py --config"),
    ),
    ("recipe file of nothing", _file(""), RecipeError, ("r.yaml", "a mapping")),
    ("recipe file of a list", _file("[1, 2]"), RecipeError, ("r.yaml", "a mapping", "list")),
    ("recipe file that is not YAML", _file("lr: ["), RecipeError, ("r.yaml", "not valid YAML")),
    ("recipe file with a key twice", _file("lr: 1\nlr: 2"), RecipeError, ("r.yaml", "lr: given twice")),
    ("recipe file with no date", _file("lr: 2026-13-45"), RecipeError, ("r.yaml", "month")),
    ("recipe file of nested lists", _file("lr: " + "[" * 9999), RecipeError, ("r.yaml", "not valid YAML")),
    ("recipe file of bytes", _file(bytes(range(256))), RecipeError, ("r.yaml", "UTF-8")),
    (
        "recipe that is not there",
        lambda tmp_path: load_recipe(tmp_path / "no.yaml"),
        RecipeError,
        ("no.yaml", "no such"),
    ),
    ("recipe of a near name", lambda tmp_path: load_recipe("quikstart"), RecipeError, ("quikstart", "'quickstart'")),
    ("set without a value", _set("lr"), RecipeError, ("--set lr", "key=value")),
    ("set of no YAML", _set("lr=[1"), RecipeError, ("--set lr=[1", "YAML")),
    ("set into a number", _set("lr.x=1"), RecipeError, ("--set lr.x=1", "not a mapping")),
    ("set of a key twice", lambda t: Recipe("x").override(["lr=1", "lr=2"]), RecipeError, ("lr=2", "given twice")),
    ("recipe file with an octal", _file("epochs: 010"), RecipeError, ("YAML reads 010 as 8", "write 8")),
    ("recipe file with a time", _file("epochs: 1:30"), RecipeError, ("YAML reads 1:30 as 90",)),
    *(
        (f"recipe with an idle {key}", _recipe(**{key: value}), RecipeError, (f"{key}: ", f"has no effect {words}"))
        for key, (value, words) in _IDLE.items()
    ),
    ("invalid range", lambda tmp_path: parse_range("0..1"), ValueError, ("'0..1'", "interval")),
    # Errors from timm
    ("set-up of an unknown model", _set_up(model="moex_restnet18"), ValueError, ("moex_restnet18", "moex_resnet18")),
    ("set-up of a device", _set_up(device="cuda:99"), ValueError, ("device: 'cuda:99'", "not available")),
    ("set-up on meta", _set_up(device="meta"), ValueError, ("device: 'meta'", "not available")),
    ("set-up with an argument", _set_up(model_kwargs={"a": 1}), RecipeError, ("model_kwargs: {'a': 1}", "unexpected")),
    ("set-up with a typo", _set_up(model_kwargs={"moex_probb": 1}), RecipeError, ("moex_probb", "'moex_prob'")),
    ("set-up with prob 2", _set_up(model_kwargs={"moex_prob": 2}), RecipeError, ("prob=2", "[0, 1]")),
    ("set-up with a pool", _set_up(gp="maxx"), RecipeError, ("gp: 'maxx'", "pool type")),
    (
        "set-up with an optimizer",
        _set_up(opt="sdg"),
        RecipeError,
        ("opt: 'sdg'", "no such optimizer", "did you mean 'sgd'"),
    ),
    ("set-up with opt_kwargs", _set_up(opt_kwargs={"foo": 1}), RecipeError, ("opt_kwargs: {'foo': 1}", "foo")),
    (
        "set-up with five betas",
        _set_up(opt="adamw", opt_betas=[0.9] * 5),
        RecipeError,
        ("opt_betas", "expects 2 values"),
    ),
    (
        "set-up with an indivisible norm",
        _set_up(model_kwargs={"moex_norm": "gn7", "moex_prob": 0.1, "moex_warmup_epochs": 3}),
        RecipeError,
        ("norm='gn7'", "32 channels cannot be divided into 7 groups"),
    ),
    (
        "set-up past its stop",
        _set_up(stop_epoch=1, save_epochs=[2]),
        RecipeError,
        ("save_epochs: [2]", "stop_epoch: 1"),
    ),
    (
        "set-up with a module",
        _set_up(device_modules=["no_such"]),
        RecipeError,
        ("device_modules: 'no_such'", "imported"),
    ),
    ("set-up with two means", _set_up(mean=[0.1, 0.2]), RecipeError, ("mean: [0.1, 0.2]", "1 channels")),
    ("set-up with channels", _set_up(in_chans=2), RecipeError, ("in_chans: 2", "input_size: [1, 28, 28]")),
    ("set-up with a compiler", _set_up(torchcompile="nonsense"), RecipeError, ("torchcompile: 'nonsense'", "backend")),
    ("set-up with a policy", _set_up(aa="nonsense"), RecipeError, ("aa: 'nonsense'", "AA policy")),
    ("set-up with an odd batch", _set_up(mixup=0.1, batch_size=3), RecipeError, ("batch_size: 3", "even")),
    ("set-up with a batch of one", _set_up(batch_size=1), RecipeError, ("batch_size: 1", "more than 1 value")),
    ("set-up with a large batch", _set_up(batch_size=64), DataError, ("batch_size=64", "training set of 8 images")),
    ("set-up with 3 classes", _set_up(num_classes=3), DataError, ("num_classes=3", "10 classes")),
    ("set-up with input_key", _set_up(input_key="image"), DataError, ("input_key='image'",)),
    ("set-up in two types", _set_up(amp=True, model_dtype="bfloat16"), RecipeError, ("amp: true", "model_dtype")),
    ("set-up with a pool to nothing", _set_up(gp=""), RecipeError, ("gp: ''", "cannot process images of shape")),
    (
        "set-up from no file",
        _set_up(initial_checkpoint="no.pth"),
        RecipeError,
        ("initial_checkpoint: 'no.pth'", "no such"),
    ),
    (
        "set-up from an idle file",
        _set_up(pretrained_path=__file__),
        RecipeError,
        ("pretrained_path", "has no effect without pretrained"),
    ),
    ("set-up from junk", _initial("initial_checkpoint", b"junk"), RecipeError, ("initial_checkpoint", "weights.pth")),
    ("set-up from nothing", _initial("pretrained_path", b""), RecipeError, ("pretrained_path", "weights.pth")),
    # Data
    ("data of no folder", _open(root="no/such"), DataError, ("no/such", "does not exist")),
    ("data of a file", _open("", __file__), DataError, ("bad_input_training.py",)),
    ("data of no split", _open("", split="train"), DataError, ("no folder 'train'", "FashionMNIST")),
    ("data of a torch split", _open(split="all"), DataError, ("split='all'", "train")),
    ("data of an unknown set", _open("torch/fashion"), DataError, ("torch/fashion",)),
    ("data of a stream", _open("wds/x"), DataError, ("wds/x", "stream")),
    ("folder of no split", _pictures("cat", "dog"), DataError, ("found cat, dog", "val_fraction: 0.2")),
    ("folder of no val", _pictures("train/cat", split="val"), DataError, ("no folder 'val'", "val_fraction: 0.2")),
    (
        "folder with val and a fraction",
        _pictures("train/cat", "val/cat", val_fraction=0.2),
        DataError,
        ("val_fraction=0.2", "an evaluation folder, val"),
    ),
    (
        "folder of a split with a fraction",
        _pictures("train/a", split="test", val_fraction=0.2),
        DataError,
        ("split='test'",),
    ),
    ("sample with a fraction", _open(val_fraction=0.2), DataError, ("torch/fashion_mnist", "val_fraction: 0.2")),
    ("sample with groups", _open(group_folders=True), DataError, ("torch/fashion_mnist", "group_folders: True")),
    ("folder of one leaf twice", _pictures("train/cat/day1", "train/dog/day1"), DataError, ("'day1'", "group_folders")),
    ("folder without groups", _pictures("train/cat", group_folders=True), DataError, ("cat", "GROUP/CLASS")),
    (
        "folder of no such group",
        _pictures("train/a/cat", group_folders=True, held_out_group="b"),
        DataError,
        ("held_out_group: 'b'", "its groups are a"),
    ),
    (
        "group without group_folders",
        _pictures("train/a", held_out_group="a"),
        DataError,
        ("'a'", "group_folders: true"),
    ),
    ("folder of other classes", _pictures("train/a", "train/b", classes=["a", "c"]), DataError, ("'b'", "lacks 'c'")),
    ("folder of no pictures", _pictures("train/a", input_key=".gif"), DataError, (".png 2", "no images", ".gif")),
    ("folder with a target_key", _pictures("train/a", target_key="label"), DataError, ("target_key",)),
    ("folder with an argument", _pictures("train/a", val_fracton=0.2), DataError, ("val_fracton",)),
    (
        "folder with a loose picture",
        _pictures_with(lambda train: (train / "cat" / "0.png").rename(train / "thumb.png")),
        DataError,
        ("thumb.png", "not in a class folder"),
    ),
    (
        "folder with a pipe",
        _pictures_with(lambda train: os.mkfifo(train / "cat" / "pipe.png")),
        DataError,
        ("pipe.png", "not a regular file"),
    ),
    (
        "folder with a class map of nothing",
        _pictures_with(lambda train: (train / "map.txt").write_text("\n"), class_map="map.txt"),
        DataError,
        ("'map.txt'", "no class"),
    ),
    (
        "folder with a class map that repeats",
        _pictures_with(lambda train: (train / "map.txt").write_text("cat\ncat\n"), class_map="map.txt"),
        DataError,
        ("'map.txt'", "'cat' twice"),
    ),
    (
        "folder with no class map",
        _pictures("train/a", class_map="no.txt"),
        DataError,
        ("class_map: 'no.txt'", "no such"),
    ),
    (
        "training with other classes in val",
        _train_on("train/cat", "train/dog", "val/cat", "val/zebra"),
        DataError,
        ("'zebra'", "lacks 'dog'"),
    ),
    ("training in a mode", _train_on("a", "b", val_fraction=0.5, input_img_mode="XYZ"), DataError, ("'XYZ'", "RGBA")),
    (
        "training in a mode of 4",
        _train_on("a", "b", val_fraction=0.5, input_img_mode="CMYK"),
        DataError,
        ("'CMYK'", "the model needs 3"),
    ),
    (
        "training with 5 channels",
        _train_on("a", "b", val_fraction=0.5, input_size=[5, 32, 32], mean=[0.5], std=[0.5]),
        DataError,
        ("5 channels", "1 to 4"),
    ),
    (
        "training with idle donors",
        _train_on("a", "b", val_fraction=0.5, donors_from="other_groups"),
        RecipeError,
        ("donors_from", "group_folders"),
    ),
    (
        "training with one group",
        _train_on("a/x", "a/y", val_fraction=0.5, group_folders=True),
        DataError,
        ("donors", "two groups", "donors_from: any"),
    ),
    ("training with donors from nowhere", _recipe(donors_from="nowhere"), RecipeError, ("'nowhere'", "other_groups")),
    ("training with half a fraction", _recipe(val_fraction=1), RecipeError, ("val_fraction: 1", "below 1")),
    (
        "evaluation with a label out of range",
        lambda t: evaluate(torch.nn.Identity(), [(torch.zeros(2, 3), torch.tensor([0, 3]))], "cpu"),
        ValueError,
        ("label 3", "3 classes"),
    ),
    ("data with 5 classes", _open(num_classes=5), DataError, ("num_classes=5", "10 classes")),
    (
        "images read otherwise",
        lambda t: CheckedImages(None, "skip"),
        ValueError,
        ("unreadable='skip'", "error, replace"),
    ),  # type: ignore[arg-type]
    ("pad below 0", lambda t: InMemoryLoader(None, pad=-1), ValueError, ("pad=-1", "at least 0")),
    ("evaluation of nothing", lambda t: evaluate(torch.nn.Identity(), [], "cpu"), ValueError, ("loader", "no samples")),
    ("a subset", lambda t: imagenet_subset("imagenet-b"), ValueError, ("imagenet-b", "imagenet-a")),
    ("a subset of nothing", lambda t: locate_subset("imagenet-a", None, ""), DataError, ("--data-dir", "no such")),
    ("inference of a name", lambda t: open_inference("restnet18", t), ValueError, ("restnet18", "did you mean")),
    ("inference of a folder", lambda t: open_inference(str(t), t), ValueError, ("no config.json",)),
    # Checkpoints
    ("resume of nothing", _resume(None), FileNotFoundError, ("last.pth.tar", "no such file")),
    ("resume of no bytes", _resume(b""), ValueError, ("last.pth.tar",)),
    ("resume of junk", _resume(b"junk" * 99), ValueError, ("last.pth.tar",)),
    ("resume of a list", _resume([1, 2]), ValueError, ("last.pth.tar",)),  # type: ignore[arg-type]
    ("resume of others", _resume({"state_dict": {}}), ValueError, ("last.pth.tar", "built-in trainer")),
    ("resume of code", _resume({"rng": yaml.SafeLoader}), ValueError, ("last.pth.tar",)),
]
