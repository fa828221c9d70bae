"""Runs finish even if nobody reads their output, or the machine lacks something that the output needs."""

import io
import os
import subprocess
import sys

import pytest
import yaml
from tinydata import tiny_recipe, write_tiny

from timm_moex.training.loop import train
from timm_moex.utils.messages import say

TRAIN = f"{sys.executable} -m timm_moex train recipe.yaml --in-memory --output run"
SHELLS = {
    "reader that leaves": f"{TRAIN} | head -1; exit ${{PIPESTATUS[0]}}",
    "ascii": f"PYTHONIOENCODING=ascii {TRAIN}",
    "closed": f"{TRAIN} >&- 2>&-",
    "full disk": f"{TRAIN} > /dev/full",
}


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no bash or no /dev/full")
@pytest.mark.parametrize("shell", SHELLS)
def test_a_lost_line_does_not_end_a_training(shell, tmp_path):
    recipe = tiny_recipe(write_tiny(tmp_path / "data"), epochs=3, num_classes=None)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe.settings))
    done = subprocess.run(["bash", "-c", SHELLS[shell]], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert (tmp_path / "run" / "hub" / "model.safetensors").is_file()
    if shell == "ascii":
        assert "num_classes: 10, the classes of the data (T-shirt/top, Trouser, Pullover, Dress, ?)" in done.stdout


def test_a_line_that_cannot_be_encoded_or_written_does_not_stop_training(monkeypatch):
    ascii_only = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", ascii_only)
    say("and 3 more, …")
    assert ascii_only.buffer.getvalue() == b"and 3 more, ?\n"
    ascii_only.close()
    say("lost")
    monkeypatch.setattr(sys, "stdout", None)
    say("lost")


def test_an_error_of_the_users_own_log_is_not_swallowed(tmp_path):
    def log(line):
        raise BrokenPipeError(line)

    with pytest.raises(BrokenPipeError, match="epoch 1/1"):
        train(tiny_recipe(write_tiny(tmp_path / "data"), epochs=1), tmp_path / "run", log=log, progress=False)
