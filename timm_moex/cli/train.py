"""`timm-moex sample`, `train` and `compare`: print the folder of the sample data, and train recipes."""

from pathlib import Path
from typing import Any

from .evaluate import metrics_in_words
from .options import VAL_FRACTION, Option, command, flag, option, path, positive

__all__ = ["compare", "sample", "train"]

_RECIPE_HELP = "name of a packaged recipe (timm-moex list --recipes) or a YAML file"
_SET = dict(dest="settings", nargs="+", action="extend", default=[], metavar="KEY=VALUE")
_DATA_DIR = option("--data-dir", type=path, metavar="DIR", help="the data folder (same as --set data_dir=DIR)")
_DEVICE = option("--device", help="cpu, cuda:1, … (default: the recipe's, otherwise a GPU if available)")


def _recipe_flag(name: str, key: str, help: str, value: Any = True) -> Option:
    help += f" (same as --set {key}={str(value).lower()})"
    return option(name, dest=key, action="store_const", const=value, help=help)


@command("sample", examples=['timm-moex train quickstart --in-memory --data-dir "$(timm-moex sample)"'])
def sample() -> None:
    """Print the folder of the packaged Fashion-MNIST sample, for --data-dir."""
    from ..training.datasets import sample_dir

    print(sample_dir())


def _train_early(recipe: str, settings: list[str], output: str | None, **keys: Any) -> None:
    from ..training.recipe import load_recipe

    load_recipe(recipe).override(settings, **keys)


@command(
    "train",
    option("recipe", help=_RECIPE_HELP),
    option("--set", **_SET, help="override settings of the recipe"),
    _DATA_DIR,
    VAL_FRACTION,
    _DEVICE,
    _recipe_flag("--compile", "torchcompile", "use torch.compile", "inductor"),
    option(
        "--resume",
        type=path,
        metavar="PATH",
        help="last.pth.tar in the folder of the run to resume; auto: the one in the output folder if it exists",
    ),
    option("--output", type=path, metavar="DIR", help="output folder (default: output/NAME)"),
    _recipe_flag("--in-memory", "in_memory", "keep the dataset on the device, and crop and flip there"),
    option(
        "--pad",
        type=int,
        metavar="N",
        help="with --in-memory: padding of the random crop in pixels (same as --set pad=N; default: 4)",
    ),
    _recipe_flag("--tensorboard", "log_tensorboard", "write TensorBoard event files"),
    _recipe_flag(
        "--skip-unreadable",
        "skip_unreadable",
        "skip evaluation images that cannot be read (in training, another image always replaces them)",
    ),
    examples=[
        'timm-moex train quickstart --in-memory --data-dir "$(timm-moex sample)"',
        "timm-moex train finetune --data-dir FOLDER --set epochs=5",
        "timm-moex train my_recipe.yaml --resume output/my_recipe/last.pth.tar",
        "torchrun --nproc-per-node 8 -m timm_moex train imagenet_resnet50 --data-dir /path/to/imagenet",
    ],
    early=_train_early,
)
def train(recipe: str, settings: list[str], output: str | None, resume: str | None, **keys: Any) -> None:
    """Train a model with a recipe, whose keys are the arguments of timm's train.py."""
    from ..hub.card import is_ours
    from ..training import loop
    from ..training.distributed import is_first_process
    from ..training.recipe import load_recipe
    from ..utils.messages import say

    folder = output or (Path(resume).parent if resume not in (None, "auto") else None)
    result = loop.train(load_recipe(recipe).override(settings, resume=resume, **keys), folder)
    if is_first_process():
        hub = result.folder / "hub"
        say(f"last epoch: {metrics_in_words(result.metrics)}")
        cfg: Any = result.model.pretrained_cfg
        imported = " after `import timm_moex`" if is_ours(cfg["architecture"]) else ""
        say(f"{hub} loads as timm.create_model('local-dir:{hub}', pretrained=True){imported}")


def _compare_early(recipe: str | None, settings: list[str], report: str | None, **options: Any) -> None:
    from ..training.recipe import load_recipe

    if (recipe is None) == (report is None):
        raise ValueError("expected either a recipe to compare or --report DIR")
    if recipe is not None:
        load_recipe(recipe).override(settings)


@command(
    "compare",
    option("recipe", nargs="?", help=_RECIPE_HELP),
    _DATA_DIR,
    option(
        "--methods",
        nargs="+",
        metavar="NAME",
        help="baseline, moex, moex_lam1, another preset (timm-moex list --presets), cutmix, mixup, smoothing, or "
        "several joined by + (default: baseline; the recipe's own exchange, or moex with prob 0.5 if it has none; and "
        "cutmix, unless the recipe mixes images)",
    ),
    option(
        "--method",
        dest="add_methods",
        action="append",
        default=[],
        metavar="'NAME: KEY=VALUE …'",
        help="add your own method: changes to the recipe, or to the model's moex_ settings",
    ),
    option("--seeds", type=positive, default=5, metavar="N", help="number of seeds (default: 5)"),
    option("--set", **_SET, help="override settings of the recipe, for all methods"),
    option("--jobs", type=positive, default=1, metavar="N", help="number of runs to train in parallel (default: 1)"),
    _DEVICE,
    option("--output", type=path, metavar="DIR", help="output folder (default: output/compare-NAME)"),
    option("--test-split", metavar="NAME", help="test each finished run on this split, once"),
    flag("--leave-one-out", "hold out each group in turn, and test on it"),
    option("--report", type=path, metavar="DIR", help="only print and write the report of the comparison in DIR"),
    examples=[
        'timm-moex compare quickstart --data-dir "$(timm-moex sample)" --set in_memory=true --seeds 3',
        "timm-moex compare finetune --data-dir FOLDER --methods baseline moex mixstyle",
        "timm-moex compare my_recipe.yaml --method 'mine: moex_lam=0.5 moex_prob=0.25' --jobs 2",
        "timm-moex compare --report output/compare-finetune",
    ],
    early=_compare_early,
)
def compare(recipe: str | None, data_dir: str | None, report: str | None, **options: Any) -> int:
    """Train a recipe with several methods and seeds, and report the differences.

    The report says what each method changes, with a 95 % interval. Run the same command again to resume a stopped
    comparison or to add methods or seeds.
    """
    from ..comparison import compare as comparison

    done = comparison.report(report) if report else comparison.compare(str(recipe), data_dir, **options)
    return int(done.failed > 0)
