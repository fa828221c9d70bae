"""Compare methods on one recipe: plan the runs, train them, and report after each complete seed and at the end."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..pictures.comparison import plot_comparison
from ..training.recipe import Recipe, RecipeError, load_recipe
from ..training.run_folder import RunFolder
from ..training.start import resolve_defaults
from ..utils.messages import say
from .methods import BASELINE, default_methods
from .outcomes import Figures, differences
from .plan import Plan, hold_out_images, make_plan
from .progress import Progress
from .report import FAILED, failures, figures_by_title, table, write_report
from .run import Run
from .runner import run_all
from .statistics import interval

__all__ = ["Comparison", "compare", "report"]

_REFUSALS = ("RecipeError", "DataError", "HubError")  # raised before training, so every run would fail alike


@dataclass(frozen=True)
class Comparison:
    """The results of a comparison so far.

    Attributes:
        folder: Contains report.md, compare.csv, compare.png and the run folders.
        text: The report, in Markdown.
        figures: Maps a title ("" or a held-out group), a method and a seed to the outcome of a run.
        failed: Number of failed runs.
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
    """Train a recipe with several methods and seeds, and report how the methods differ, with confidence intervals.

    Each run is an ordinary run folder, `output`/METHOD/SEED. A stopped comparison resumes from its last checkpoint, and
    methods or seeds can be added later; finished runs are never repeated. All methods are trained on one seed before
    the next seed starts. Runs with the same seed share their initial weights and the order of the images.

    Args:
        recipe: The recipe to train, see `load_recipe`.
        data_dir: The data folder; default: the recipe's.
        methods: Names such as "baseline", "moex", "mixstyle", "cutmix" or "cutmix+moex", or "mine: moex_lam=0.5"; see
            `parse_methods`. Default: the baseline; the recipe's own exchange, or MoEx with a probability of
            0.5 if it has none; and CutMix, unless the recipe mixes images.
        add_methods: Methods to add to `methods` or to the default.
        seeds: Number of seeds, counted from 0, or a list of seeds.
        settings: Changes to the recipe for all methods, `key=value` each.
        output: The output folder; default: output/compare-NAME.
        jobs: Number of runs to train in parallel; this process's threads are divided among them.
        device: Device to train on; default: the recipe's, otherwise a GPU if one is available.
        test_split: A split to test each finished run on, once. The report then compares the test results.
        leave_one_out: Hold out each group of a recipe with `group_folders` in turn, and compare results on that group.
        log: Called with each line; default: print it.
        progress: Show a progress bar if stderr is a terminal; otherwise log a line every minute.

    Raises:
        RecipeError: The recipe or a method is invalid.
        DataError: The data do not match the recipe.
        ValueError: `seeds` or `jobs` is invalid, or `output` contains a comparison of another recipe.
        FileExistsError: Another comparison is writing to `output`.
    """
    chosen = list(range(seeds) if isinstance(seeds, int) else seeds)
    if not chosen or len(set(chosen)) < len(chosen):
        raise ValueError(f"seeds={seeds!r}: expected one or more seeds, without duplicates")
    if jobs < 1:
        raise ValueError(f"jobs={jobs}: expected at least 1")
    log = log or say
    whole = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    whole = whole.override(settings, data_dir=None if data_dir is None else str(data_dir), device=device)
    whole, held_out = hold_out_images(whole)
    if leave_one_out and not whole.settings.get("group_folders"):
        raise RecipeError("leave_one_out needs groups; use --set group_folders=true if DIR contains GROUP/CLASS")
    whole, notes = resolve_defaults(whole)
    for note in [*held_out, *notes]:
        log(note)
    words = [*(default_methods(whole) if methods is None else methods), *add_methods]
    plan = make_plan(whole, words, chosen, Path(output or f"output/compare-{whole.name}"), test_split, leave_one_out)
    with RunFolder(plan.folder).locked():
        merged = plan.merged()
        runs = merged.runs(plan.methods, plan.seeds)
        for run in runs:
            run.check()
        merged.save()
        _train(merged, runs, jobs, log, progress)
        return report(plan.folder, log=log)


def report(folder: str | Path, *, log: Callable[[str], None] = say) -> Comparison:
    """Write and print the report of a comparison, whether finished, running or stopped.

    Args:
        folder: The folder of the comparison.
        log: Called with the report and with a note about anything that is missing.
    """
    plan = Plan.load(folder)
    text, figures = write_report(plan), figures_by_title(plan)
    runs = plan.runs()
    left = sum(not run.is_finished for run in runs)
    log(text + (f"\n{left} of {len(runs)} runs are not finished.\n" if left else ""))
    try:
        log(str(_draw(plan, list(figures.values())[-1])))
    except ImportError as error:
        log(f"compare.png was not drawn: {error}")
    return Comparison(plan.folder, text, figures, len(failures(plan)))


def _train(plan: Plan, runs: list[Run], jobs: int, log: Callable[[str], None], show_bar: bool) -> None:
    """Train the remaining runs; log an estimate, the time left, and the table after each complete seed."""
    left = [run for run in runs if not run.is_finished]
    if done := len(runs) - len(left):
        log(f"{done} of {len(runs)} runs are already finished")
    waiting = Counter(run.seed for run in left)
    progress = Progress(left, jobs, log, show_bar)

    def listen(run: Run | None, event: Mapping[str, Any]) -> None:
        progress.listen(run, event)
        if run is None:
            return
        if "started" in event:
            (run.folder / FAILED).unlink(missing_ok=True)
        elif "note" in event:
            progress.say(f"{run}: {event['note']}")
        elif "failed" in event:
            _note_failure(run, event["failed"], is_first=not progress.trained and done == 0)
            progress.say(f"{run} failed: {event['failed']}")
        if event.keys() & {"done", "failed"}:
            waiting[run.seed] -= 1
            if not waiting[run.seed] and any(waiting.values()):
                progress.say(f"\nafter seed {run.seed}:\n\n{table(list(figures_by_title(plan).values())[-1])}\n")

    try:
        run_all(left, listen, jobs=jobs, log=plan.folder / "workers.log")
    finally:
        progress.bar.close()


def _note_failure(run: Run, reason: str, is_first: bool) -> None:
    """Save the reason in the run's folder, or raise if it would stop all other runs as well."""
    if is_first and reason.startswith(_REFUSALS):
        raise RecipeError(f"{run}: {reason.partition(': ')[2]}")
    run.folder.mkdir(parents=True, exist_ok=True)
    (run.folder / FAILED).write_text(reason, encoding="utf-8")


def _draw(plan: Plan, figures: Figures) -> Path:
    errors = {method: differences(figures, method, "error") for method in figures if method != BASELINE}
    intervals = {method: interval(values) for method, values in errors.items() if len(values) > 1}
    runs: dict[str, list[Path]] = {method: [] for method in plan.methods}
    for run in plan.runs():
        if run.result is not None:
            runs[run.method].append(run.folder)
    return plot_comparison(plan.folder / "compare.png", errors, intervals, runs)
