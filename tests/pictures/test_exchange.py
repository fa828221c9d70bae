"""The picture of an exchange. Skipped if matplotlib, an extra, is missing."""

import re
import runpy
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image

from timm_moex.cli import main
from timm_moex.insertion.pair import exchange_pair
from timm_moex.pictures.exchange import plot_exchange

pytest.importorskip("matplotlib")


@pytest.fixture
def drawn(monkeypatch):
    """The figures, which are collected instead of being written."""
    figures = []
    monkeypatch.setattr("timm_moex.pictures.exchange.save_figure", lambda figure, path, **_: figures.append(figure))
    return figures


def bars_of(figure, label):
    (found,) = [c for axis in figure.axes for c in axis.containers if c.get_label() == label]
    return [bar.get_width() for bar in found]


def test_show_works_offline_with_what_is_packaged(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    path = tmp_path / "exchange.png"
    assert main(["show", "sample:0", "sample:17", "--output", str(path)]) == 0
    assert capsys.readouterr().out == f"{path}\n"
    with Image.open(path) as picture:
        assert picture.format == "PNG" and picture.width > 1000


def test_bars_are_the_probabilities_of_the_classes_with_most(drawn):
    torch.manual_seed(0)
    model = timm.create_model("moex_test_resnet", num_classes=8)
    model.get_classifier().weight.data.mul_(20)
    pair = exchange_pair(model, torch.randn(2, 3, 32, 32))
    plot_exchange(pair, torch.rand(2, 3, 32, 32), list("abcdefgh"), "p.png")
    before, after = 100 * pair.probabilities_before[0], 100 * pair.probabilities_after[0]
    chosen = torch.maximum(before, after).topk(5).indices
    assert bars_of(drawn[0], "before") == pytest.approx(before[chosen].tolist())
    assert bars_of(drawn[0], "with B's moments") == pytest.approx(after[chosen].tolist())


@pytest.mark.parametrize("norm, heading", [("pono", "Structure: .*PONO"), ("in", "Style: .*IN"), ("ln", "^$")])
def test_heading_marks_the_moments_that_are_exchanged(norm, heading, drawn):
    model = timm.create_model("moex_test_resnet", num_classes=3, moex_norm=norm)
    plot_exchange(exchange_pair(model, torch.randn(2, 3, 32, 32)), torch.rand(2, 3, 32, 32), list("abc"), "p.png")
    headings = [part.get_suptitle() for top in drawn[0].subfigs for part in top.subfigs]
    marked = [words for words in headings if words.endswith(", exchanged here")]
    assert len(marked) == (norm != "ln") and all(re.match(heading, words) for words in marked)


@pytest.mark.parametrize(
    "words, message",
    [
        (("sample:0", "sample:0"), "exchanging an image with itself has no effect"),
        (("sample:0", "sample:1", "--norm", "bn"), "nothing to exchange"),
        (("sample:0", "sample:1", "--layer", "stage9"), "did you mean 'stage3'"),
        (("sample:0", "sample:1", "--model", "resnet20_cifar"), "; these have weights: resnet20_cifar.fmnist_sample, "),
        (("sample:0", "sample:1", "--output", "x.docx"), "--output x.docx: expected a name that ends in"),
        (("sample:0", "sample:1", "--output", "no/such/x.png"), "the folder no/such does not exist"),
    ],
)
def test_what_cannot_be_shown_is_refused_and_nothing_is_written(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["show", *words]) == 2
    assert message in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_figure_of_the_method_is_drawn_with_the_shares_of_the_label(tmp_path, monkeypatch):
    from matplotlib.text import Text

    script = runpy.run_path(str(Path(__file__).parents[2] / "docs" / "figures" / "draw.py"))
    figures, save = [], script["save_figure"]
    monkeypatch.setitem(
        script["draw_method"].__globals__, "save_figure", lambda f, *a, **b: figures.append(f) or save(f, *a, **b)
    )
    model = timm.create_model("moex_test_resnet", moex_lam=0.7)
    config = dict(mean=(0.5,) * 3, std=(0.5,) * 3)
    path = script["draw_method"](model, torch.randn(2, 3, 64, 64), config, ("cat", "espresso"), tmp_path / "method.png")
    with Image.open(path) as picture:
        assert picture.format == "PNG" and picture.width > 1000
    words = {text.get_text() for text in figures[0].findobj(Text)}
    assert {"A: cat", "B: espresso", "0.7 cat", "0.3 espresso"} <= words
