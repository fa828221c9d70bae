"""Runs with the same seed share initial weights, image order and augmentation."""

import pytest
import torch
from tinydata import tiny_recipe, write_tiny

from timm_moex.comparison.methods import apply_method, parse_methods
from timm_moex.training.build import TrainingSetup
from timm_moex.training.loop import train


@pytest.fixture
def seen(monkeypatch):
    """The input of each training run: weights at the first batch, and images and labels of all batches."""
    batches = []
    prepare = TrainingSetup.prepare

    def record(self, images, target, *rest):
        weights = [p.detach().clone() for p in self.model.parameters()] if not batches[-1] else []
        batches[-1].append((images.clone(), target.clone(), weights))
        return prepare(self, images, target, *rest)

    monkeypatch.setattr(TrainingSetup, "prepare", record)
    return batches


@pytest.mark.parametrize("workers", [0, 1])
def test_the_runs_of_a_seed_see_the_same(workers, seen, tmp_path):
    data = write_tiny(tmp_path / "data")
    recipe = tiny_recipe(data, epochs=2, workers=workers, drop=0.0, seed=3)
    changes = parse_methods(recipe, ["baseline", "moex", "cutmix"])
    for method in changes:
        seen.append([])
        train(apply_method(recipe, changes[method]), tmp_path / method, progress=False, log=lambda line: None)
    baseline, *others = seen
    assert len(baseline) == 6 and not torch.equal(baseline[0][1], baseline[3][1])
    for other in others:
        for (images, target, weights), (images_2, target_2, weights_2) in zip(baseline, other, strict=True):
            assert torch.equal(target, target_2)
            assert all(map(torch.equal, weights, weights_2))
            assert torch.equal(images, images_2)
