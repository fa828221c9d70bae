"""`timm-moex compare`: its options reach the comparison, and wrong ones give a one-line error."""

import pytest
from PIL import Image
from tinydata import write_tiny

from timm_moex.cli import main
from timm_moex.comparison.compare import Comparison


@pytest.fixture
def called(monkeypatch, tmp_path):
    """The arguments of the calls; nothing is trained."""
    calls = []

    def compare(*args, **kwargs):
        calls.append((args, kwargs))
        return Comparison(tmp_path, "", {}, failed=len(calls) - 1)

    monkeypatch.setattr("timm_moex.comparison.compare.compare", compare)
    return calls


def test_options_reach_the_comparison_and_failed_runs_the_exit_code(called):
    words = "compare quickstart --data-dir d --methods baseline cutmix+moex --seeds 3 --jobs 2 --set epochs=1 lr=0.1"
    words = [*words.split(), "--method", "mine: moex_lam=0.5", "--test-split", "test", "--output", "out"]
    assert (main(words), main(words)) == (0, 1)
    args, kwargs = called[0]
    assert args == ("quickstart", "d")
    assert kwargs == dict(
        methods=["baseline", "cutmix+moex"],
        add_methods=["mine: moex_lam=0.5"],
        seeds=3,
        settings=["epochs=1", "lr=0.1"],
        output="out",
        jobs=2,
        device=None,
        test_split="test",
        leave_one_out=False,
    )


@pytest.mark.parametrize(
    "words, message",
    [
        ([], "expected either a recipe to compare or --report DIR"),
        (["quickstart", "--report", "DIR"], "expected either a recipe to compare or --report DIR"),
        (["quikstart"], "did you mean 'quickstart'"),
        (["quickstart", "--seeds", "0"], "--seeds: 0: expected at least 1"),
        (["quickstart", "--jobs", "x"], "--jobs: 'x': expected an integer, at least 1"),
        (["quickstart", "--data-dir", "DIR", "--methods", "baseline", "mixstile"], "did you mean 'mixstyle'"),
        (["quickstart", "--data-dir", "DIR/nowhere"], "does not exist"),
        (["quickstart", "--data-dir", "DIR", "--set", "in_memry=true"], "did you mean 'in_memory'"),
        (["quickstart", "--data-dir", "DIR", "--test-split", "nonsense"], "nonsense"),
        (["quickstart", "--data-dir", "DIR", "--leave-one-out"], "group_folders=true"),
    ],
)
def test_a_wrong_command_ends_in_one_line_and_writes_nothing(words, message, tmp_path, capsys):
    data = write_tiny(tmp_path / "data")
    words = [word.replace("DIR", str(data)) for word in words]
    try:
        code = main(["compare", *words, *(["--output", str(tmp_path / "out")] if words else [])])
    except SystemExit as error:  # argparse's
        code = error.code
    error = capsys.readouterr().err
    assert code == 2 and message in error and error.startswith("timm-moex: error: ") and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_leaving_groups_out_of_a_folder_read_without_groups_names_the_key(tmp_path, capsys):
    for place in ("photo/dog", "sketch/dog"):
        (tmp_path / place).mkdir(parents=True)
        Image.new("RGB", (32, 32)).save(tmp_path / place / "0.png")
    assert main(["compare", "finetune", "--data-dir", str(tmp_path), "--leave-one-out"]) == 2
    assert "--set group_folders=true" in capsys.readouterr().err
