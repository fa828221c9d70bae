"""One table of wrong uses: functions, folders, recipes, checkpoints, the Hub and the command line."""

import re

import bad_input_cli
import bad_input_hub
import bad_input_insertion
import bad_input_training
import pytest
from hub_child import Child
from loopback_hub import LoopbackHub

from timm_moex.cli import main

CASES = [*bad_input_insertion.CASES, *bad_input_hub.CASES, *bad_input_training.CASES]


def ids(cases):
    return [case[0] for case in cases]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", CASES, ids=ids(CASES))
def test_error_names_argument_and_value(case, tmp_path):
    _, call, kind, words = case
    with pytest.raises(kind) as caught:
        call(tmp_path)
    message = str(caught.value)
    for word in words:
        assert word in message
    assert len(message) < 20_000


@pytest.mark.parametrize("case", bad_input_cli.CASES, ids=ids(bad_input_cli.CASES))
def test_command_line_explains_in_one_line_and_writes_nothing(case, tmp_path, capsys):
    _, words, expected = case
    folder = bad_input_cli.prepare(tmp_path)
    before = bad_input_cli.content(tmp_path)
    try:
        code = main([word.replace("DIR", str(folder)) for word in words])
    except SystemExit as stop:
        code = stop.code
    err = capsys.readouterr().err
    assert code == 2, err
    assert err.startswith("timm-moex: error: ") and err.count("\n") == 1 and "Traceback" not in err
    for word in expected:
        assert re.search(word, err), err
    assert bad_input_cli.content(tmp_path) == before


@pytest.fixture(scope="module")
def child(tmp_path_factory):
    with LoopbackHub() as hub:
        bad_input_hub.fill(hub, tmp_path_factory.mktemp("repo") / "hub")
        with Child(hub.url, tmp_path_factory.mktemp("home")) as process:
            yield process


@pytest.mark.parametrize("case", bad_input_hub.ON_THE_HUB, ids=ids(bad_input_hub.ON_THE_HUB))
def test_hub_error_names_repo_and_remedy(case, child):
    _, command, source, words = case
    answer = child(command, source)
    assert answer["error"] == "HubError"
    for word in words:
        assert word in answer["message"]


def test_table_has_150_cases_of_different_names():
    names = ids(CASES) + ids(bad_input_cli.CASES) + ids(bad_input_hub.ON_THE_HUB)
    assert len(names) == len(set(names)) and len(names) >= 150
