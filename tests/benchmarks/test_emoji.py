"""The emoji set and its study: nothing from a held-out style and no unseen emoji is used for training."""

import csv
import re
import sys
from pathlib import Path

import pytest
import timm

sys.path.insert(0, str(Path(__file__).parents[2]))
from benchmarks.study import domain_shift, emoji  # noqa: E402
from timm_moex.training.recipe import load_recipe  # noqa: E402

PEOPLE = [f"{who}-{what}" for what in ("running", "biking") for who in ("man", "woman", "person")]
CATEGORIES = {
    "Animals & Nature": [*(f"animal-{i}" for i in range(20)), "cricket"],
    "People & Body": [*PEOPLE, "ear", "ear-light-skin-tone", "only-in-a"],
    "Activities": ["cricket-game", "chess"],
    "Flags": ["flag-black"],
}


def icons(style, **special):
    """Every name of CATEGORIES, drawn differently, except `special`."""
    names = {name: {"body": f"<path id='{style} {name}'/>"} for own in CATEGORIES.values() for name in own}
    return {"width": 32, "height": 24, "icons": names | special, "aliases": {}}


@pytest.fixture
def sets():
    same = {"body": "<path id='cricket'/>"}
    a, b = icons("a"), icons("b", cricket=same, **{"cricket-game": same})
    del b["icons"]["only-in-a"]
    b["icons"]["man-biking"] = b["icons"]["person-biking"]
    del b["icons"]["ear"]
    b["aliases"] = {"ear": {"parent": "lobe"}, "lobe": {"parent": "left-ear", "hFlip": True}}
    b["icons"]["left-ear"] = {"body": "<path/>", "width": 40}
    return {"a": a, "b": b}


def test_alias_of_an_alias_is_followed_and_flipped(sets):
    assert emoji.resolve(sets["a"], "ear") == {"body": "<path id='a ear'/>", "width": 32, "height": 24}
    flipped = {"body": '<g transform="translate(40 0) scale(-1 1)"><path/></g>', "width": 40, "height": 24}
    assert emoji.resolve(sets["b"], "ear") == flipped
    assert emoji.resolve(sets["b"], "only-in-a") is None


def test_alias_with_an_unknown_transformation_is_an_error(sets):
    sets["b"]["aliases"]["lobe"]["rotate"] = 1
    with pytest.raises(ValueError, match="alias 'lobe': rotate: only hFlip"):
        emoji.resolve(sets["b"], "ear")


def test_selection_leaves_out_flags_skin_tones_missing_and_ambiguous_drawings(sets):
    label_of = emoji.select(sets, CATEGORIES)
    animals = {f"animal-{i}": "animals-nature" for i in range(20)}
    assert label_of == animals | dict.fromkeys([*PEOPLE, "ear"], "people-body") | {"chess": "activities"}


def test_split_depends_only_on_its_seed_and_does_not_divide_families(sets):
    label_of = emoji.select(sets, CATEGORIES)
    groups = emoji.families(sets, label_of)
    assert sorted(name for group in groups for name in group) == sorted(label_of)
    assert ["man-biking", "person-biking", "woman-biking"] in groups and ["animal-3"] in groups
    part = emoji.split(groups, label_of)
    assert part == emoji.split(groups, label_of) != emoji.split(groups, label_of, seed=1)
    assert part.keys() == label_of.keys()
    assert sum(part[name] == "unseen" for name in label_of if name.startswith("animal")) == 6
    for group in groups:
        assert len({part[name] for name in group}) == 1


def test_names_that_one_style_draws_identically_form_one_family(sets):
    sets["a"]["icons"]["animal-1"] = sets["a"]["icons"]["animal-2"]
    sets["b"]["icons"]["animal-2"] = sets["b"]["icons"]["animal-3"]
    groups = emoji.families(sets, [f"animal-{i}" for i in range(5)])
    assert sorted(groups) == [["animal-0"], ["animal-1", "animal-2", "animal-3"], ["animal-4"]]


def test_clock_faces_are_one_family():
    names = ["one-oclock", "ten-thirty", "alarm-clock"]
    assert emoji.families({}, names) == [["alarm-clock"], ["one-oclock", "ten-thirty"]]


@pytest.fixture
def root(tmp_path):
    """One emoji of each class in each part and style; the content of a file says what it shows."""
    for style in emoji.STYLES:
        for part in ("seen", "unseen"):
            for label in ("x", "y"):
                path = tmp_path / "emoji" / style / part / label / f"{part}-{label}.png"
                path.parent.mkdir(parents=True)
                path.write_text(f"{style} {part} {label}")
    return tmp_path / "emoji"


def shown(folder):
    """Return (style, part) of all pictures in a folder of the tree, after checking that each is in its class folder."""
    found = [(path, path.read_text().split()) for path in folder.glob("*/*.png")]
    assert all(path.parent.name == label for path, (_, _, label) in found)
    return sorted({(style, part) for _, (style, part, _) in found})


@pytest.mark.parametrize(
    "words", [["--select"], ["--held-out", "noto"], ["--held-out", "openmoji"], ["--train-on", "noto"]]
)
def test_training_part_has_no_held_out_style_and_no_unseen_emoji(root, tmp_path, words):
    options = domain_shift.parse([*words, "--emoji", str(root), "--output", str(tmp_path / "out")])
    jobs = domain_shift.planned(options)
    [tree] = {job.recipe.settings["data_dir"] for job in jobs}
    parts = {
        name: shown(Path(tree) / name)
        for name in ("train", "validation", "seen_emoji_unseen_style", "unseen_emoji_unseen_style")
    }
    old, new = ({style for style, _ in parts[name]} for name in ("train", "seen_emoji_unseen_style"))
    assert old and new and not old & new
    assert parts == {
        "train": sorted((style, "seen") for style in old),
        "validation": sorted((style, "unseen") for style in old),
        "seen_emoji_unseen_style": sorted((style, "seen") for style in new),
        "unseen_emoji_unseen_style": sorted((style, "unseen") for style in new),
    }
    for styles in domain_shift.STYLES_BY_DESIGNER.values():  # a designer is on one side
        assert not (old & set(styles) and new & set(styles))
    if "--select" in words:
        assert new == {"twemoji"} and "openmoji" not in old


def test_all_styles_trains_on_every_style_and_tests_only_unseen_emoji(root, tmp_path, monkeypatch):
    words = ["--all-styles", "--emoji", str(root), "--output", str(tmp_path / "out")]
    jobs = domain_shift.planned(domain_shift.parse(words))
    assert [(job.columns["method"], job.columns["seed"]) for job in jobs] == [
        (method, str(seed)) for seed in (0, 1, 2) for method in ("baseline", "mixstyle")
    ]
    [tree] = {Path(job.recipe.settings["data_dir"]) for job in jobs}
    assert shown(tree / "train") == sorted((style, "seen") for style in emoji.STYLES)
    assert shown(tree / "validation") == sorted((style, "unseen") for style in emoji.STYLES)
    assert sorted(path.name for path in tree.iterdir()) == ["train", "validation"]

    monkeypatch.setattr(domain_shift, "open_dataset", lambda name, root, part, num_classes: part)
    monkeypatch.setattr(domain_shift, "create_eval_loader", lambda part, *args, **kwargs: part)
    monkeypatch.setattr(domain_shift, "evaluate", lambda model, part, *args, **kwargs: {"top1": 50.0, "count": 12})
    model = timm.create_model("test_resnet", num_classes=8)
    row = domain_shift.evaluate_parts(model, jobs[0])
    assert {key: value for key, value in row.items() if value} == {
        "unseen_emoji_seen_styles": "50.00",
        "images_unseen_emoji_seen_styles": 12,
    }
    assert all(f"{prefix}{part}" in row for prefix in ("", "images_") for part in domain_shift.PARTS)


def test_style_on_both_sides_is_an_error(root, tmp_path):
    with pytest.raises(ValueError, match="noto: styles cannot be both trained on and held out"):
        emoji.write_tree(root, tmp_path / "tree", ["noto", "twemoji"], ["noto"])
    with pytest.raises(ValueError, match="emojione: expected styles among noto"):
        emoji.write_tree(root, tmp_path / "tree", ["emojione"], ["noto"])


def test_methods_differ_only_in_what_they_are_named_for():
    recipe = load_recipe("emoji_tf_efficientnet_lite0")
    seen = {}
    for (method, _), changed in domain_shift.methods(recipe).items():
        differing = {key for key, value in changed.settings.items() if recipe.settings.get(key) != value}
        exchanges = changed.settings["model_kwargs"]["moex_prob"] > 0
        assert differing <= {"cutmix", "mixup_prob", "model_kwargs"}
        seen[method] = (exchanges, changed.settings.get("cutmix", 0) > 0)
    assert seen == {
        "baseline": (False, False),
        "moex": (True, False),
        "cutmix": (False, True),
        "cutmix_moex": (True, True),
    }


def test_choice_is_the_setting_with_most_images_right_in_the_selection_runs():
    rows = [
        dict(
            phase=phase,
            method=method,
            setting=setting,
            images_unseen_emoji_unseen_style="348",
            unseen_emoji_unseen_style=value,
        )
        for phase, method, setting, value in (
            ("selection", "moex", "in 1", "50.00"),
            ("selection", "moex", "in 2", "68.10"),
            ("selection", "moex", "in 3", "67.53"),
            ("selection", "moex", "in 1", "60.00"),
            ("selection", "moex", "in 2", "66.67"),
            ("selection", "moex", "in 3", "67.24"),
            ("study", "moex", "in 1", "99.00"),
            ("selection", "baseline", "", "60.00"),
        )
    ]
    assert domain_shift.best_settings(rows) == {"moex": "in 2", "baseline": ""}  # in 3 has as many right


def test_recipe_and_cutmix_are_what_the_selection_chose():
    with domain_shift.TABLE.open(newline="") as file:
        choice = domain_shift.best_settings(list(csv.DictReader(file)))
    settings = dict(domain_shift.methods(load_recipe("emoji_tf_efficientnet_lite0")))
    assert {("moex", choice["moex"]), ("cutmix", choice["cutmix"])} <= settings.keys()


def test_no_file_names_the_address_of_a_package_registry():
    root = Path(__file__).parents[2]
    files = [p for part in ("benchmarks", "timm_moex", "tests", "examples") for p in (root / part).rglob("*.py")]
    address = re.compile(r"https?://(registry\.|pypi\.|files\.pythonhosted|proxy\.golang)")
    assert len(files) > 100 and not [path for path in files if address.search(path.read_text(encoding="utf-8"))]
