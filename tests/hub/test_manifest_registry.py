"""The package's checkpoints as tags in timm's registry, from a package laid out like the wheel."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import timm
from hub_child import Child, logits_of
from hub_folders import write_folder
from loopback_hub import LoopbackHub
from weights_world import manifest_row

import timm_moex
from timm_moex.hub.manifest import released_weights
from timm_moex.models import registry
from timm_moex.utils.files import sha256_of

OURS, STOCK = "resnet20_cifar", "test_resnet"
WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A Hub, and an installed package with two packaged checkpoints, three on the Hub and two available nowhere."""
    site = tmp_path_factory.mktemp("site")
    shutil.copytree(Path(timm_moex.__file__).parent, site / "timm_moex", ignore=shutil.ignore_patterns("__pycache__"))
    weights = site / "timm_moex" / "_weights"
    shutil.rmtree(weights, ignore_errors=True)
    weights.mkdir()
    rows, logits = [], {}
    with LoopbackHub() as hub:
        for seed, name in enumerate((f"{OURS}.shipped", f"{STOCK}.shipped", f"{OURS}.pinned", f"{STOCK}.pinned")):
            folder = write_folder(weights / name, name.partition(".")[0], seed=seed)
            logits[name] = logits_of(timm.create_model(f"local-dir:{folder}", pretrained=True))
            rows.append(manifest_row(folder))
            if name.endswith(".pinned"):
                files = {path.name: path.read_bytes() for path in folder.iterdir()}
                rows[-1] |= dict(hub_id=f"ORG/{name}", revision=hub.add(f"ORG/{name}", files))
                hub.add(f"ORG/{name}", files | {WEIGHTS: b"newer, and wrong"})  # the pin holds
                (folder / WEIGHTS).unlink()
        shutil.copytree(weights / f"{OURS}.pinned", weights / f"{OURS}.forged")
        files = {WEIGHTS: (weights / f"{OURS}.shipped" / WEIGHTS).read_bytes()}
        forged = dict(hub_id="ORG/forged", revision=hub.add("ORG/forged", files), files={WEIGHTS: {"sha256": "0" * 64}})
        rows.append(manifest_row(weights / f"{OURS}.forged", **forged))
        for tag in ("large", "lost"):
            folder = write_folder(weights / f"{STOCK}.{tag}", STOCK)
            rows.append(manifest_row(folder))
            (folder / WEIGHTS).unlink()
        rows[-2]["files"][WEIGHTS]["size"] = 2_000_001
        (weights / "manifest.json").write_text(json.dumps({"checkpoints": rows}))
        home = tmp_path_factory.mktemp("home")
        with Child(hub.url, home, HF_TOKEN="", PYTHONPATH=str(site)) as child:
            yield hub, child, logits, weights


def test_shipped_checkpoints_load_by_name_without_a_hub(world):
    hub, child, logits, _ = world
    before = len(hub.log)
    for name in (f"{OURS}.shipped", f"moex_{OURS}.shipped", f"moex_{STOCK}.shipped"):
        assert child("create", name)["result"] == logits[name.removeprefix("moex_")]
    assert len(hub.log) == before
    assert len(child("create", f"moex_{OURS}.shipped", num_classes=3)["result"]["logits"][0]) == 3
    assert len(child("create", f"moex_{OURS}.shipped", features_only=True)["result"]["shapes"]) == 4


def test_published_checkpoints_load_their_pinned_revision(world):
    _, child, logits, _ = world
    for name in (f"{OURS}.pinned", f"moex_{OURS}.pinned", f"moex_{STOCK}.pinned"):
        assert child("create", name)["result"] == logits[name.removeprefix("moex_")]
    try:
        child("set_offline", True)
        assert child("create", f"moex_{OURS}.pinned")["result"] == logits[f"{OURS}.pinned"]
    finally:
        child("set_offline", False)


def test_other_weights_under_our_name_are_never_used(world):
    hub, child, _, weights = world
    right = hashlib.sha256((weights / f"{OURS}.shipped" / WEIGHTS).read_bytes()).hexdigest()
    for name in (f"{OURS}.forged", f"moex_{OURS}.forged"):
        told = child("create", name)
        assert told["error"] == "HubError" and right in told["message"] and "0" * 64 in told["message"]
        cache = Path(child.errors.name).parent / "hub" / "models--ORG--forged"
        assert not [path for path in cache.rglob("*") if path.is_symlink() or path.name == right]


def test_shipped_weights_that_changed_on_disk_are_not_used(world):
    _, child, logits, weights = world
    path = weights / f"{STOCK}.shipped" / WEIGHTS
    good = path.read_bytes()
    try:
        path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
        told = child("create", f"moex_{STOCK}.shipped")
    finally:
        path.write_bytes(good)
    assert told["error"] == "HubError" and "the manifest has" in told["message"]


def test_weights_too_large_for_the_wheel_are_not_offered_and_the_error_says_where_they_are(world):
    hub, child, _, _ = world
    before = len(hub.log)
    answer = child("create", f"moex_{STOCK}.large")
    assert answer["error"] == "HubError" and f"local-dir:weights/{STOCK}.large" in answer["message"]
    assert "reinstall" in child("create", f"moex_{STOCK}.lost")["message"]
    assert len(hub.log) == before
    listed = child("list_pretrained", f"moex_{STOCK}.*")["result"]
    assert {name.partition(".")[2] for name in listed} == {"pinned", "r160_in1k", "shipped"}
    verified = child("command", "verify")["result"]["out"]
    assert f"{STOCK}.large: OK\n" in verified and f"{STOCK}.lost: \n  model.safetensors is missing\n" in verified


def test_the_default_tag_of_an_architecture_does_not_change(world):
    _, child, _, _ = world
    told = child("create", f"moex_{OURS}")
    assert "No pretrained weights exist" in told["message"]
    assert "tag 'shiped'" in child("load", f"moex_{OURS}.shiped")["message"]
    assert "did you mean 'shipped'" in child("load", f"moex_{OURS}.shiped")["message"]


@pytest.mark.parametrize("name", sorted(released_weights()))
def test_names_of_this_package_are_registered_as_the_manifest_says(name):
    entry = released_weights()[name]
    assert f"moex_{name}" in timm.list_pretrained("moex_*")
    cfg = timm.get_pretrained_cfg(f"moex_{name}")
    assert (cfg.license, cfg.tag) == (entry.license, entry.tag)
    assert bool(cfg.hf_hub_id) <= (entry.hub_id is not None)  # no repo that nobody has published
    assert timm.create_model(f"moex_{name}", pretrained=True).pretrained_cfg["num_classes"] == cfg.num_classes


def test_loading_a_packaged_checkpoint_as_a_twin_hashes_its_weights_once(monkeypatch):
    hashed = []
    monkeypatch.setattr(registry, "sha256_of", lambda path: hashed.append(path) or sha256_of(path))
    timm.create_model("moex_resnet20_cifar.fmnist_sample", pretrained=True)
    timm.create_model("resnet20_cifar.fmnist_sample", pretrained=True)
    assert [Path(path).parent.name for path in hashed] == ["resnet20_cifar.fmnist_sample"] * 2
