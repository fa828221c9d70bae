"""What is uploaded, what never is, and what the manifest says afterwards; test_roundtrip.py tests the upload itself."""

import hashlib
import json

import pytest
import torch
from hub_child import Child
from hub_folders import files_of, write_folder
from loopback_hub import TOKEN, LoopbackHub
from safetensors.torch import load_file, save_file
from weights_world import manifest_row

from timm_moex.cli import main
from timm_moex.hub.card import LOCAL_SOURCE, parse_card
from timm_moex.hub.download import HubError
from timm_moex.hub.publish import plan


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "test_resnet.v1")


def run(capsys, *words):
    code = main([str(word) for word in words])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_dry_run_lists_exactly_what_would_go(folder, tmp_path):
    (tmp_path / "home").mkdir()
    with LoopbackHub() as hub, Child(hub.url, tmp_path / "home") as child:
        done = child("command", "publish", str(folder), "--repo-id", "ORG/NAME", "--dry-run")["result"]
    assert [line.partition("/api/")[2] for line in hub.log] == ["validate-yaml"]
    code, (*rows, last) = done["code"], done["out"].splitlines()
    listed = {row.split()[-1]: (int(row.split()[0].replace(",", "")), row.split()[3]) for row in rows}
    files = files_of(folder)
    files["README.md"] = files["README.md"].replace(LOCAL_SOURCE.encode(), b"hf-hub:ORG/NAME")
    assert b"hf-hub:ORG/NAME" in files["README.md"]
    assert listed == {name: (len(content), hashlib.sha256(content).hexdigest()) for name, content in files.items()}
    assert code == 0 and last == "would create one commit in ORG/NAME, tagged v1; nothing was uploaded"


def poison_nan(folder):
    weights = load_file(folder / "model.safetensors")
    weights["fc.bias"] = torch.full_like(weights["fc.bias"], torch.nan)
    save_file(weights, folder / "model.safetensors")


REFUSED = {
    "pickle": (lambda f: torch.save({}, f / "pytorch_model.bin"), "pytorch_model.bin does not belong here"),
    "renamed_pickle": (lambda f: torch.save({}, f / "model.safetensors"), "truncated or corrupt"),
    "folder": (lambda f: (f / ".git").mkdir(), ".git does not belong here"),
    "no_card": (lambda f: (f / "README.md").unlink(), "README.md is missing"),
    "no_weights": (lambda f: (f / "model.safetensors").unlink(), "model.safetensors is missing"),
    "nan": (poison_nan, "fc.bias is not finite"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_verify_is_not_published(case, folder, capsys):
    change, message = REFUSED[case]
    change(folder)
    code, _, err = run(capsys, "publish", folder, "--repo-id", "ORG/NAME")  # no Hub is asked: none is reachable here
    assert code == 2 and "cannot be published" in err and message in err and err.count("\n") == 1


def test_a_license_is_stated_once(tmp_path):
    folder = write_folder(tmp_path / "hub", license=None)
    config = json.loads((folder / "config.json").read_text())
    config["pretrained_cfg"].pop("license", None)
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(HubError, match="states no licence; use --license"):
        plan(folder, "ORG/NAME")
    assert parse_card(plan(folder, "ORG/NAME", license="mit").card).data.license == "mit"
    assert parse_card((folder / "README.md").read_text()).data.license is None
    with pytest.raises(HubError, match="license='gpl', but .* states 'mit'"):
        plan(write_folder(tmp_path / "other"), "ORG/NAME", license="gpl")


WRONG_IDS = ["NAME", "ORG/NAME/x", "ORG/", "hf-hub:ORG/NAME", "ORG/NAME@v1", "../..", "ORG/..", "./NAME", ""]


@pytest.mark.parametrize("repo_id", WRONG_IDS)
def test_repo_id_has_two_parts(repo_id, folder):
    with pytest.raises(HubError, match="repo_id=.*expected ORG/NAME"):
        plan(folder, repo_id)


@pytest.mark.parametrize("tag", ["", "a b", "v1..2", "-v", "x.lock", "a/", "v1~", "\n"])
def test_a_tag_is_checked_in_a_dry_run_too(tag, folder, capsys):
    code, out, err = run(capsys, "publish", folder, "--repo-id", "ORG/NAME", f"--tag={tag}", "--dry-run")
    assert code == 2 and "expected the name of a git tag" in err and out == ""


def test_license_of_the_config_is_used(tmp_path):
    folder = write_folder(tmp_path / "hub", license=None)
    config = json.loads((folder / "config.json").read_text())
    config["pretrained_cfg"]["license"] = "apache-2.0"
    (folder / "config.json").write_text(json.dumps(config))
    assert parse_card(plan(folder, "ORG/NAME").card).data.license == "apache-2.0"


def test_links_out_of_the_folder_are_refused_and_a_cached_snapshot_is_not(folder, tmp_path):
    secret = tmp_path / "id_rsa"
    secret.write_text("secret")
    (folder / "LICENSE").symlink_to(secret)
    with pytest.raises(HubError, match="LICENSE is a link to .*id_rsa, outside"):
        plan(folder, "ORG/NAME")
    (folder / "LICENSE").unlink()
    snapshot, blobs = tmp_path / "models--a--b" / "snapshots" / "abc", tmp_path / "models--a--b" / "blobs"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for path in folder.iterdir():
        path.rename(blobs / path.name)
        (snapshot / path.name).symlink_to(f"../../blobs/{path.name}")
    assert len(plan(snapshot, "ORG/NAME").files) >= 4


def test_publishing_pins_the_manifest_and_shows_progress_but_no_token(folder, tmp_path):
    other = write_folder(tmp_path / "resnet10t.v1", "resnet10t")
    rows = [manifest_row(other), manifest_row(folder)]
    (tmp_path / "manifest.json").write_text(json.dumps({"checkpoints": rows}, indent=2))
    (tmp_path / "home").mkdir()
    with LoopbackHub() as hub, Child(hub.url, tmp_path / "home", HF_HUB_DISABLE_PROGRESS_BARS="0") as child:
        said = child("command", "publish", str(folder), "--repo-id", "ORG/NAME")["result"]
        stderr = (tmp_path / "home" / "stderr.txt").read_text()
    revision = hub.repos["ORG/NAME"].refs["v1"]
    assert said["code"] == 0 and said["out"].splitlines() == [
        f"ORG/NAME@{revision}, tag v1",
        f"timm.create_model('hf-hub:ORG/NAME@{revision}', pretrained=True)",
        f"pinned in {tmp_path / 'manifest.json'}",
    ]
    assert "100%" in stderr and TOKEN not in stderr + said["out"]
    after = json.loads((tmp_path / "manifest.json").read_text())["checkpoints"]
    assert after == [rows[0], rows[1] | {"hub_id": "ORG/NAME", "revision": revision}]


def test_the_hub_checks_the_card_before_the_repo_is_made_and_in_a_dry_run(tmp_path):
    folder = write_folder(tmp_path / "hub", license="gpl-of-mine")
    words = ["publish", str(folder), "--repo-id", "ORG/NAME"]
    (tmp_path / "home").mkdir()
    with LoopbackHub() as hub, Child(hub.url, tmp_path / "home") as child:
        for more in ([], ["--dry-run"]):
            assert child("command", *words, *more)["result"] == {"code": 2, "out": ""}
        told = child("publish", str(folder), "ORG/NAME")
        assert told["error"] == "HubError" and "must be one of [apache-2.0" in told["message"]
    assert "license: gpl-of-mine" in told["message"] and hub.repos == {}


def test_a_dry_run_without_a_hub_says_that_the_card_was_not_checked(folder, tmp_path):
    (tmp_path / "home").mkdir()
    with Child("http://127.0.0.1:9", tmp_path / "home") as child:
        done = child("command", "publish", str(folder), "--repo-id", "ORG/NAME", "--dry-run")["result"]
    assert done["code"] == 0 and done["out"].startswith("the Hub did not check the card of ORG/NAME: ")
