"""Compare methods on one recipe: plan the runs, train them, report after each whole seed and at the end."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..pictures.comparison import draw_comparison
from ..training.fill_in import fill_in
from ..training.recipe import Recipe, RecipeError, load_recipe
from ..training.run_folder import RunFolder
from ..utils.messages import say
from .images import describe_images, hold_out_images
from .methods import BASELINE, default_methods, parse_methods
from .outcomes import Figures, differences
from .plan import Entry, Plan
from .progress import Progress
from .report import FAILED, figures_by_title, table, write_report
from .runner import run_all
from .statistics import interval

__all__ = ["Comparison", "compare", "report"]

_REFUSALS = ("RecipeError", "DataError", "HubError")  # of a run that never began: the others would say the same


@dataclass(frozen=True)
class Comparison:
    """A comparison, as far as it has come.

    Attributes:
        folder: Holds report.md, compare.csv, compare.png and the runs' folders.
        text: The report, in Markdown.
        figures: Title ("" or a held-out domain) to method to seed to the run's figures.
        failed: Number of runs that failed.
    """

    folder: Path
    text: str
    figures: dict[str, Figures]
    failed: int


def compare(
    recipe: str | Path | Recipe,
    data_dir: str | Path | None = None,
    *,
    methods: Sequence[str] | None = None,
    add_methods: Sequence[str] = (),
    seeds: int | Sequence[int] = 5,
    settings: Sequence[str] = (),
    output: str | Path | None = None,
    jobs: int = 1,
    device: str | None = None,
    test_split: str | None = None,
    leave_one_out: bool = False,
    log: Callable[[str], None] | None = None,
    progress: bool = True,
) -> Comparison:
    """Train a recipe with several methods and seeds, and say what the methods change, with intervals.

    Each run is an ordinary run folder `output`/METHOD/SEED. A comparison that was stopped goes on where it was, and
    methods or seeds can be added later; finished runs are never repeated. All methods of a seed are trained before the
    next seed. In a pair of runs the seed, the initial weights and the order of the images are the same.

    Args:
        recipe: What to train, see `load_recipe`.
        data_dir: The data; default: the recipe's.
        methods: Names such as "baseline", "moex", "mixstyle", "cutmix" or "cutmix+moex", or "mine: moex_lam=0.5"; see
            `parse_methods`. Default: the baseline, the recipe's own exchange, and CutMix.
        add_methods: Further ones, in addition to these or to the default.
        seeds: How many, from 0, or which.
        settings: Changes to the recipe for all methods, `key=value` each.
        output: The folder; default: output/compare-NAME.
        jobs: Number of runs side by side; they share this process's number of threads.
        device: Where to train; default: the recipe's, else a GPU if there is one.
        test_split: A split to look at once for each finished run, which then decides.
        leave_one_out: Hold out each group of a recipe with `group_folders` in turn, and judge by it.
        log: Takes each line; default: it is printed.
        progress: Show a bar if stderr is a terminal; a line is logged every minute otherwise.

    Raises:
        RecipeError: The recipe or a method is wrong.
        DataError: The data are not as the recipe says.
        ValueError: `seeds` or `jobs` is below 1, or `output` holds a comparison of another recipe.
        FileExistsError: Another comparison writes to `output`.
    """
    chosen = [seed for seed in range(seeds)] if isinstance(seeds, int) else list(seeds)
    if not chosen or len(set(chosen)) < len(chosen):
        raise ValueError(f"seeds={seeds!r}: expected at least one, each once")
    if jobs < 1:
        raise ValueError(f"jobs={jobs}: expected at least 1")
    log = log or say
    whole = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    whole = whole.override(settings, data_dir=None if data_dir is None else str(data_dir), device=device)
    whole.arguments()
    whole, held_out = hold_out_images(whole)
    if leave_one_out and not whole.settings.get("group_folders"):
        raise RecipeError("leave_one_out needs the groups: --set group_folders=true reads GROUP/CLASS/picture")
    whole, notes = fill_in(whole)
    for note in [*held_out, *notes]:
        log(note)
    words = [*(default_methods(whole) if methods is None else methods), *add_methods]
    plan = _make_plan(whole, words, chosen, Path(output or f"output/compare-{whole.name}"), test_split, leave_one_out)
    with RunFolder(plan.folder).locked():
        merged = plan.merged()
        entries = merged.entries(list(plan.methods), plan.seeds)
        for entry in entries:
            entry.run.check()
        merged.save()
        _train(merged, entries, jobs, log, progress)
        return report(plan.folder, log=log)


def report(folder: str | Path, *, log: Callable[[str], None] = say) -> Comparison:
    """Write and print the report of a comparison that is finished, running, or was stopped.

    Args:
        folder: The comparison's.
        log: Takes the report, and what is missing from it.

    Raises:
        FileNotFoundError: The folder holds no comparison.
    """
    plan = Plan.load(folder)
    text, figures = write_report(plan), figures_by_title(plan)
    entries = plan.entries()
    left = sum(not entry.run.is_finished for entry in entries)
    log(text + (f"\n{left} of {len(entries)} runs are not finished.\n" if left else ""))
    try:
        log(str(_draw(plan, list(figures.values())[-1])))
    except ImportError as error:
        log(f"compare.png is not drawn: {error}")
    failed = sum((entry.run.folder / FAILED).is_file() for entry in entries)
    return Comparison(plan.folder, text, figures, failed)


def _make_plan(
    recipe: Recipe, methods: Sequence[str], seeds: list[int], folder: Path, test: str | None, leave_one_out: bool
) -> Plan:
    if leave_one_out and test:
        raise ValueError(f"test_split={test!r} with leave_one_out: the held-out groups are the test")
    if recipe.settings.get("held_out_group"):
        raise RecipeError("held_out_group is given; leave_one_out holds out each group in turn")
    parsed = parse_methods(recipe, methods)
    images, groups = describe_images(recipe, test, leave_one_out)
    plan = Plan(folder, recipe.name, recipe.settings, parsed, seeds, images, test or "", groups)
    trained = [entry.run.recipe.arguments() for entry in plan.entries(seeds=seeds[:1])[: len(parsed)]]
    same = [name for name, args in zip(parsed, trained) if trained.count(args) > 1]
    if same:
        raise RecipeError(f"methods {', '.join(same)}: they train the same recipe")
    return plan


def _train(plan: Plan, entries: list[Entry], jobs: int, log: Callable[[str], None], show_bar: bool) -> None:
    """Train what is left, with an estimate, the time left, and the table after each whole seed."""
    by_run = {entry.run: entry for entry in entries if not entry.run.is_finished}
    if done := len(entries) - len(by_run):
        log(f"{done} of {len(entries)} runs are finished already")
    waiting = Counter(entry.seed for entry in by_run.values())
    progress = Progress({run: str(entry) for run, entry in by_run.items()}, jobs, log, show_bar)

    def listen(run: Any, event: Mapping[str, Any]) -> None:
        progress.listen(run, event)
        if run is None:
            return
        entry = by_run[run]
        if "started" in event:
            (run.folder / FAILED).unlink(missing_ok=True)
        elif "note" in event:
            progress.say(f"{entry}: {event['note']}")
        elif "failed" in event:
            _note_failure(entry, event["failed"], is_first=not progress.trained and done == 0)
            progress.say(f"{entry} failed: {event['failed']}")
        if event.keys() & {"done", "failed"}:
            waiting[entry.seed] -= 1
            if not waiting[entry.seed] and any(waiting.values()):
                progress.say(f"\nafter seed {entry.seed}:\n\n{table(list(figures_by_title(plan).values())[-1])}\n")

    try:
        run_all(list(by_run), listen, jobs=jobs, log=plan.folder / "workers.log")
    finally:
        progress.close()


def _note_failure(entry: Entry, reason: str, is_first: bool) -> None:
    """Keep the reason in the run's folder; what stops the very first run would stop all of them."""
    if is_first and reason.startswith(_REFUSALS):
        raise RecipeError(f"{entry}: {reason.partition(': ')[2]}")
    entry.run.folder.mkdir(parents=True, exist_ok=True)
    (entry.run.folder / FAILED).write_text(reason, encoding="utf-8")


def _draw(plan: Plan, figures: Figures) -> Path:
    errors = {m: differences(figures, m, lambda outcome: outcome.error) for m in figures if m != BASELINE}
    intervals = {method: interval(values) for method, values in errors.items() if len(values) > 1}
    runs: dict[str, list[Path]] = {method: [] for method in plan.methods}
    for entry in plan.entries():
        if entry.run.result is not None:
            runs[entry.method].append(entry.run.folder)
    return draw_comparison(plan.folder / "compare.png", errors, intervals, runs)
