"""pytest plugin that points timm's own tests/test_models.py at twins; `timm_tests.py` loads it with `-p timm_twins`.

The tests are left unedited: they import `list_models`, `create_model` … from `timm`, so these names are replaced there
before the tests are collected. Models keep their plain names in the tests (they filter and branch on them), and it is
`create_model("resnet18")` that builds `moex_resnet18`.
"""

import json
import os
from pathlib import Path

import pytest
import timm
import torch

from timm_moex import find_moex

SETTINGS = json.loads(os.environ["TIMM_MOEX_ZOO"])  # mode (plain, twin, exchange), models, log, only: see timm_tests.py
PREFIX = "" if SETTINGS["mode"] == "plain" else "moex_"
LOG = Path(SETTINGS["log"])

REPLACED = ("list_models", "list_pretrained", "create_model", "get_pretrained_cfg_value")
_plain = {name: getattr(timm, name) for name in REPLACED}
_counts = {"training": 0, "exchanged": 0}
_collecting = True


def _chosen(names: list[str]) -> list[str]:
    names = [name for name in names if not name.startswith("moex_")]
    return [name for name in names if name.partition(".")[0] in SETTINGS["models"]] if _collecting else names


def _count_or_permute(model, args, kwargs):
    """Count calls in training mode; in the mode `exchange` give them a permutation."""
    if not model.training or "swap_index" in kwargs:
        return None
    _counts["training"] += 1
    if SETTINGS["mode"] == "twin":
        return None
    x = args[0]["patches"] if isinstance(args[0], dict) else args[0]
    _counts["exchanged"] += 1
    return args, {**kwargs, "swap_index": torch.randperm(len(x)).to(x.device)}


def _create_model(model_name, *args, **kwargs):
    model = _plain["create_model"](PREFIX + model_name, *args, **kwargs)
    if find_moex(model) is not None:
        model.register_forward_pre_hook(_count_or_permute, prepend=True, with_kwargs=True)
    return model


def pytest_configure(config):
    timm.list_models = lambda *args, **kwargs: _chosen(_plain["list_models"](*args, **kwargs))
    timm.list_pretrained = lambda *args, **kwargs: _chosen(_plain["list_pretrained"](*args, **kwargs))
    timm.create_model = _create_model
    timm.get_pretrained_cfg_value = lambda name, *args, **kwargs: _plain["get_pretrained_cfg_value"](
        PREFIX + name, *args, **kwargs
    )


@pytest.hookimpl(tryfirst=True)  # before `-k` takes any out
def pytest_collection_modifyitems(config, items):
    global _collecting
    _collecting = False
    LOG.with_suffix(".collected.json").write_text(json.dumps([item.name for item in items]))
    done = {json.loads(line)["test"] for line in LOG.read_text().splitlines()} if LOG.exists() else set()
    only = None if SETTINGS["only"] is None else set(SETTINGS["only"])
    items[:] = [item for item in items if item.name not in done and (only is None or item.name in only)]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)
    _counts.update(training=0, exchanged=0)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    report = (yield).get_result()
    if report.when == "call" or (report.when == "setup" and not report.passed):
        reason = ""
        if report.failed:
            reason = " ".join(str(call.excinfo.value).split())[:300] or call.excinfo.typename
            reason = f"{call.excinfo.typename}: {reason}"
        elif report.skipped:
            reason = str(report.longrepr[2])
        record = dict(test=item.name, outcome=report.outcome, reason=reason, seconds=report.duration, **_counts)
        with LOG.open("a") as log:
            log.write(json.dumps(record) + "\n")
