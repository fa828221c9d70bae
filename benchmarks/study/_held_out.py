"""Studies that leave one group of the data out: train on the others, test once on the group held out.

Each run is one process with one thread, and has a line in a CSV once it has been tested.
"""

import argparse
import multiprocessing
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from timm_moex.comparison.statistics import format_interval, format_mean, paired

from .._markdown import table
from .._results import append_rows, environment, grouped, read_rows

MONITORED, SPLIT_SEED = 0.1, 0
Job = dict[str, Any]  # the columns that identify a run: seed, held_out, method


@dataclass(frozen=True)
class Recipe:
    """Settings of AdamW with a one-cycle schedule; `lr` is the highest learning rate."""

    batch: int
    epochs: int
    lr: float
    weight_decay: float = 0.01


@dataclass(frozen=True)
class Data:
    """All samples: `images` (N, ...), `labels` (N,) and `groups` (N,), int64.

    Attributes:
        images: As stored.
        labels: Classes.
        groups: Numbers of the groups.
        batch: Maps stored images to the model's input; in training it receives a generator to augment with.
    """

    images: Tensor
    labels: Tensor
    groups: Tensor
    batch: Callable[[Tensor, torch.Generator | None], Tensor]

    def split(self, held_out: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return the indices for monitoring, training and testing; the split of the sources is the same in all runs."""
        order = torch.randperm(len(self.labels), generator=torch.Generator().manual_seed(SPLIT_SEED))
        source = order[self.groups[order] != held_out]
        monitored, training = source.tensor_split([int(MONITORED * len(source))])
        return monitored, training, (self.groups == held_out).nonzero().flatten()


@torch.no_grad()
def evaluate(model: nn.Module, data: Data, chosen: Tensor) -> tuple[float, float]:
    """Compute top-1 in percent and the mean loss."""
    model.eval()
    logits = torch.cat([model(data.batch(data.images[part], None)) for part in chosen.split(256)])
    target = data.labels[chosen]
    return 100 * (logits.argmax(1) == target).double().mean().item(), cross_entropy(logits, target).item()


def fit(
    model: nn.Module,
    forward: Callable[[Tensor, Tensor], Tensor],
    data: Data,
    training: Tensor,
    recipe: Recipe,
    generator: torch.Generator,
) -> float:
    """Train a model and return the mean loss of the last epoch.

    Args:
        model: The model.
        forward: Maps a batch and its groups to logits, with whatever the model exchanges.
        data: All samples.
        training: Indices of the samples to train on.
        recipe: Settings; an incomplete last batch is dropped.
        generator: Draws the order of the samples and the augmentation.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)
    steps = len(training) // recipe.batch
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.lr, total_steps=recipe.epochs * steps)
    losses = []
    for _ in range(recipe.epochs):
        model.train()
        losses = []
        for chosen in training[torch.randperm(len(training), generator=generator)].split(recipe.batch)[:steps]:
            images = data.batch(data.images[chosen], generator)
            loss = cross_entropy(forward(images, data.groups[chosen]), data.labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
            losses.append(loss.item())
    return fmean(losses)


def train_and_test(
    build: Callable[[], tuple[nn.Module, Callable[[Tensor, Tensor], Tensor]]],
    data: Data,
    held_out: int,
    seed: int,
    recipe: Recipe,
) -> dict[str, Any]:
    """Train one run and test it once, after the last epoch, on the group held out.

    Args:
        build: Creates the model and its `forward`, see `fit`; called once the seed is set.
        data: All samples.
        held_out: Number of the group.
        seed: Seeds the weights, the exchanges, the order of the samples and the augmentation.
        recipe: Settings.
    """
    began, processor = time.perf_counter(), time.process_time()
    torch.manual_seed(seed)
    model, forward = build()
    monitored, training, held_out_samples = data.split(held_out)
    train_loss = fit(model, forward, data, training, recipe, torch.Generator().manual_seed(seed))
    top1, loss = evaluate(model, data, held_out_samples)
    monitored_top1, monitored_loss = evaluate(model, data, monitored)
    return {
        "top1": f"{top1:.2f}",
        "loss": f"{loss:.4f}",
        "images": len(held_out_samples),
        "monitored_top1": f"{monitored_top1:.2f}",
        "monitored_loss": f"{monitored_loss:.4f}",
        "train_loss": f"{train_loss:.4f}",
        "seconds": f"{time.perf_counter() - began:.0f}",
        "cpu_seconds": f"{time.process_time() - processor:.0f}",
    }


def parser(description: str | None, data: str, file: Path) -> argparse.ArgumentParser:
    """Create the parser of a study with `--data`, `--table` and `--parallel`."""
    options = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--data", type=Path, required=True, help=data)
    options.add_argument("--table", type=Path, default=file, help="default: %(default)s")
    options.add_argument("--parallel", type=int, default=1, help="runs at a time, each with one thread")
    return options


def plan(seeds: Iterable[int], held_out: Sequence[str], methods: Sequence[str]) -> list[Job]:
    """List all runs; the methods of one seed and group, which are compared, follow each other."""
    return [
        {"seed": seed, "held_out": group, "method": method}
        for seed in seeds
        for group in held_out
        for method in methods
    ]


def run_jobs(jobs: Sequence[Job], run: Callable[[Job], dict[str, Any]], file: Path, parallel: int) -> None:
    """Run the jobs that have no line in the table, and append the line of each when it has finished.

    Args:
        jobs: The runs, in order.
        run: Maps a job to the columns of its result; it must be picklable.
        file: The CSV.
        parallel: Number of processes at a time.
    """
    done = [{key: row[key] for key in jobs[0]} for row in read_rows(file.stem, file.parent)]
    waiting = [job for job in jobs if {key: str(value) for key, value in job.items()} not in done]
    print(f"{len(done)} runs are in {file}, {len(waiting)} to do", flush=True)
    with ThreadPoolExecutor(parallel) as pool:
        futures = {pool.submit(_line_from_process, run, job): job for job in waiting}
        for future in as_completed(futures):
            append_rows(file, [future.result()])
            print(f"{futures[future]}: {future.result()['cpu_seconds']} s of one core", flush=True)


def _line_from_process(run: Callable[[Job], dict[str, Any]], job: Job) -> dict[str, Any]:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        return process.submit(_line, run, job).result()


def _line(run: Callable[[Job], dict[str, Any]], job: Job) -> dict[str, Any]:
    torch.set_num_threads(1)
    return job | run(job) | environment(torch.device("cpu"), "timm_moex", "benchmarks/study")


def means(rows: Sequence[dict], method: str, held_out: Sequence[str], column: str = "top1") -> dict[str, float]:
    """Map each seed that has a run for all of these groups to the mean of a column over them."""
    found = {}
    for (seed,), runs in grouped([row for row in rows if row["method"] == method], "seed").items():
        values = {row["held_out"]: float(row[column]) for row in runs}
        if set(held_out) <= values.keys():
            found[seed] = fmean(values[group] for group in held_out)
    return found


def summary(rows: Sequence[dict], methods: Sequence[str], held_out: Sequence[str]) -> str:
    """Format a table of top-1 by held-out group: the first method, and paired differences of the others from it.

    The columns `mean` and `sources` (monitored images) are means over the groups. Their differences have exact 95 %
    intervals over the seeds that have all groups.
    """
    parts = [((group,), "top1") for group in held_out] + [(held_out, "top1"), (held_out, "monitored_top1")]
    lines = []
    for method in methods:
        cells = []
        for groups, column in parts:
            values, others = (means(rows, name, groups, column) for name in (method, methods[0]))
            if method == methods[0]:
                cells.append(format_mean(list(values.values())))
            else:
                form = format_interval if len(groups) > 1 else partial(format_mean, sign=True)
                cells.append(form(paired(values, others)))
        seeds = str(len(means(rows, method, held_out)))
        lines.append([method if method == methods[0] else f"{method} minus {methods[0]}", *cells, seeds])
    return table(["", *held_out, "mean", "sources", "seeds"], lines)
