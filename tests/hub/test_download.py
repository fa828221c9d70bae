"""Errors that a user sees when loading fails: real clients, a loopback Hub that fails on request, an empty cache."""

import errno
import json
import multiprocessing
import os
import re
import resource
import shutil
from pathlib import Path

import huggingface_hub
import pytest
from hub_child import Child
from hub_folders import files_of, write_folder
from loopback_hub import TOKEN, LoopbackHub

from timm_moex.hub.download import MISLEADING


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return files_of(write_folder(tmp_path_factory.mktemp("folders") / "hub"))


@pytest.fixture(scope="module")
def hub():
    with LoopbackHub() as hub:
        yield hub


@pytest.fixture(scope="module")
def child(hub, tmp_path_factory):
    with Child(hub.url, tmp_path_factory.mktemp("home")) as child:
        yield child


def message(answer):
    assert answer.get("error") in ("HubError", "Unreachable"), answer
    assert TOKEN not in answer["message"]
    return answer["message"]


def without(files, *names, **changed):
    kept = {name: content for name, content in files.items() if name not in names}
    return kept | {name.replace("_", "."): content for name, content in changed.items()}


def cached(tmp_home, repo):
    """Files of a repo in the cache, complete or partial."""
    folder = tmp_home / "hub" / f"models--{repo.replace('/', '--')}"
    return sorted(path.name for path in folder.rglob("*") if path.is_file() and "refs" not in path.parts)


def home(child):
    return Path(child.errors.name).parent


def test_404_says_what_could_be_wrong(hub, child, files):
    told = message(child("load", "hf-hub:ORG/nothing"))
    assert f"Repository Not Found for url: {hub.url}/ORG/nothing/" in told and "private or gated" in told
    assert "timm/resnet50.a1_in1k: 404" in message(child("load", "moex_resnet50.a1_in1k"))
    hub.add("ORG/known", files)
    assert f"Revision Not Found for url: {hub.url}/ORG/known/resolve/v9/" in message(
        child("load", "hf-hub:ORG/known@v9")
    )


def test_gated_repos_give_a_clear_error(hub, child, files):
    hub.add("ORG/gated", files)
    hub.fail("ORG/gated", "gated")
    told = message(child("load", "hf-hub:ORG/gated"))
    assert f"Cannot access gated repo for url {hub.url}/ORG/gated/" in told and "not in the authorized list" in told


def test_wrong_token_says_how_to_log_in_and_does_not_print_it(hub, child, files):
    hub.add("ORG/open", files)
    try:
        child("set_token", "hf_someOldToken")
        told = message(child("load", "hf-hub:ORG/open"))
    finally:
        child("set_token", TOKEN)
    assert f"{hub.url} answered 401 for ORG/open: Invalid credentials in Authorization header; log in" in told
    assert "hf_someOldToken" not in told


PASSING = {409, 412, 429, 500, 503}


@pytest.mark.parametrize("status", sorted(PASSING | {400, 402, 403, 413, 451}))
def test_the_servers_reason_is_kept_and_only_temporary_errors_suggest_a_retry(status, hub, child, files):
    hub.add(f"ORG/status-{status}", files)
    hub.fail(f"ORG/status-{status}", status)
    told = message(child("load", f"hf-hub:ORG/status-{status}"))
    assert f"{hub.url} answered {status} for ORG/status-{status}: " in told and "told to fail" in told
    assert ("try again" in told) == (status in PASSING)


def test_offline_says_so_and_what_is_cached_still_loads(hub, child, files):
    hub.add("ORG/seen", files)
    assert child("load", "hf-hub:ORG/seen")["result"]["class"] == "ResNet"
    hub.add("ORG/unseen", files)
    try:
        child("set_offline", True)
        again = child("load", "hf-hub:ORG/seen")
        told = message(child("load", "hf-hub:ORG/unseen"))
    finally:
        child("set_offline", False)
    assert again["result"]["class"] == "ResNet"
    assert "ORG/unseen@main is not in the cache" in told and "HF_HUB_OFFLINE is set" in told and "local-dir:" in told


def test_timeout_names_the_variables(hub, child, files):
    hub.add("ORG/slow", files)
    hub.fail("HEAD /ORG/slow", "timeout", times=7)
    told = message(child("load", "hf-hub:ORG/slow"))
    assert "did not answer" in told and "HF_HUB_ETAG_TIMEOUT" in told


def test_connection_cut_once_is_resumed(hub, child, files):
    hub.add("ORG/cut-once", files)
    hub.fail("GET /ORG/cut-once/resolve/main/model.safetensors", "cut", times=1)
    answer = child("load", "hf-hub:ORG/cut-once")
    if huggingface_hub.__version__.startswith("0."):  # it keeps what has arrived and resumes at the next call
        assert "try again" in message(answer)
        answer = child("load", "hf-hub:ORG/cut-once")
    assert answer["result"]["class"] == "ResNet"
    assert sum("GET /ORG/cut-once/resolve/main/model.safetensors" in line for line in hub.log) == 2


def test_connection_cut_for_good_leaves_no_partial_file(hub, child, files):
    hub.add("ORG/cut", files)
    hub.fail("GET /ORG/cut/resolve/main/model.safetensors", "cut")
    hub.fail("GET /ORG/cut/resolve/main/model.safetensors bytes=", "drop")
    told = message(child("load", "hf-hub:ORG/cut"))
    assert "dropped the connection for ORG/cut" in told and "Incomplete files are never used, so try again" in told
    assert [name for name in cached(home(child), "ORG/cut") if not name.endswith(".incomplete")] == []
    hub.faults.clear()
    assert child("load", "hf-hub:ORG/cut")["result"]["class"] == "ResNet"


def test_bytes_changed_on_the_way_are_found_by_their_hash(hub, child, files):
    hub.add("ORG/flipped", files)
    hub.fail("GET /ORG/flipped/resolve/main/model.safetensors", "corrupt", times=1)
    told = message(child("load", "hf-hub:ORG/flipped"))
    assert len(set(re.findall(r"[0-9a-f]{64}", told))) == 2 and "removed from the cache" in told
    assert "model.safetensors" not in cached(home(child), "ORG/flipped")
    assert child("load", "hf-hub:ORG/flipped")["result"]["class"] == "ResNet"


def test_truncated_weights_in_the_repo_itself(hub, child, files):
    hub.add("ORG/truncated", without(files, model_safetensors=files["model.safetensors"][:50_000]))
    told = message(child("load", "hf-hub:ORG/truncated"))
    assert "model.safetensors (50,000 bytes) is truncated or corrupt" in told and "load again" in told


@pytest.mark.parametrize(
    "changed, expected",
    [
        (dict(config_json=b"{not json"), r"config.json is not JSON \(.*line 1 column 2"),
        (dict(config_json=b"\x80\x04\x95"), "config.json is not JSON"),
        (dict(config_json=b'{"model_type": "bert"}'), "config.json is not a timm config"),
    ],
    ids=["broken", "binary", "foreign"],
)
def test_wrong_config(changed, expected, hub, child, files, tmp_path):
    repo = f"ORG/config-{tmp_path.name}"
    hub.add(repo, without(files, **changed))
    assert re.search(expected, message(child("load", f"hf-hub:{repo}")))


def test_missing_files(hub, child, files):
    hub.add("ORG/no-config", without(files, "config.json"))
    told = message(child("load", "hf-hub:ORG/no-config"))
    assert "ORG/no-config@main has no config.json, so it is not a complete timm model" in told
    hub.add("ORG/no-weights", without(files, "model.safetensors"))
    assert "ORG/no-weights@main has no model.safetensors" in message(child("load", "hf-hub:ORG/no-weights"))


def test_unknown_architecture_says_what_to_import(hub, child, files):
    config = json.loads(files["config.json"]) | {"architecture": "test_resnett"}
    hub.add("ORG/unknown", without(files, config_json=json.dumps(config).encode()))
    told = message(child("load", "hf-hub:ORG/unknown"))
    assert "architecture 'test_resnett' is not registered with timm" in told
    assert "did you mean 'test_resnet'" in told and "import timm_moex" in told


def test_misspelt_tag_gets_the_nearest(child):
    told = message(child("load", "moex_resnet50.a1_in1"))
    assert "moex_resnet50 has no weights with the tag 'a1_in1'; did you mean 'a1_in1k'" in told


def test_folders_on_disk(child, files, tmp_path):
    (tmp_path / "hub").mkdir()
    assert f"{tmp_path / 'hub'} has no config.json" in message(child("load", str(tmp_path / "hub")))
    (tmp_path / "hub" / "config.json").write_bytes(files["config.json"])
    assert f"No suitable checkpoints found in {tmp_path / 'hub'}" in message(child("load", str(tmp_path / "hub")))
    (tmp_path / "hub" / "model.safetensors").write_bytes(files["model.safetensors"][:100])
    told = message(child("load", str(tmp_path / "hub")))
    assert f"{tmp_path / 'hub' / 'model.safetensors'} (100 bytes) is truncated or corrupt" in told
    config = json.loads(files["config.json"]) | {"architecture": "resnet10t"}
    (tmp_path / "hub" / "model.safetensors").write_bytes(files["model.safetensors"])
    (tmp_path / "hub" / "config.json").write_text(json.dumps(config))
    assert "Error(s) in loading state_dict for ResNet" in message(child("load", str(tmp_path / "hub")))
    shutil.copytree(tmp_path / "hub", tmp_path / "resnet18")
    (tmp_path / "resnet18" / "config.json").unlink()
    hides = "The folder ./resnet18 hides timm's model 'resnet18'"
    assert hides in message(child("load_in", str(tmp_path), "resnet18"))


def test_a_proxy_that_refuses_is_named(files, tmp_path):
    with LoopbackHub() as proxy:
        proxy.fail("CONNECT", 407)
        (tmp_path / "home").mkdir()
        with Child("https://hub.invalid", tmp_path / "home", HTTPS_PROXY=proxy.url) as child:
            told = message(child("load", "hf-hub:ORG/any"))
    assert (
        "the proxy in HTTPS_PROXY or HTTP_PROXY refused the connection to https://hub.invalid" in told and "407" in told
    )


def test_only_these_messages_are_replaced():
    assert list(MISLEADING) == [
        "suggests 'local_files_only', which timm does not have",
        "names pytorch_model.bin, but model.safetensors is missing",
        "gives the system's connection error, but neither the Hub's address nor the variables to set",
        "puts the status and a link about statuses before the server's message",
        "gives a line and column, or a key, but not the file",
        "reports a header that is too large, but not the file",
        "says unknown model, although an import would register it",
        "says invalid pretrained tag, but not which tags exist",
    ]


def save_elsewhere(folder, seeds, file_size=resource.RLIM_INFINITY):
    """Save in a forked process, and send any error back through the pipe."""

    def save(pipe):
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, resource.RLIM_INFINITY))
        told = []
        for seed in seeds:
            try:
                write_folder(folder, seed=seed)
            except OSError as error:
                told.append(str(error))
        pipe.send(told)

    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=save, args=(theirs,))
    process.start()
    return process, ours


def test_a_file_that_cannot_be_written_leaves_the_old_checkpoint(tmp_path):
    # A limit on the size of files stands in for the full disk: the write of the weights fails half way, for real.
    folder = write_folder(tmp_path / "hub", seed=0)
    old = files_of(folder)
    process, pipe = save_elsewhere(folder, [1], file_size=100_000)
    [told] = pipe.recv()
    process.join()
    assert str(folder) in told and "the previous contents are unchanged" in told
    assert os.strerror(errno.EFBIG) in told
    assert files_of(folder) == old and [path.name for path in tmp_path.iterdir()] == ["hub"]


def test_two_processes_saving_concurrently_leave_one_complete_folder(tmp_path):
    folder = tmp_path / "hub"
    whole = {files_of(write_folder(tmp_path / f"{seed}", seed=seed))["model.safetensors"] for seed in (0, 1)}
    savers = [save_elsewhere(folder, [seed] * 15) for seed in (0, 1)]
    assert [pipe.recv() for _, pipe in savers] == [[], []]
    for process, _ in savers:
        process.join()
    assert files_of(folder)["model.safetensors"] in whole
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1", "hub"]
