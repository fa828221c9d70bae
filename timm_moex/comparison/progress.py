"""Progress of a comparison: an estimate after the first epoch, then a progress bar, or a log line every minute."""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tqdm import tqdm

from ..utils.messages import in_words
from .run import Run

__all__ = ["Progress"]

_MINUTE = 60.0


class Progress:
    """Count the epochs of runs that are trained `jobs` at a time; show a bar if stderr is a terminal."""

    def __init__(self, runs: Sequence[Run], jobs: int, say: Callable[[str], None], show_bar: bool):
        self.jobs = max(1, min(jobs, len(runs)))
        self.total = {run: run.epochs for run in runs}
        self.done = {run: min(run.epochs_done, run.epochs) for run in runs}
        self.runs_done, self.trained, self.began = 0, 0, time.monotonic()
        self.last_line = self.began
        self.print = say
        has_bar = show_bar and sys.stderr.isatty()
        self.bar = tqdm(total=self.epochs, initial=self.epochs_done, unit="epoch", disable=not has_bar)

    @property
    def epochs(self) -> int:
        return sum(self.total.values())

    @property
    def epochs_done(self) -> int:
        return sum(self.done.values())

    def say(self, line: str) -> None:
        """Print a line without breaking the bar."""
        self.bar.clear()
        self.print(line)
        self.bar.refresh()

    def listen(self, run: Run | None, event: Mapping[str, Any]) -> None:
        """Handle an event of `run_all`."""
        if run is not None and "epoch" in event:
            self.done[run], self.total[run] = event["epoch"], event["epochs"]
            self.trained += 1
            if self.trained == 1:
                self._estimate(event["seconds"])
            self.bar.total = self.epochs
            self.bar.update(self.epochs_done - self.bar.n)
            self.bar.set_postfix_str(str(run))
        elif run is not None and event.keys() & {"done", "failed"}:
            self.runs_done += 1
            self.done[run] = self.total[run]
            self.bar.update(self.epochs_done - self.bar.n)
        if self.bar.disable and time.monotonic() - self.last_line >= _MINUTE:
            self.last_line = time.monotonic()
            elapsed, left = time.monotonic() - self.began, self.epochs - self.epochs_done
            rest = f"about {in_words(elapsed / self.trained * left)} left" if self.trained else "no epoch yet"
            runs = f"{self.runs_done} of {len(self.total)} runs"
            self.print(f"{time.strftime('%H:%M')}  {self.epochs_done} of {self.epochs} epochs, {runs}, {rest}")

    def _estimate(self, seconds: float) -> None:
        left = self.epochs - self.epochs_done
        rest = left * seconds / self.jobs
        until = time.strftime("%H:%M", time.localtime(time.time() + rest))
        side_by_side = f", {self.jobs} runs in parallel" if self.jobs > 1 else ""
        self.say(
            f"about {in_words(rest)}, until {until}: the first epoch took {seconds:.1f} s; epochs left: "
            f"{left} of {self.epochs}, in {len(self.total)} runs{side_by_side}"
        )
