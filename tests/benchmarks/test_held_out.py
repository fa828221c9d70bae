"""Studies that leave one group out, on tiny recordings: split, pictures, training, table rows and outcome."""

import wave
from functools import partial

import pytest
import torch

from benchmarks._results import append_rows, read_rows
from benchmarks.study import digits
from benchmarks.study._held_out import Data, Recipe, fit, means, plan, run_jobs, summary
from timm_moex import find_moex


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two recordings of each digit by each speaker: noise of 2,560 samples (20 frames)."""
    root = tmp_path_factory.mktemp("fsdd")
    (root / "recordings").mkdir()
    for number in range(120):
        speaker, digit = digits.SPEAKERS[number % 6], number // 6 % 10
        samples = (3000 * torch.randn(2560, generator=torch.Generator().manual_seed(number))).short()
        with wave.open(str(root / "recordings" / f"{digit}_{speaker}_{number // 60}.wav"), "wb") as file:
            file.setparams((1, 2, 8000, 0, "NONE", ""))
            file.writeframes(samples.numpy().tobytes())
    return root


def test_split_holds_a_group_out_and_monitors_a_tenth_of_the_others():
    groups = torch.arange(120) % 6
    data = Data(torch.zeros(120), torch.zeros(120), groups, digits.batch)
    monitored, training, test = data.split(2)
    assert (len(monitored), len(training)) == (10, 90)
    assert torch.equal(torch.cat([monitored, training, test]).sort().values, torch.arange(120))
    assert set(groups[test].tolist()) == {2} and 2 not in groups[torch.cat([monitored, training])]
    assert all(torch.equal(a, b) for a, b in zip(data.split(2), (monitored, training, test)))


def test_pictures_are_normalised_by_the_recordings_trained_on(folder):
    data = digits.pictures(folder, held_out=3)
    _, training, _ = data.split(3)
    assert data.images.shape == (120, 1, 64, digits.FRAMES + digits.SHIFT)
    assert data.labels.bincount().tolist() == [12] * 10 and data.groups.bincount().tolist() == [20] * 6
    std, mean = torch.std_mean(data.images[training])
    assert abs(mean) < 1e-5 and std == pytest.approx(1, abs=1e-5)
    silence = data.images[:, :, :, : digits.SHIFT]
    assert torch.equal(silence, silence[:1, :, :1, :1].expand_as(silence))
    assert not torch.equal(digits.pictures(folder, held_out=0).images, data.images)


def test_words_begin_late_at_random_in_training_and_in_the_middle_in_evaluation():
    images = torch.arange(56.0).expand(200, 1, 64, 56)
    cut = digits.batch(images, torch.Generator().manual_seed(0))
    assert cut.shape == (200, 1, 64, 48)
    assert set(cut[:, 0, 0, 0].tolist()) == set(range(9))
    assert torch.equal(cut - cut[..., :1], images[..., :48])
    assert torch.equal(digits.batch(images, None), images[..., 4:52])


@pytest.mark.parametrize("method", digits.METHODS)
def test_only_freq_mixstyle_exchanges_and_methods_share_initial_weights(method, folder):
    torch.manual_seed(30)
    model, forward = digits.build(method)
    torch.manual_seed(30)
    start = digits.build("baseline")[0].state_dict()
    assert all(torch.equal(value, start[key]) for key, value in model.state_dict().items())
    data = digits.pictures(folder, held_out=0)
    exchanges = []

    def look(images, speakers):
        output = forward(images, speakers)
        donors = find_moex(model).donors_of(output)
        assert donors is None or not (speakers[donors] == speakers).any()
        exchanges.append(donors is not None)
        return output

    _, training, _ = data.split(0)
    loss = fit(model, look, data, training, Recipe(batch=8, epochs=1, lr=1e-3), torch.Generator().manual_seed(30))
    assert 1 < loss < 5
    assert len(exchanges) == 11 and any(exchanges) == (method == "freq_mixstyle")


def test_finished_runs_are_not_repeated(folder, tmp_path):
    table, jobs = tmp_path / "digits.csv", plan([30], ["theo"], digits.METHODS)
    run = partial(digits.run, data=folder, recipe=Recipe(batch=30, epochs=1, lr=1e-3))
    run_jobs(jobs[1:], run, table, parallel=1)
    [row] = read_rows("digits", tmp_path)
    assert (row["seed"], row["held_out"], row["method"], row["images"]) == ("30", "theo", "freq_mixstyle", "20")
    assert row["threads"] == "1" and row["commit"] and float(row["train_loss"]) > 1
    append_rows(table, [row | {"method": "baseline"}])
    before = table.read_text()
    run_jobs(jobs, None, table, parallel=1)  # nothing to do
    assert table.read_text() == before


def test_outcome_is_the_mean_over_groups_paired_by_seed():
    rows = [
        {"seed": seed, "held_out": group, "method": method, "top1": top1, "monitored_top1": "90"}
        for seed, group, baseline, other in (
            ("30", "a", 50, 53),
            ("30", "b", 70, 71),
            ("31", "a", 60, 59),
            ("31", "b", 60, 60),
            ("32", "a", 10, 90),
        )
        for method, top1 in (("baseline", baseline), ("other", other))
    ]
    assert means(rows, "baseline", ("a", "b")) == {"30": 60, "31": 60}
    assert means(rows, "other", ("a", "b")) == {"30": 62, "31": 59.5}
    assert means(rows, "other", ("a",)) == {"30": 53, "31": 59, "32": 90}
    _, _, *lines = [
        line.strip("| ").split(" | ") for line in summary(rows, ("baseline", "other"), ("a", "b")).splitlines()
    ]
    assert lines[0] == ["baseline", "40.00 ± 15.28", "65.00 ± 5.00", "60.00 ± 0.00", "90.00 ± 0.00", "2"]
    assert lines[1][:3] == ["other minus baseline", "+27.33 ± 26.36", "+0.50 ± 0.50"]
    assert lines[1][3:] == ["+0.75 [-15.13, +16.63]", "+0.00 [+0.00, +0.00]", "2"]
