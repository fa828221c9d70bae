"""`publish --all`: every checkpoint of a manifest, pinned, in one collection of the loopback Hub."""

import json

import pytest
from hub_child import Child
from hub_folders import write_folder
from loopback_hub import LoopbackHub
from weights_world import manifest_row

from timm_moex.cli import main
from timm_moex.hub import publish as publishing
from timm_moex.hub.download import HubError
from timm_moex.hub.publish import plan_all

NAMES = ["test_resnet.v1", "resnet8_cifar.v1"]


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "weights"
    root.mkdir()
    rows = [manifest_row(write_folder(root / name, name.partition(".")[0])) for name in NAMES]
    (root / "manifest.json").write_text(json.dumps({"checkpoints": rows}))
    return root


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    with LoopbackHub() as hub, Child(hub.url, tmp_path_factory.mktemp("home")) as child:
        yield hub, child


@pytest.fixture
def hub_and_child(world):
    """An empty Hub, and a process that has a token for it."""
    for kept in (world[0].repos, world[0].collections, world[0].faults):
        kept.clear()
    return world


def pins(root):
    rows = json.loads((root / "manifest.json").read_text())["checkpoints"]
    return {row["name"]: (row["hub_id"], row["revision"]) for row in rows}


def test_all_are_published_pinned_and_gathered_and_a_second_time_changes_nothing(root, hub_and_child):
    hub, child = hub_and_child
    done = child("command", "publish", str(root), "--all", "--org", "ORG")["result"]
    assert done["code"] == 0
    assert pins(root) == {name: (f"ORG/{name}", hub.repos[f"ORG/{name}"].refs["v1"]) for name in NAMES}
    [(slug, collection)] = hub.collections.items()
    assert [item["id"] for item in collection["items"]] == [f"ORG/{name}" for name in NAMES]
    assert collection["items"][0]["note"] == {"text": "Top-1 81.50 % on torch/cifar10 (test)"}
    assert collection["private"] is False
    assert done["out"].splitlines()[-1] == f"{hub.url}/collections/{slug} contains all 2 repos, 2 of them new"
    state = pins(root), len(hub.repos["ORG/test_resnet.v1"].commits), (root / "manifest.json").read_bytes()
    again = child("command", "publish", str(root), "--all", "--org", "ORG")["result"]["out"]
    assert again.count("already up to date") == 2 and again.endswith("contains all 2 repos, 0 of them new\n")
    assert state == (pins(root), len(hub.repos["ORG/test_resnet.v1"].commits), (root / "manifest.json").read_bytes())


def test_an_interrupted_publish_continues_where_it_stopped(root, hub_and_child):
    hub, child = hub_and_child
    hub.fail(rf"POST /api/models/ORG/{NAMES[1]}/commit", 500, times=50)
    first = child("publish_all", "ORG", str(root), private=True)
    assert first["error"] == "HubError" and NAMES[1] in first["message"]
    assert pins(root)[NAMES[0]][0] == f"ORG/{NAMES[0]}" and pins(root)[NAMES[1]] == (None, None)
    hub.faults.clear()
    hub.fail("POST /api/collections/.*/items", 403, times=50)
    second = child("publish_all", "ORG", str(root), private=True)["message"]
    assert "answered 403 for collections/ORG: told to fail" in second
    hub.faults.clear()
    third = child("publish_all", "ORG", str(root), private=True)["result"]
    assert third["added"] == [f"ORG/{name}" for name in NAMES]
    assert [(repo.private, len(repo.tags)) for repo in hub.repos.values()] == [(True, 1)] * 2
    assert [collection["private"] for collection in hub.collections.values()] == [True]


def test_nothing_is_uploaded_if_one_folder_is_invalid(root, hub_and_child):
    hub, child = hub_and_child
    (root / NAMES[1] / "model.safetensors").unlink()
    assert "cannot be published: model.safetensors is missing" in child("publish_all", "ORG", str(root))["message"]
    assert hub.repos == {} and hub.collections == {} and pins(root)[NAMES[0]] == (None, None)


def test_a_checkpoint_pinned_elsewhere_is_not_moved(root):
    rows = json.loads((root / "manifest.json").read_text())["checkpoints"]
    rows[1] |= {"hub_id": f"OTHER/{NAMES[1]}", "revision": "0" * 40}
    (root / "manifest.json").write_text(json.dumps({"checkpoints": rows}))
    with pytest.raises(HubError, match=f"{NAMES[1]} is already published as OTHER/{NAMES[1]}"):
        plan_all("ORG", root)


def test_a_checkpoint_without_its_weights_is_not_published_although_it_was(root):
    rows = json.loads((root / "manifest.json").read_text())["checkpoints"]
    rows[0] |= {"hub_id": f"ORG/{NAMES[0]}", "revision": "0" * 40}
    (root / "manifest.json").write_text(json.dumps({"checkpoints": rows}))
    (root / NAMES[0] / "model.safetensors").unlink()
    with pytest.raises(HubError, match="has no model.safetensors"):
        plan_all("ORG", root)


def test_each_folder_is_verified_once_and_each_card_checked_before_the_first_repo(root, tmp_path, monkeypatch):
    verified = []
    monkeypatch.setattr(publishing, "verify_folder", lambda *args: verified.append(args[0].name) or [])
    monkeypatch.setattr(publishing, "get_token", lambda: "hf_any")
    monkeypatch.setattr(publishing, "check_front_matter", lambda text: verified.append("card"))
    monkeypatch.setattr(publishing, "_send", lambda planned, api, private: verified.append("sent"))
    monkeypatch.setattr(publishing, "_gather", lambda *args: ("", []))
    publishing.publish_all("ORG", root)
    assert verified == [*NAMES, "card", "card", "sent", "sent"]


def test_an_empty_manifest_is_an_error(tmp_path):
    (tmp_path / "manifest.json").write_text('{"checkpoints": []}')
    with pytest.raises(ValueError, match="has no checkpoints to publish"):
        plan_all("ORG", tmp_path)


def test_a_dry_run_lists_each_repo(root, capsys):
    assert main(["publish", str(root), "--all", "--org", "ORG", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert all(f"would create one commit in ORG/{name}, tagged v1; nothing was uploaded" in out for name in NAMES)
    assert out.count("model.safetensors") == 2


MIXED = [["--all"], ["--org", "ORG"], ["x"], ["--all", "--org", "ORG", "--repo-id", "ORG/x"], ["--repo-id", "ORG/x"]]
MIXED += [["--all", "--org", "ORG", "--license", "mit"], ["x", "--repo-id", "ORG/x", "--org", "ORG"]]


@pytest.mark.parametrize("words", MIXED, ids=" ".join)
def test_the_two_ways_are_not_mixed(words, capsys):
    assert main(["publish", *words]) == 2
    assert "expected `publish FOLDER --repo-id ORG/NAME`, or `publish --all --org ORG`" in capsys.readouterr().err
