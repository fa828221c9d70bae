"""Wrong folders, files and repos, each with the expected error."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from bad_input_insertion import Case
from hub_folders import CONFIG, files_of, write_folder
from loopback_hub import LoopbackHub
from weights_world import manifest_row

from timm_moex.hub import load_model, load_twin, save_folder
from timm_moex.hub.address import parse_address
from timm_moex.hub.card import parse_card
from timm_moex.hub.convert import ConvertError, convert
from timm_moex.hub.download import HubError
from timm_moex.hub.manifest import Provenance, read_manifest
from timm_moex.hub.publish import plan, publish


def _net() -> Any:
    return timm.create_model("test_resnet", num_classes=10)


def _save(prepare: Callable[[Any, Path], Any] = lambda net, folder: None, **arguments: Any) -> Callable[[Path], Any]:
    def run(tmp_path: Path) -> None:
        net = _net()
        prepare(net, tmp_path / "hub")
        data_config = CONFIG | arguments.pop("data_config", {})
        if data_config["input_size"][0] != 3:
            data_config |= {"mean": (0.5,), "std": (0.5,)}
        save_folder(net, tmp_path / "hub", data_config, **arguments)

    return run


def _nan(net: Any, folder: Path) -> None:
    with torch.no_grad():
        net.fc.bias[0] = torch.nan


def _foreign(net: Any, folder: Path) -> None:
    folder.mkdir()
    (folder / "thesis.tex").write_text("my life")


def _load(change: Callable[[Path], Any], how: Callable[[str], Any] = load_model) -> Callable[[Path], Any]:
    """Load a folder that `change` has broken."""

    def run(tmp_path: Path) -> None:
        folder = write_folder(tmp_path / "hub")
        change(folder)
        how(str(folder))

    return run


def _write(name: str, content: bytes) -> Callable[[Path], Any]:
    return lambda folder: (folder / name).write_bytes(content)


def _config(**changes: Any) -> Callable[[Path], Any]:
    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        cfg = changes.pop("pretrained_cfg", {})
        config["pretrained_cfg"] = {**config["pretrained_cfg"], **cfg} if isinstance(cfg, dict) else cfg
        (folder / "config.json").write_text(json.dumps(config | changes))

    return change


def _manifest(content: Any = None, **changes: Any) -> Callable[[Path], Any]:
    def run(tmp_path: Path) -> None:
        row = manifest_row(write_folder(tmp_path / "test_resnet.a")) | changes
        path = tmp_path / "manifest.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content or {"checkpoints": [row]}))
        read_manifest(path)

    return run


def _convert(content: Any, arch: str = "resnet50") -> Callable[[Path], Any]:
    def run(tmp_path: Path) -> None:
        path = tmp_path / "official.pt"
        path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
        convert(path, arch, tmp_path / "out")

    return run


def _plan(
    repo_id: str = "org/name", change: Callable[[Path], Any] = lambda f: None, **how: Any
) -> Callable[[Path], Any]:
    def run(tmp_path: Path) -> None:
        folder = write_folder(tmp_path / "hub")
        change(folder)
        plan(folder, repo_id, **how)

    return run


def _publish_without_token(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("timm_moex.hub.publish.get_token", lambda: None)
        publish(write_folder(tmp_path / "hub"), "org/name")


LIGHTNING = ("official.pt is a Lightning checkpoint", "save_folder")

CASES: list[Case] = [
    ("save over a file", _save(lambda n, folder: folder.write_text("x")), FileExistsError, ("hub", "not replaced")),
    ("save over a thesis", _save(_foreign), FileExistsError, ("thesis.tex", "not replaced")),
    ("save of nan", _save(_nan), ValueError, ("fc.bias", "not finite")),
    ("save with labels", _save(label_names=["a", "b"]), ValueError, ("label_names", "2 names", "num_classes=10")),
    ("save with a card", _save(card={"licence": "mit"}), ValueError, ("licence", "did you mean 'license'")),
    ("save with a text for labels", _save(label_names="abcdefghij"), ValueError, ("label_names='abcdefghij'", "str")),
    ("save with a set of labels", _save(label_names=set("abcdefghij")), ValueError, ("label_names=", "got set")),
    ("save with None for labels", _save(label_names=None), ValueError, ("label_names=None", "expected a list")),
    ("save with a label twice", _save(label_names=list("abcdefghia")), ValueError, ("'a' occurs 2 times",)),
    ("save with numbers for labels", _save(label_names=list(range(10))), ValueError, ("0 has type int, not str",)),
    ("save with a label too far", _save(label_names={"a": 0, "b": 2}), ValueError, ("'b': 2", "labels 0 to 1")),
    ("save with two labels of one", _save(label_names={"a": 0, "b": 0}), ValueError, ("'b': 0", "each once")),
    ("save with a std of 0", _save(data_config={"std": (0, 1, 1)}), ValueError, ("data_config: std is", "above 0")),
    ("save with two means", _save(data_config={"mean": (0.5, 0.5)}), ValueError, ("mean has 2 values for 3 channels",)),
    ("save with a filter", _save(data_config={"interpolation": "cubik"}), ValueError, ("interpolation is 'cubik'",)),
    (
        "save of 4 channels",
        _save(data_config={"input_size": (4, 32, 32)}),
        ValueError,
        ("4 input channels", "accepts 3"),
    ),
    ("facts of a card", lambda t: Provenance.of({"seed": 1}), ValueError, ("seed", "did you mean 'seeds'")),
    ("load of a near name", lambda t: load_model("resnet20_cifar.fmnist_sampl"), HubError, ("fmnist_sampl", "did you")),
    ("address of a source", lambda t: parse_address("ftp:x/y"), ValueError, ("ftp:x/y", "hf-hub")),
    ("load of no config", _load(lambda f: (f / "config.json").unlink()), HubError, ("hub", "config.json")),
    ("load of no weights", _load(lambda f: (f / "model.safetensors").unlink()), HubError, ("No suitable checkpoints",)),
    ("load of null", _load(_write("config.json", b"null")), HubError, ("hub", "config")),
    ("load of a list", _load(_write("config.json", b"[1]")), HubError, ("hub", "config")),
    ("load of brackets", _load(_write("config.json", b"[" * 99999)), HubError, ("hub",)),
    ("load of bytes", _load(_write("config.json", bytes(range(256)))), HubError, ("config.json", "not JSON")),
    ("load of no cfg", _load(_config(pretrained_cfg=None)), HubError, ("hub",)),
    ("load of a number", _load(_config(pretrained_cfg=7)), HubError, ("hub",)),
    ("load of a net", _load(_config(architecture="restnet")), HubError, ("restnet", "not registered")),
    ("load of classes", _load(_config(num_classes="ten")), HubError, ("hub",)),
    ("load of arguments", _load(_config(model_args={"a": 1})), HubError, ("hub", "'a'")),
    ("load of a size", _load(_config(pretrained_cfg={"input_size": "x"})), HubError, ("hub",)),
    ("load of a mean", _load(_config(pretrained_cfg={"mean": [None] * 3})), HubError, ("mean", "[None, None, None]")),
    ("load of a crop", _load(_config(pretrained_cfg={"crop_pct": -1})), HubError, ("crop_pct is -1", "above 0")),
    ("load of a filter", _load(_config(pretrained_cfg={"interpolation": 3})), HubError, ("interpolation is 3",)),
    ("load of cut weights", _load(_write("model.safetensors", b"\x08")), HubError, ("model.safetensors", "1 bytes")),
    (
        "load of other weights",  # timm 1.0.31 writes num_classes twice, and the second one builds the model
        _load(_config(num_classes=3, model_args={"num_classes": 10})),
        HubError,
        ("num_classes is 3, but 10 in model_args",),
    ),
    ("load of fewer classes", _load(_config(num_classes=3)), HubError, ("hub", "fc.bias", "Size([10])", "Size([3])")),
    ("twin of a folder", _load(lambda f: None, lambda f: load_twin(f, prob=2)), ValueError, ("prob=2", "[0, 1]")),
    ("twin with a typo", _load(lambda f: None, lambda f: load_twin(f, lamb=1)), TypeError, ("lamb",)),
    ("card without front matter", lambda t: parse_card("# Hello"), ValueError, ("front matter",)),
    ("card of no YAML", lambda t: parse_card("---\na: [\n---\n"), ValueError, ("front matter",)),
    ("manifest of null", _manifest("null"), ValueError, ("manifest.json", "not a manifest")),
    ("manifest of a list", _manifest("[]"), ValueError, ("manifest.json", "not a manifest")),
    ("manifest of brackets", _manifest("[" * 99999), ValueError, ("manifest.json", "not a manifest")),
    ("manifest of a number", _manifest({"checkpoints": 3}), ValueError, ("manifest.json", "checkpoints is 3")),
    ("manifest of numbers", _manifest({"checkpoints": [3]}), ValueError, ("entry 3", "mapping")),
    ("manifest with a key", _manifest(thing=1), ValueError, ("thing", "missing or unknown keys")),
    ("manifest with files", _manifest(files=None), ValueError, ("files is None",)),
    ("manifest with seeds", _manifest(seeds=["a"]), ValueError, ("seeds", "'a'")),
    ("manifest with top-1", _manifest(top1={"value": "x"}), ValueError, ("top1", "'x'")),
    ("manifest with a hash", _manifest(files={"config.json": 1}), ValueError, ("config.json has 1",)),
    ("conversion of a net", _convert({}, "resnet18"), ConvertError, ("arch='resnet18'", "resnet50")),
    ("conversion of no bytes", _convert(b""), ConvertError, ("official.pt", "truncated")),
    ("conversion of a list", _convert([1]), ConvertError, ("official.pt", "state_dict")),
    ("conversion of code", _convert({"state_dict": Path}), ConvertError, ("official.pt", "pickled")),
    ("conversion of texts", _convert({"state_dict": {"a": "b"}}), ConvertError, ("state_dict['a']", "not a tensor")),
    ("conversion of little", _convert({"state_dict": {"a": torch.ones(1)}}), ConvertError, ("none of its keys",)),
    (
        "conversion of Lightning",
        _convert({"state_dict": {}, "pytorch-lightning_version": "2"}),
        ConvertError,
        LIGHTNING,
    ),
    ("publish to up", _plan("../.."), HubError, ("repo_id='../..'", "ORG/NAME")),
    ("publish to a name", _plan("name"), HubError, ("repo_id='name'", "ORG/NAME")),
    ("publish under no tag", _plan(tag=""), HubError, ("tag=''", "git tag")),
    ("publish under two tags", _plan(tag="a b"), HubError, ("tag='a b'", "git tag")),
    ("publish under a licence", _plan(license="gpl-3.0"), HubError, ("license='gpl-3.0'", "mit")),
    ("publish of null", _plan(change=_write("config.json", b"null")), HubError, ("config.json", "NoneType")),
    ("publish of code", _plan(change=_write("evil.py", b"")), HubError, ("evil.py", "does not belong")),
    ("publish without a token", _publish_without_token, HubError, ("token", "hf auth login")),
]

# What a child process is to do with a repo, and the words of its HubError; the Hub is `world`
ON_THE_HUB: list[tuple[str, str, str, tuple[str, ...]]] = [
    ("repo that is not there", "load", "hf-hub:ORG/none", ("ORG/none", "Repository Not Found", "private")),
    ("repo without its owner", "load", "hf-hub:ORG/gated", ("ORG/gated", "gated")),
    ("revision that is not there", "load", "hf-hub:ORG/good@v9", ("ORG/good", "Revision Not Found", "/v9/")),
    ("repo of null", "load", "hf-hub:ORG/null", ("ORG--null", "config.json")),
    ("repo of no JSON", "load", "hf-hub:ORG/bytes", ("config.json", "not JSON")),
    ("repo without weights", "load", "hf-hub:ORG/empty", ("ORG/empty", "model.safetensors")),
    ("repo of cut weights", "load", "hf-hub:ORG/cut", ("model.safetensors", "truncated or corrupt")),
    ("repo of a broken Hub", "load", "hf-hub:ORG/broken", ("500", "ORG/broken")),
]


def fill(hub: LoopbackHub, folder: Path) -> None:
    """Add the repos of `ON_THE_HUB` to it."""
    files = files_of(write_folder(folder))
    hub.add("ORG/good", files)
    hub.add("ORG/gated", files)
    hub.add("ORG/broken", files)
    hub.add("ORG/null", files | {"config.json": b"null"})
    hub.add("ORG/bytes", files | {"config.json": b"\xff\xfe{"})
    hub.add("ORG/empty", {name: content for name, content in files.items() if name != "model.safetensors"})
    hub.add("ORG/cut", files | {"model.safetensors": files["model.safetensors"][:50]})
    hub.fail("ORG/gated", "gated")
    hub.fail("ORG/broken", 500)
