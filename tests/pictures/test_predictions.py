"""The picture of predictions. Skipped if matplotlib, an extra, is missing."""

import sys

import pytest
import torch
from PIL import Image

from timm_moex.pictures.predictions import prediction_grid


@pytest.mark.parametrize("channels", [1, 3])
def test_grid_is_a_picture_and_chooses_no_backend(channels, tmp_path):
    pytest.importorskip("matplotlib")
    images = torch.rand(5, channels, 28, 28)
    labels, guesses = torch.arange(5) % 2, torch.zeros(5).long()
    path = prediction_grid(images, labels, guesses, ["a", "b"], tmp_path / "p.png", columns=3)
    with Image.open(path) as picture:
        assert picture.format == "PNG" and picture.width > picture.height > 100
    assert "matplotlib.pyplot" not in sys.modules


def test_wrong_predictions_are_marked(tmp_path, monkeypatch):
    figure = pytest.importorskip("matplotlib.figure")
    seen = []
    monkeypatch.setattr(figure.Figure, "savefig", lambda self, *a, **k: seen.extend(axis.title for axis in self.axes))
    prediction_grid(torch.rand(2, 1, 4, 4), torch.tensor([0, 1]), torch.tensor([0, 0]), ["a", "b"], tmp_path / "p.png")
    assert [title.get_text() for title in seen[:2]] == ["a", "a\n(is b)"]
    assert seen[0].get_color() != seen[1].get_color()


def test_missing_matplotlib_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install matplotlib"):
        prediction_grid(torch.rand(1, 1, 4, 4), torch.zeros(1), torch.zeros(1), ["a"], tmp_path / "p.png")


def test_shapes_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"images \(1, 5, 4, 4\)"):
        prediction_grid(torch.rand(1, 5, 4, 4), torch.zeros(1), torch.zeros(1), ["a"], tmp_path / "p.png")
