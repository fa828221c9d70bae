"""Runs that are killed at any moment, even while writing a file, end with the files of an undisturbed run."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SUPPORT = Path(__file__).parents[1] / "support"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the kills need os.fork")
def test_killed_runs_resume_to_the_same_files():
    paths = os.pathsep.join([str(SUPPORT), str(SUPPORT.parents[1])])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(SUPPORT / "kill_runs.py")],
        env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    kills = [json.loads(line) for line in done.stdout.splitlines()]
    assert [kill for kill in kills if kill["resumed"] != 0 or kill["differ"]] == [], done.stderr
    assert sum(kill["killed"] for kill in kills) >= 20
    # The kills met every phase of writing, so that the assertions above speak for all of them.
    held = [set(kill["held"]) for kill in kills]
    for half_written in ("recipe.yaml", "last.pth.tar", "summary.csv", "model_best.pth.tar", "hub"):
        assert any(name.startswith(f".{half_written}.timm_moex-") for names in held for name in names), half_written
