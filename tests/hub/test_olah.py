"""Downloads from a third-party server: olah, a mirror of the Hub, offline, with our folder in a git repo.

olah (PyPI) may be installed next to the package, or elsewhere: TIMM_MOEX_OLAH=VENV/bin/olah-cli.
"""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

import pytest
import timm
from hub_child import Child, logits_of
from hub_folders import write_folder

OLAH = os.environ.get("TIMM_MOEX_OLAH") or shutil.which("olah-cli", path=os.path.dirname(sys.executable))

pytestmark = [
    pytest.mark.skipif(not OLAH, reason="no olah: `pip install olah`, or TIMM_MOEX_OLAH=VENV/bin/olah-cli"),
    pytest.mark.skipif(not shutil.which("git"), reason="no git"),
]


def git(folder, *words):
    who = ["-c", "user.name=test", "-c", "user.email=test@example.com", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", *who, *words], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture(scope="module")
def mirrored(tmp_path_factory):
    """(olah's address, commit, logits) with ORG/NAME in its mirror."""
    root = tmp_path_factory.mktemp("olah")
    folder = write_folder(root / "mirror" / "models" / "ORG" / "NAME", "test_resnet", seed=6)
    logits = logits_of(timm.create_model(f"local-dir:{folder}", pretrained=True))
    git(folder, "init", "-q", "-b", "main")
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "Add model")
    git(folder, "tag", "v1")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = root / "olah.toml"
    config.write_text(f"""
[basic]
host = "127.0.0.1"
port = {port}
repos-path = "{root / "repos"}"
mirror-scheme = "http"
mirror-netloc = "127.0.0.1:{port}"
mirror-lfs-netloc = "127.0.0.1:{port}"
mirrors-path = ["{root / "mirror"}"]

[accessibility]
offline = true
""")
    with open(root / "log.txt", "w") as log:
        command = [OLAH, "--config", str(config), "--log-path", str(root / "logs")]
        server = subprocess.Popen(command, cwd=root, stdout=log, stderr=log)
        try:
            url = f"http://127.0.0.1:{port}"
            _wait_for(f"{url}/api/models/ORG/NAME/revision/main", server, root / "log.txt")
            yield url, git(folder, "rev-parse", "HEAD"), logits
        finally:
            server.terminate()
            server.wait()


def _wait_for(url, server, log):
    for _ in range(300):
        assert server.poll() is None, log.read_text()
        try:
            return urllib.request.urlopen(url, timeout=5)
        except OSError:
            time.sleep(0.1)
    raise AssertionError(log.read_text())


def test_fresh_machine_loads_through_olah(mirrored, tmp_path):
    url, commit, logits = mirrored
    with Child(url, tmp_path, timm_moex=False, HF_TOKEN="") as plain:
        for revision in ("", f"@{commit}", "@v1"):
            assert plain("create", f"hf-hub:ORG/NAME{revision}")["result"] == logits
    cached = [path.name for path in (tmp_path / "hub" / "models--ORG--NAME" / "snapshots" / commit).iterdir()]
    assert sorted(cached) == ["config.json", "model.safetensors"]


def test_our_loader_agrees(mirrored, tmp_path):
    url, _, logits = mirrored
    with Child(url, tmp_path, HF_TOKEN="") as child:
        assert child("load", "hf-hub:ORG/NAME")["result"] == logits
        assert "has no repo 'ORG/OTHER'" in child("load", "hf-hub:ORG/OTHER")["message"]
