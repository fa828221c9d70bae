"""Draws: donors by group, shares, independent decisions per site, and the end of the exchange."""

import pytest
import torch
from small_twins import images, twin
from tinydata import tiny_recipe, write_tiny

from timm_moex import MoExTask, draw_own_share, draw_swap_index, find_moex
from timm_moex.training.loop import train


@pytest.mark.parametrize("sizes", [(4, 4), (6, 2), (1, 7), (3, 3, 2), (7, 1, 1, 1)])
def test_donors_come_from_other_groups(sizes):
    groups = torch.cat([torch.full((size,), 10 * number) for number, size in enumerate(sizes)])
    groups = groups[torch.randperm(len(groups))]
    for seed in range(20):
        donors = draw_swap_index(len(groups), generator=torch.Generator().manual_seed(seed), groups=groups)
        assert (groups[donors] != groups).all()
    if sizes == (4, 4):
        assert donors.sort().values.tolist() == list(range(8)), "equal groups leave a permutation"


def test_donors_by_group_vary_and_one_group_is_a_permutation():
    groups = torch.tensor([0, 0, 0, 1, 1, 1])
    assert len({tuple(draw_swap_index(6, groups=groups).tolist()) for _ in range(40)}) > 10
    alone = draw_swap_index(6, groups=torch.zeros(6, dtype=torch.int64))
    assert alone.sort().values.tolist() == list(range(6))


def test_no_groups_draws_as_before():
    draws = [draw_swap_index(9, 0.5, torch.Generator().manual_seed(seed)) for seed in range(6)]
    for seed, drawn in enumerate(draws):
        generator = torch.Generator().manual_seed(seed)
        expected = torch.randperm(9, generator=generator) if torch.rand((), generator=generator) < 0.5 else None
        assert (drawn is None) if expected is None else torch.equal(drawn, expected)


@pytest.mark.parametrize(
    "groups, error, words",
    [
        (torch.zeros(3), TypeError, "groups must be an integer tensor, got torch.float32"),
        ([0, 1, 0, 1], TypeError, "groups must be an integer tensor, got list"),
        (torch.zeros(3, dtype=torch.int64), ValueError, r"groups must have shape \(4,\)"),
    ],
)
def test_wrong_groups_are_refused(groups, error, words):
    with pytest.raises(error, match=words):
        draw_swap_index(4, groups=groups)


def test_shares_are_beta_distributed():
    torch.manual_seed(0)
    share = draw_own_share(20000, 0.3)
    assert ((share >= 0) & (share <= 1)).all()
    assert share.mean().item() == pytest.approx(0.5, abs=0.01)
    assert share.var().item() == pytest.approx(1 / (4 * (2 * 0.3 + 1)), abs=0.01)  # a²/((2a)²(2a+1))
    with pytest.raises(ValueError, match="alpha=0"):
        draw_own_share(3, 0)


def test_each_site_decides_independently():
    torch.manual_seed(0)
    moex = find_moex(twin("resnet10t", moex_preset="mixstyle"))
    counts, together = dict.fromkeys(moex.site_names, 0), 0
    for _ in range(400):
        donors = moex.draw(4, torch.device("cpu"))
        assert all(exchange.own_share is not None for exchange in donors.values())
        together += len(donors) == 3
        for name in donors:
            counts[name] += 1
    assert all(160 < count < 240 for count in counts.values()) and 25 < together < 80  # 200 and 50 on average


def test_the_task_keeps_labels_and_reports_the_sites():
    torch.manual_seed(0)
    model = twin("resnet10t", moex_preset="mixstyle", moex_prob=1.0).train()
    task = MoExTask(model, torch.nn.CrossEntropyLoss(), verbose=False)
    x, target = images("resnet10t"), torch.tensor([1, 2, 3, 4])
    result = task(x, target)
    assert result["sites"] == ("stage1", "stage2", "stage3") and result["site"] is None and result["exchanged"] is True
    assert torch.equal(result["loss"], torch.nn.functional.cross_entropy(result["output"], target))
    result["loss"].backward()
    model.eval()
    assert task(x, target)["sites"] == ()


def test_the_probability_ramps_up_and_ends():
    moex = find_moex(twin("resnet10t", moex_prob=0.8, moex_warmup_epochs=4, moex_off_epoch=6))
    assert [moex.settings.prob_at(epoch) for epoch in range(8)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 0.8, 0.8, 0, 0])
    assert find_moex(twin("resnet10t", moex_prob=0.8)).settings.prob_at(None) == 0.8
    with pytest.raises(RuntimeError, match=r"off_epoch=6, warmup_epochs=4: .*task.set_epoch\(epoch\)"):
        moex.settings.prob_at(None)


def test_a_task_that_needs_the_epoch_demands_it():
    model = twin("resnet10t", moex_off_epoch=1).train()
    task, x, target = MoExTask(model, torch.nn.CrossEntropyLoss(), verbose=False), images("resnet10t"), torch.arange(4)
    with pytest.raises(RuntimeError, match="the epoch is unknown"):
        task(x, target)
    task.set_epoch(0)
    assert task(x, target)["exchanged"] is True
    task.set_epoch(1)
    assert task(x, target)["exchanged"] is False


def test_the_built_in_trainer_stops_the_exchange_at_its_epoch(tmp_path):
    kwargs = {"moex_prob": 1.0, "moex_off_epoch": 2, "moex_preset": "mixstyle"}
    recipe = tiny_recipe(write_tiny(tmp_path / "data"), model_kwargs=kwargs)
    result = train(recipe, tmp_path / "run", in_memory=True, log=lambda line: None, progress=False)
    rows = [line.split(",") for line in (result.folder / "summary.csv").read_text().splitlines()]
    shares = [row[rows[0].index("train_exchanged")] for row in rows[1:]]
    assert [float(share) for share in shares] == [1.0, 1.0, 0.0]


@pytest.mark.parametrize("alpha", [0.005, 1e-4])
def test_a_small_alpha_gives_shares_near_0_or_1(alpha):
    share = draw_own_share(4000, alpha)
    assert ((share < 0.01) | (share > 0.99)).float().mean() > 0.95 and (share == 0.5).sum() == 0
    assert share.round().mean().item() == pytest.approx(0.5, abs=0.04)


def test_draws_do_not_follow_the_default_device_and_dtype():
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            index, share = draw_swap_index(4), draw_own_share(4, 0.1)
    finally:
        torch.set_default_dtype(torch.float32)
    assert index.device.type == share.device.type == "cpu"
    assert (index.dtype, share.dtype) == (torch.int64, torch.float32)


def test_groups_with_more_than_half_of_the_batch_use_their_donors_evenly():
    groups = torch.tensor([0, 0, 0, 0, 1, 1])
    donors = draw_swap_index(6, groups=groups)
    assert (groups[donors] != groups).all() and donors[:4].bincount(minlength=6)[4:].tolist() == [2, 2]


@pytest.mark.parametrize("groups", [[0, 0, 1, 1, 2, 2], [0, 1, 2, 2, 2, 0, 1], [7, -3, 7, -3]])
def test_donors_by_group_are_a_permutation_if_one_exists(groups):
    groups = torch.tensor(groups)
    for _ in range(50):
        donors = draw_swap_index(len(groups), groups=groups)
        assert (groups[donors] != groups).all() and donors.sort().values.equal(torch.arange(len(groups)))
