"""The picture of training runs. Skipped if matplotlib, an extra, is missing."""

import math

import pytest

from timm_moex.cli import main
from timm_moex.pictures.curves import plot_curves, read_curves

pytest.importorskip("matplotlib")

OURS = """epoch,train_loss,train_exchanged,eval_loss,eval_top1,eval_top5,lr
0,2.0,0.5,1.5,40.0,80.0,0.1
1,1.0,0.25,0.5,60.0,90.0,0.1
"""
STOCK = """epoch,train_loss,eval_loss,eval_top1,eval_top5,lr
0,3.0,2.5,20.0,50.0,0.1
1,9.0,9.0,1.0,1.0,0.1
1,2.5,2.0,30.0,60.0,0.1
"""


@pytest.fixture
def runs(tmp_path):
    for name, text in (("a/run", OURS), ("b/run", STOCK)):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "summary.csv").write_text(text)
    return [tmp_path / "a/run", tmp_path / "b/run"]


def test_curves_are_the_columns_of_the_tables(runs, monkeypatch):
    figures = []
    monkeypatch.setattr("timm_moex.pictures.curves.save_figure", lambda figure, path, **_: figures.append(figure))
    plot_curves(read_curves(runs), "p.png")
    panels = {axis.get_title(): [list(line.get_ydata()) for line in axis.lines] for axis in figures[0].axes}
    assert panels == {
        "loss": [[2.0, 1.0], [1.5, 0.5], [3.0, 2.5], [2.5, 2.0]],
        "top-1, %": [[40.0, 60.0], [20.0, 30.0]],  # the last row of an epoch counts
        "exchanged batches, %": [[50.0, 25.0]],  # train.py's table has no such column
    }
    assert list(figures[0].axes[0].lines[0].get_xdata()) == [1, 2]
    assert [text.get_text() for text in figures[0].legends[0].get_texts()] == ["a/run", "b/run"]


def test_a_panel_without_data_is_left_out(runs, monkeypatch):
    figures = []
    monkeypatch.setattr("timm_moex.pictures.curves.save_figure", lambda figure, path, **_: figures.append(figure))
    plot_curves(read_curves(runs[1:]), "p.png")
    assert [axis.get_title() for axis in figures[0].axes] == ["loss", "top-1, %"]


def test_command_writes_the_picture(runs, tmp_path, capsys):
    path = tmp_path / "curves.svg"
    assert main(["curves", str(runs[0]), str(runs[1] / "summary.csv"), "--output", str(path)]) == 0
    assert "<svg" in path.read_text()


def test_missing_value_is_a_gap(runs):
    (runs[0] / "summary.csv").write_text("epoch,train_loss,eval_loss\n0,1.0,\n")
    (run,) = read_curves(runs[:1])
    assert run.columns["train_loss"] == [1.0] and math.isnan(run.columns["eval_loss"][0])


@pytest.mark.parametrize(
    "text, message",
    [
        (None, "no such file"),
        ("epoch,train_loss\n", "no finished epoch yet"),
        ("a,b\n1,2\n", "not a table"),
        ("epoch,x\n0,1\n", "expected train_loss, eval_loss or eval_top1, got epoch, x"),
    ],
)
def test_a_folder_that_is_not_a_run_is_rejected(text, message, tmp_path, capsys):
    if text is not None:
        (tmp_path / "summary.csv").write_text(text)
    assert main(["curves", str(tmp_path), "--output", str(tmp_path / "p.png")]) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "p.png").exists()


def test_methods_have_a_colour_each_and_a_band_over_their_seeds_and_the_loss_on_own_labels(tmp_path, monkeypatch):
    for name, loss in (("moex/0", 1.0), ("moex/1", 3.0), ("baseline/0", 2.0)):
        (tmp_path / name).mkdir(parents=True)
        own = f",{loss}" if name.startswith("moex") else ","
        text = f"epoch,train_loss,train_loss_own,eval_loss\n0,9.0{own},0.5\n"
        (tmp_path / name / "summary.csv").write_text(text if name.startswith("moex") else "epoch,train_loss\n0,2.0\n")
    figures = []
    monkeypatch.setattr("timm_moex.pictures.curves.save_figure", lambda figure, path, **_: figures.append(figure))
    plot_curves(read_curves([tmp_path / name for name in ("moex/0", "moex/1", "baseline/0")]), "p.png")
    axis = figures[0].axes[0]
    assert [list(line.get_ydata()) for line in axis.lines] == [[2.0], [0.5], [2.0]]
    first, second, third = (line.get_color() for line in axis.lines)
    assert first == second != third
    band = axis.collections[0].get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == (1.0, 3.0)
    assert [text.get_text() for text in figures[0].legends[0].get_texts()] == ["moex", "baseline"]
