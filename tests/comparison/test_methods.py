"""Methods are named changes to a recipe; a misspelt one is rejected before training starts."""

import pytest

from timm_moex.comparison.methods import apply_method, default_methods, parse_methods
from timm_moex.insertion.presets import PRESETS
from timm_moex.training.recipe import Recipe, RecipeError, load_recipe, packaged_recipes

OWN = {"moex_prob": 0.5, "moex_lam": 0.7, "drop_path_rate": 0.1}
RECIPE = Recipe("mine", {"model": "moex_resnet18", "model_kwargs": OWN, "epochs": 3})


def settings_of(word, recipe=RECIPE):
    methods = parse_methods(recipe, [*({"baseline", word} - {word}), word])
    return apply_method(recipe, methods[word.partition(":")[0]]).settings


@pytest.mark.parametrize(
    "word, kwargs, others",
    [
        ("baseline", OWN | {"moex_prob": 0.0}, {}),
        ("moex", OWN, {}),
        ("moex_lam1", OWN | {"moex_lam": 1.0}, {}),
        ("mixstyle", {"drop_path_rate": 0.1, "moex_preset": "mixstyle"}, {}),
        ("cutmix", OWN | {"moex_prob": 0.0}, {"cutmix": 1.0, "mixup": 0.0, "mixup_prob": 0.5}),
        ("cutmix+moex", OWN, {"cutmix": 1.0, "mixup": 0.0, "mixup_prob": 0.5}),
        ("mixup", OWN | {"moex_prob": 0.0}, {"cutmix": 0.0, "mixup": 0.2, "mixup_prob": 1.0}),
        ("smoothing", OWN | {"moex_prob": 0.0}, {"smoothing": 0.1}),
        ("mine: moex_lam=0.5 lr=0.1", OWN | {"moex_lam": 0.5}, {"lr": 0.1}),
    ],
)
def test_a_method_changes_what_it_is_named_for(word, kwargs, others):
    assert settings_of(word) == {"model": "moex_resnet18", "epochs": 3, "model_kwargs": kwargs} | others


def test_a_plain_model_becomes_its_twin_for_all_methods():
    plain = Recipe("plain", {"model": "resnet18.a1_in1k"})
    assert settings_of("baseline", plain) == {"model": "moex_resnet18.a1_in1k", "model_kwargs": {"moex_prob": 0.0}}
    assert settings_of("moex", plain)["model_kwargs"] == {"moex_prob": 0.5}
    folder = Recipe("folder", {"model": "local-dir:some/hub"})
    assert settings_of("moex", folder)["model"] == "local-dir:some/hub"
    assert settings_of("moex", Recipe("twin", {"model": "moex_resnet18"}))["model_kwargs"] == {}


def test_a_recipe_without_an_exchange_gets_the_usual_one_or_the_presets():
    off = RECIPE.override(["model_kwargs.moex_prob=0.0"])
    assert settings_of("moex", off)["model_kwargs"]["moex_prob"] == 0.5
    assert "moex_prob" not in settings_of("mixstyle", off)["model_kwargs"]
    assert settings_of("baseline", off)["model_kwargs"]["moex_prob"] == 0


def test_the_default_is_baseline_own_exchange_and_cutmix():
    assert default_methods(RECIPE) == ["baseline", "moex", "cutmix"]
    assert default_methods(RECIPE.override(["model_kwargs.moex_preset=mixstyle"])) == ["baseline", "mixstyle", "cutmix"]
    assert default_methods(RECIPE.override(mixup=0.2)) == ["baseline", "moex"]


def test_every_preset_is_a_method_and_every_packaged_recipe_can_be_compared():
    for name in PRESETS:
        assert settings_of(name)
    for name in packaged_recipes():
        recipe = load_recipe(name)
        for changes in parse_methods(recipe, default_methods(recipe)).values():
            apply_method(recipe, changes).arguments()


@pytest.mark.parametrize(
    "words, message",
    [
        (["baseline", "mixstile"], "'mixstile': expected .*did you mean 'mixstyle'"),
        (["moex"], "'baseline' is missing"),
        (["baseline", "baseline"], "'baseline' appears twice"),
        (["baseline", "moex+mixstyle"], "at most one exchange"),
        (["baseline", "cutmix+mixup"], "cutmix or mixup but not both"),
        (["baseline", "../x: lr=1"], "'../x: lr=1': expected a name that a folder can have"),
        (["baseline", "mine:"], "key=value after the colon"),
    ],
)
def test_a_wrong_method_is_refused(words, message):
    with pytest.raises(RecipeError, match=message):
        parse_methods(RECIPE, words)


@pytest.mark.parametrize(
    "change, message",
    [("moex_lamb=1", "moex_lamb.*did you mean 'moex_lam'"), ("epoch=3", "did you mean 'epochs'"), ("lr", "key=value")],
)
def test_a_wrong_change_is_refused(change, message):
    with pytest.raises(RecipeError, match=message):
        apply_method(RECIPE, [change])
