"""The study: training, selection and test images are disjoint, and its settings are the ones that were selected."""

import argparse
from pathlib import Path

import pytest
from tinydata import write_tiny

from benchmarks._results import read_rows
from benchmarks.study import fashion_mnist
from benchmarks.study._idx import read_split
from benchmarks.study._runs import Job
from benchmarks.study.report_deep import TOGETHER
from timm_moex.hub import load_model
from timm_moex.training.recipe import load_recipe

SAMPLE = Path(fashion_mnist.__file__).parents[2] / "timm_moex" / "training" / "sample" / "FashionMNIST" / "raw"


def images(folder, split):
    (height, width), pixels, labels = read_split(folder / "FashionMNIST" / "raw", split)
    area = height * width
    return [pixels[i * area : (i + 1) * area] for i in range(len(labels))], labels


def test_training_validation_and_test_images_are_drawn_apart_and_balanced(tmp_path):
    data = fashion_mnist.prepare(SAMPLE, tmp_path / "data", 40, 20)
    (fit, labels), (validation, _), (test, _) = (
        images(data / part, split) for part, split in (("fit", "train"), ("fit", "t10k"), ("test", "t10k"))
    )
    assert (len(fit), len(validation), len(test)) == (400, 200, 1000)
    assert all(labels.count(label) == 40 for label in range(10))
    whole = read_split(SAMPLE, "train")[1]
    assert len(set(fit) | set(validation)) == 600 and all(image in whole for image in validation)
    assert not set(test) & (set(fit) | set(validation))
    again = fashion_mnist.prepare(SAMPLE, tmp_path / "again", 40, 20)
    assert images(again / "fit", "train")[0] == fit


def test_commands_that_draw_the_same_images_concurrently_leave_one_complete_folder(tmp_path, monkeypatch):
    write = fashion_mnist.write_split

    def write_while_another_finishes(*args):
        monkeypatch.setattr(fashion_mnist, "write_split", write)
        fashion_mnist.prepare(SAMPLE, tmp_path / "data", 4, 2)
        write(*args)

    monkeypatch.setattr(fashion_mnist, "write_split", write_while_another_finishes)
    data = fashion_mnist.prepare(SAMPLE, tmp_path / "data", 4, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    assert len(images(data / "fit", "train")[0]) == 40 and len(images(data / "test", "t10k")[0]) == 1000


def options(tmp_path, source):
    return argparse.Namespace(source=source, output=tmp_path / "output", device="cpu", set=[])


@pytest.fixture
def small(monkeypatch, tmp_path):
    """The unchanged presets, without writing their images."""
    monkeypatch.setattr(fashion_mnist, "prepare", lambda source, folder, *counts: folder)
    return options(tmp_path, tmp_path)


@pytest.mark.parametrize("preset", fashion_mnist.presets())
def test_images_are_the_presets_own_unless_a_source_is_given(preset, monkeypatch, tmp_path):
    sources = []
    monkeypatch.setattr(fashion_mnist, "prepare", lambda source, folder, *counts: sources.append(source) or folder)
    for given in (None, tmp_path):
        fashion_mnist.jobs_of(preset, "run", options(tmp_path, given))
    assert sources == [SAMPLE if preset == "sample" else fashion_mnist.SOURCE, tmp_path]


@pytest.mark.parametrize("preset", fashion_mnist.presets())
def test_methods_differ_in_their_own_settings_only_and_share_seeds(preset, small):
    jobs = fashion_mnist.jobs_of(preset, "run", small)
    by_method: dict[str, list] = {}
    for job in jobs:
        job.recipe.arguments()
        by_method.setdefault(job.columns["method"], []).append((job.columns["model"], job.columns["seed"]))
    wanted = {"baseline", "moex"}
    if preset != "sample" and not preset.startswith("cpu-growth"):
        wanted |= {"cutmix", "cutmix_moex"} if preset == "gpu-all" else {"mixup", "cutmix", "moex_lam1", "cutmix_moex"}
    deep = [f"{device}-{name}" for device in ("cpu", "gpu") for name in ("deep", "deep-long")]
    own = {"cpu-bare": {"smoothing"}} | dict.fromkeys(deep, {"cutmix_moex_lam05"})
    assert by_method.keys() == wanted | own.get(preset, set())
    assert len({tuple(seeds) for seeds in by_method.values()}) == 1
    own = {"model", "model_kwargs", "mixup", "cutmix", "mixup_prob", "smoothing", "seed"}
    common = [{k: v for k, v in job.recipe.settings.items() if k not in own} for job in jobs]
    assert all(settings == common[0] for settings in common)
    assert len({job.folder for job in jobs}) == len(jobs)


def test_what_is_shown_together_is_one_experiment_with_other_seeds(small):
    cpu, gpu = (fashion_mnist.jobs_of(preset, "run", small) for preset in TOGETHER)
    assert {(job.columns["method"], job.settings) for job in cpu} == {
        (job.columns["method"], job.settings) for job in gpu
    }
    assert not {job.columns["seed"] for job in cpu} & {job.columns["seed"] for job in gpu}


def test_seeds_of_the_study_were_not_used_for_selection(small):
    for preset in [preset for preset, config in fashion_mnist.presets().items() if "ablation" in config]:
        tried, used = (fashion_mnist.jobs_of(preset, what, small) for what in ("ablate", "run"))
        assert not {job.columns["seed"] for job in tried} & {job.columns["seed"] for job in used}


@pytest.mark.parametrize("preset", ["cpu-small", "cpu-bare"])
def test_settings_of_the_study_are_the_best_on_validation_images(preset, small):
    ablation = fashion_mnist.presets()[preset]["ablation"]
    best = fashion_mnist.best_candidates(read_rows("ablation"), preset, ablation["choose_by"])
    used = {
        job.columns["method"]: job.settings
        for job in fashion_mnist.jobs_of(preset, "run", small)
        if job.columns["model"] == ablation["model"]
    }
    assert best == {method: used[method] for method in fashion_mnist.CANDIDATES}


def test_label_smoothing_moves_as_much_of_the_label_as_moex(small):
    args = {job.columns["method"]: job.recipe.arguments() for job in fashion_mnist.jobs_of("cpu-bare", "run", small)}
    moex = args["moex"].model_kwargs
    assert args["smoothing"].smoothing == moex["moex_prob"] * (1 - moex["moex_lam"])
    assert args["smoothing"].model_kwargs["moex_prob"] == 0
    assert all(of.smoothing == 0 for method, of in args.items() if method != "smoothing")


def test_cpu_bare_neither_crops_nor_flips(small):
    for job in fashion_mnist.jobs_of("cpu-bare", "run", small):
        args = job.recipe.arguments()
        assert args.in_memory and args.pad == 0 and args.hflip == 0 and not args.reprob


def test_a_misspelt_selection_is_an_error_and_not_an_empty_study(small):
    jobs = fashion_mnist.jobs_of("cpu-small", "run", small)

    def left(**words):
        return fashion_mnist.selected(jobs, argparse.Namespace(**dict(models=None, seeds=None, only=None) | words))

    assert len(left()) == len(jobs)
    assert {job.columns["seed"] for job in left(models=["regnetx_002"], only=["moex"])} == {"0", "1", "2"}
    for words, message in (
        (dict(only=["meox"]), "--only meox: .*did you mean 'moex'"),
        (dict(seeds=["7"]), "--seeds 7"),
        (dict(models=["regnetx_002"], seeds=["4"]), "--seeds 4"),
    ):
        with pytest.raises(ValueError, match=message):
            left(**words)


def test_choice_is_by_the_mean_over_the_seeds_it_names(monkeypatch):
    def row(value, seed, top1):
        return dict(preset="x", factor="p", value=value, settings=f"p{value}", seed=seed, monitored_top1=top1)

    monkeypatch.setattr(fashion_mnist, "CANDIDATES", {"moex": ("reference", "p", "lam")})
    rows = [row("1", "0", "80"), row("1", "1", "82"), row("2", "0", "81.5"), row("2", "1", "80"), row("2", "2", "99")]
    rows += [row("0.0", "0", "100"), row("0.0", "1", "100")]  # the baseline is no candidate
    assert fashion_mnist.best_candidates(rows, "x", [0, 1]) == {"moex": "p1"}
    assert fashion_mnist.best_candidates(rows, "x", [0]) == {"moex": "p2"}
    with pytest.raises(KeyError):  # p = 1 has not been run with that seed
        fashion_mnist.best_candidates(rows, "x", [2])


def test_every_test_image_counts_once(tmp_path):
    write_tiny(tmp_path / "test", test=17)
    recipe = load_recipe("fashion_mnist_small").override(data_dir=str(tmp_path / "fit"))
    model = load_model(Path(fashion_mnist.__file__).parents[2] / "weights" / "resnet20_cifar.fmnist_sample")
    result = fashion_mnist.evaluate_test(model, Job({}, recipe, tmp_path))
    assert result["test_top1"] in [round(100 * k / 17, 2) for k in range(18)]


def test_a_trial_can_change_what_the_preset_sets(small):
    small.set = ["epochs=1"]
    assert {job.recipe.settings["epochs"] for job in fashion_mnist.jobs_of("cpu-deep", "run", small)} == {1}
