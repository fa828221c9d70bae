"""Fine-tuning from weights without 3 channels: the weights decide the channels unless the recipe does."""

import pytest
import timm
from tinydata import tiny_recipe, write_tiny

from timm_moex import find_moex
from timm_moex.hub.manifest import weights_dir
from timm_moex.training.build import set_up_training
from timm_moex.training.loop import train
from timm_moex.training.recipe import Recipe, RecipeError

FOLDER = weights_dir() / "resnet20_cifar.fmnist_sample"
TAKEN_FROM_THE_WEIGHTS = ("in_chans", "input_size", "mean", "std")


def recipe_without_channels(data, **settings):
    tiny = tiny_recipe(data, epochs=1, pretrained=True, model_kwargs={"moex_prob": 0.5, "moex_lam": 0.8}, **settings)
    return Recipe("finetune", {k: v for k, v in tiny.settings.items() if k not in TAKEN_FROM_THE_WEIGHTS})


@pytest.mark.parametrize(
    "source",
    [
        {"model": "moex_resnet20_cifar.fmnist_sample"},
        {"model": f"local-dir:{FOLDER}"},
        {"model": "moex_resnet20_cifar", "pretrained_path": str(FOLDER / "model.safetensors")},
    ],
    ids=["tag", "folder", "file"],
)
def test_channels_and_normalisation_come_from_the_weights(source, tmp_path):
    recipe = recipe_without_channels(write_tiny(tmp_path / "data"), **source)
    run = set_up_training(recipe.arguments())
    assert tuple(run.data_config["input_size"]) == (1, 28, 28)
    assert [*run.data_config["mean"], *run.data_config["std"]] == [0.286, 0.353]
    moex = find_moex(run.model)
    assert (moex.prob, moex.lam) == (0.5, 0.8)
    weight = timm.create_model(f"local-dir:{FOLDER}", pretrained=True).conv1.weight
    assert run.model.conv1.weight.equal(weight)
    result = train(recipe, tmp_path / "run", log=lambda line: None, progress=False)
    assert result.metrics["count"] == 20


def test_channels_that_timm_cannot_make_of_the_weights_are_refused(tmp_path):
    source = {"model": "moex_resnet20_cifar.fmnist_sample", "in_chans": 3, "input_size": [3, 28, 28]}
    recipe = tiny_recipe(write_tiny(tmp_path / "data"), pretrained=True, **source | {"mean": None, "std": None})
    with pytest.raises(RecipeError, match="in_chans=3: the weights of .*fmnist_sample are for 1-channel images"):
        set_up_training(recipe.arguments())
