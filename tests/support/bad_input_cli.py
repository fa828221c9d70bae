"""Wrong command lines, each with words of the one-line error that explains it."""

from pathlib import Path

import yaml
from hub_folders import write_folder
from PIL import Image
from tinydata import tiny_recipe, write_tiny

Case = tuple[str, list[str], tuple[str, ...]]  # id, words, regular expressions


def prepare(folder: Path) -> Path:
    """The files named on the command lines: a recipe with its data, intact and broken folders. DIR is this folder."""
    data = write_tiny(folder / "data", train=8, test=4)
    (folder / "tiny.yaml").write_text(yaml.safe_dump(tiny_recipe(data, batch_size=4, epochs=1).settings))
    (folder / "broken.yaml").write_bytes(b"\xff\xfe")
    (folder / "junk").write_bytes(b"junk")
    write_folder(folder / "hub")
    (folder / "mine.png").write_bytes(b"\x89PNG, by somebody else")
    (folder / "mine.csv").write_text("class,marks\n")
    for name in "ab":
        Image.new("RGB", (8, 8), "red" if name == "a" else "blue").save(folder / f"{name}.png")
    write_folder(folder / "null")
    (folder / "null" / "config.json").write_text("null")
    (folder / "taken").mkdir()
    (folder / "taken.png").mkdir()
    (folder / "taken" / "thesis.tex").write_text("my life")
    return folder


def content(folder: Path) -> dict[str, bytes]:
    """Everything in a folder."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def _train(*words: str) -> list[str]:
    return ["train", "DIR/tiny.yaml", "--output", "DIR/run", *words]


_DATA = ["--dataset", "torch/fashion_mnist", "--data-dir", "DIR/data"]

CASES: list[Case] = [
    ("no command", [], ("COMMAND",)),
    ("unknown command", ["trian"], ("trian",)),
    ("unknown option", ["list", "--bla"], ("--bla",)),
    ("sites of a near name", ["sites", "restnet18"], ("restnet18", "did you mean 'resnet18'")),
    ("train without a recipe", ["train"], ("recipe",)),
    ("train by a near name", ["train", "quikstart"], ("quikstart", "did you mean 'quickstart'")),
    ("train by no file", ["train", "DIR/no.yaml"], ("no.yaml: no such file",)),
    ("train by a folder", ["train", "DIR/data"], ("data'", "path of a .yaml file")),
    ("train by bytes", ["train", "DIR/broken.yaml"], ("broken.yaml", "UTF-8")),
    ("train with no YAML", _train("--set", "lr=[1"), ("--set lr=\\[1", "YAML")),
    ("train with no value", _train("--set", "lr"), ("--set lr", "key=value")),
    ("train with a negative lr", _train("--set", "lr=-1"), ("lr: -1", "above 0")),
    ("train with one class", _train("--set", "num_classes=1"), ("num_classes: 1", "at least 2")),
    ("train with opt_kwargs", _train("--set", "opt_kwargs={foo: 1}"), ("opt_kwargs: {'foo': 1}", "foo")),
    ("train with model_kwargs", _train("--set", "model_kwargs={foo: 1}"), ("model_kwargs: {'foo': 1}", "foo")),
    ("train with too many classes", _train("--set", "num_classes=1000000000000000000"), ("num_classes: 10+",)),
    ("train on nonsense", _train("--device", "nonsense"), ("device: 'nonsense'", "not available")),
    ("train on meta", _train("--device", "meta"), ("device: 'meta'", "not available")),
    ("train with half a pad", _train("--pad", "1.5", "--in-memory"), ("--pad", "1.5")),
    ("train with an idle pad", _train("--pad", "2"), ("pad: 2 has no effect without in_memory",)),
    ("train with a negative pad", _train("--pad", "-1", "--in-memory"), ("pad: -1", "at least 0")),
    ("train on no data", _train("--data-dir", "DIR/no"), ("DIR|no'", "does not exist")),
    ("train on a file", _train("--data-dir", "DIR/junk"), ("junk", "fashion_mnist")),
    ("train from junk", _train("--set", "initial_checkpoint=DIR/junk"), ("initial_checkpoint: .*junk",)),
    ("train into a file", ["train", "DIR/tiny.yaml", "--output", "DIR/junk"], ("junk",)),
    (
        "resume of no file",
        ["train", "DIR/tiny.yaml", "--resume", "DIR/taken/last.pth.tar"],
        ("last.pth.tar", "no such"),
    ),
    ("verify of an unset variable", ["verify", ""], ("FOLDER: the path is empty",)),
    ("eval of an unset variable", ["eval", ""], ("model: the path is empty",)),
    ("curves of an unset variable", ["curves", ""], ("RUN: the path is empty",)),
    ("show of an unset variable", ["show", "sample:0", ""], ("IMAGE_B: the path is empty",)),
    ("resume of an unset variable", ["train", "DIR/tiny.yaml", "--resume", ""], ("--resume: the path is empty",)),
    ("train into an unset variable", ["train", "DIR/tiny.yaml", "--output", ""], ("--output: the path is empty",)),
    ("train at two rates", _train("--set", "lr=0.1", "lr=0.2"), ("lr=0.2: lr is given twice",)),
    ("resume of a folder", ["train", "DIR/tiny.yaml", "--resume", "DIR/taken"], ("taken",)),
    ("eval of a near name", ["eval", "moex_restnet18", *_DATA], ("did you mean 'moex_resnet18'",)),
    ("eval of a folder without a model", ["eval", "DIR/taken", *_DATA], ("taken has no config.json",)),
    ("eval of null", ["eval", "DIR/null", *_DATA], ("null", "config")),
    ("eval of no batches", ["eval", "DIR/hub", *_DATA, "--batch-size", "0"], ("--batch-size", "at least 1")),
    ("eval of some batches", ["eval", "DIR/hub", *_DATA, "--batch-size", "some"], ("--batch-size", "'some'")),
    ("eval with negative workers", ["eval", "DIR/hub", *_DATA, "--workers", "-1"], ("--workers", "at least 0")),
    ("eval on no device", ["eval", "DIR/hub", *_DATA, "--device", "cuda:99"], ("device: 'cuda:99'",)),
    ("eval for nan percent", ["eval", "DIR/hub", *_DATA, "--min-top1", "nan"], ("--min-top1", "nan")),
    ("eval of a subset", ["eval", "DIR/hub", *_DATA, "--subset", "imagenet-b"], ("imagenet-b", "imagenet-a")),
    ("eval on no data", ["eval", "DIR/hub", "--data-dir", "DIR/no"], ("no'", "does not exist")),
    ("eval of a fraction", ["eval", "DIR/hub", *_DATA, "--val-fraction", "1.5"], ("--val-fraction", "1.5", "below 1")),
    (
        "eval of half a set",
        ["eval", "DIR/hub", *_DATA, "--val-fraction", "0.5"],
        ("torch/fashion_mnist", "val_fraction"),
    ),
    ("eval by group", ["eval", "DIR/hub", *_DATA, "--group-folders"], ("torch/fashion_mnist", "group_folders")),
    ("train on a fraction", _train("--val-fraction", "0"), ("--val-fraction", "above 0")),
    ("publish without a repo", ["publish", "DIR/hub"], ("--repo-id",)),
    ("publish upwards", ["publish", "DIR/hub", "--repo-id", "../..", "--dry-run"], ("repo_id='../..'", "ORG/NAME")),
    ("publish of a null", ["publish", "DIR/null", "--repo-id", "a/b", "--dry-run"], ("config.json", "NoneType")),
    ("publish of a thesis", ["publish", "DIR/taken", "--repo-id", "a/b", "--dry-run"], ("thesis.tex",)),
    ("convert of junk", ["convert", "DIR/junk", "--arch", "resnet50", "--output", "DIR/out"], ("junk", "PyTorch file")),
    ("convert of no file", ["convert", "DIR/no", "--arch", "resnet50", "--output", "DIR/out"], ("no: no such file",)),
    ("convert to a net", ["convert", "DIR/junk", "--arch", "vgg", "--output", "DIR/out"], ("arch='vgg'", "resnet50")),
    ("train into nothing", ["train", "DIR/tiny.yaml", "--output", ""], ("--output: the path is empty",)),
    ("resume of an empty path", [*_train(), "--resume", ""], ("--resume: the path is empty",)),
    ("show into nothing", ["show", "sample:0", "sample:1", "--output", ""], ("--output: the path is empty",)),
    ("convert into nothing", ["convert", "DIR/junk", "--arch", "resnet50", "--output", ""], ("the path is empty",)),
    ("show over an image", ["show", "DIR/a.png", "DIR/b.png", "--output", "DIR/a.png"], ("a.png is .*a.png, which",)),
    (
        "show over an image by another name",
        ["show", "DIR/a.png", "DIR/b.png", "--output", "DIR/hub/../b.png", "--overwrite"],
        ("b.png is .*b.png, which",),
    ),
    (
        "show over a picture of another kind",
        ["show", "sample:0", "sample:1", "--output", "DIR/mine.png"],
        ("mine.png exists", "--overwrite"),
    ),
    ("curves over a picture", ["curves", "DIR/run", "--output", "DIR/mine.png"], ("mine.png exists", "--overwrite")),
    ("curves over a folder", ["curves", "DIR/run", "--output", "DIR/taken.png"], ("taken.png is a folder",)),
    ("predict into the data", ["predict", "DIR/hub", *_DATA, "--output", "DIR/data/x.png"], ("is inside .*data,",)),
    ("predict into the model", ["predict", "DIR/hub", *_DATA, "--output", "DIR/hub/x.png"], ("is inside .*hub,",)),
    ("predict over a picture", ["predict", "DIR/hub", *_DATA, "--output", "DIR/mine.png"], ("mine.png exists",)),
    ("eval over the config", ["eval", "DIR/hub", *_DATA, "--per-class", "DIR/hub/config.json"], ("is inside .*hub,",)),
    ("eval over a table", ["eval", "DIR/hub", *_DATA, "--per-class", "DIR/mine.csv"], ("mine.csv exists",)),
]
