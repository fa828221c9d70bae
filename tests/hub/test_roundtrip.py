"""From a folder to the Hub and back to a machine with an empty cache, with real clients on both sides."""

import pytest
import timm
from hub_child import Child, logits_of
from hub_folders import files_of, write_folder
from loopback_hub import TOKEN, LoopbackHub

STOCK, OURS = "test_resnet", "resnet20_cifar"


@pytest.fixture(scope="module")
def hub():
    with LoopbackHub() as hub:
        yield hub


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("folders")
    return {name: write_folder(root / f"{name}.v1", name, seed=3) for name in (STOCK, OURS)}


@pytest.fixture(scope="module")
def logits(folders):
    return {name: logits_of(timm.create_model(f"local-dir:{path}", pretrained=True)) for name, path in folders.items()}


@pytest.fixture(scope="module")
def author(hub, tmp_path_factory):
    with Child(hub.url, tmp_path_factory.mktemp("author")) as child:
        yield child


@pytest.fixture(scope="module")
def published(hub, author, folders):
    """{architecture: revision} after publishing with this package, and a repo pushed by timm itself."""
    done = {name: author("publish", str(path), f"ORG/{name}")["result"] for name, path in folders.items()}
    assert all(result["changed"] for result in done.values())
    assert author("push", str(folders[STOCK]), "ORG/by-timm")["result"]
    return {name: result["revision"] for name, result in done.items()}


@pytest.fixture(scope="module")
def fresh(hub, published, tmp_path_factory):
    """Another machine with timm_moex, an empty cache and no token."""
    with Child(hub.url, tmp_path_factory.mktemp("fresh"), HF_TOKEN="") as child:
        yield child


def test_plain_timm_loads_what_was_published(hub, published, logits, tmp_path):
    with Child(hub.url, tmp_path, timm_moex=False, HF_TOKEN="") as plain:
        for name in (f"ORG/{STOCK}", f"ORG/{STOCK}@v1", f"ORG/{STOCK}@{published[STOCK]}", "ORG/by-timm"):
            assert plain("create", f"hf-hub:{name}")["result"] == logits[STOCK]
        unknown = plain("create", f"hf-hub:ORG/{OURS}")
        assert unknown["message"] == f"Unknown model ({OURS})"  # what the card's `import timm_moex` is for


def test_architectures_of_this_package_load_after_importing_it(fresh, published, logits):
    for revision in ("", "@v1", f"@{published[OURS]}"):
        assert fresh("create", f"hf-hub:ORG/{OURS}{revision}")["result"] == logits[OURS]
        assert fresh("load", f"hf-hub:ORG/{OURS}{revision}")["result"] == logits[OURS]
        assert fresh("twin", f"hf-hub:ORG/{OURS}{revision}", prob=0.5)["result"] == logits[OURS]


def test_twins_load_timms_own_tags_from_timms_own_repos(hub, fresh, tmp_path):
    folder = write_folder(tmp_path / "hub", STOCK, seed=7, num_classes=1000)
    hub.add("timm/test_resnet.r160_in1k", files_of(folder))
    twin = fresh("create", "moex_test_resnet.r160_in1k")["result"]
    assert twin == fresh("create", "test_resnet.r160_in1k")["result"] == fresh("load", "moex_test_resnet")["result"]
    assert len(twin["logits"][0]) == 1000


@pytest.mark.parametrize("name", [STOCK, OURS])
def test_published_weights_adapt_as_timms_own(name, fresh, folders):
    source = f"hf-hub:ORG/{name}"
    assert len(fresh("load", source, num_classes=3)["result"]["logits"][0]) == 3
    local = timm.create_model(f"local-dir:{folders[name]}", pretrained=True, in_chans=1)
    assert fresh("load", source, in_chans=1)["result"] == logits_of(local)
    shapes = fresh("load", source, features_only=True)["result"]["shapes"]
    assert len(shapes) > 2 and all(len(shape) == 4 for shape in shapes)


def test_publishing_is_one_commit_without_a_pickle(hub, published, folders):
    repo = hub.repos[f"ORG/{OURS}"]
    assert [title for _, title, _ in repo.commits] == ["initial commit", f"Add {OURS}.v1"]
    oid, files = repo.files("v1")
    assert oid == published[OURS] and sorted(files) == ["README.md", "config.json", "model.safetensors", "recipe.yaml"]
    assert f'create_model("hf-hub:ORG/{OURS}", pretrained=True)' in files["README.md"].content.decode()
    assert files["model.safetensors"].content == (folders[OURS] / "model.safetensors").read_bytes()
    assert "pytorch_model.bin" in hub.repos["ORG/by-timm"].files("main")[1]  # the test could have seen one


def test_second_run_changes_nothing(hub, author, published, folders):
    before = len(hub.log)
    again = author("publish", str(folders[STOCK]), f"ORG/{STOCK}")["result"]
    assert again["revision"] == published[STOCK] and not again["changed"]
    assert [line for line in hub.log[before:] if line in hub.writes()] == []


def test_a_tag_does_not_move(hub, author, published, tmp_path):
    other = str(write_folder(tmp_path / "other", STOCK, seed=4))
    told = author("publish", other, f"ORG/{STOCK}")
    assert told["error"] == "HubError"
    assert (
        "tag 'v1' already exists with a different model.safetensors. A published tag never changes" in told["message"]
    )
    assert len(hub.repos[f"ORG/{STOCK}"].commits) == 2
    second = author("publish", other, f"ORG/{STOCK}", tag="v2")["result"]
    refs = hub.repos[f"ORG/{STOCK}"].refs
    assert refs["v1"] == published[STOCK] and refs["v2"] == second["revision"] != published[STOCK]


@pytest.mark.parametrize("where", ["POST /api/repos/create", "PUT /_lfs", "/commit/main", "/tag/"])
def test_interrupted_publishing_can_be_repeated(where, hub, author, tmp_path):
    repo = f"ORG/interrupted-{where.strip('/')[-5:].strip('/_')}"
    folder = str(write_folder(tmp_path / "hub", STOCK, seed=5 + len(where)))
    hub.fail(where, 403, times=1)
    told = author("publish", folder, repo)
    assert told["error"] == "HubError" and "403" in told["message"] and TOKEN not in told["message"]
    done = author("publish", folder, repo)["result"]
    assert hub.repos[repo].refs["v1"] == hub.repos[repo].refs["main"] == done["revision"]
    assert len(hub.repos[repo].commits) == 2


def test_private_repos_stay_private(hub, author, fresh, folders):
    author("publish", str(folders[STOCK]), "ORG/secret", private=True)
    assert hub.repos["ORG/secret"].private
    assert "Repository Not Found" in fresh("load", "hf-hub:ORG/secret")["message"]
    assert author("load", "hf-hub:ORG/secret")["result"]["class"] == "ResNet"
    told = author("publish", str(folders[STOCK]), f"ORG/{STOCK}", private=True)
    assert f"ORG/{STOCK} exists and is public" in told["message"]


def test_without_a_token_nothing_is_asked_of_the_hub(hub, fresh, folders):
    before = len(hub.log)
    told = fresh("publish", str(folders[STOCK]), "ORG/anonymous")
    assert told["error"] == "HubError" and "log in with `hf auth login`, or set HF_TOKEN" in told["message"]
    assert len(hub.log) == before
