"""Progress output of a run, on rank 0 only: a bar on a terminal, plain lines elsewhere."""

import math
import sys
import time
from itertools import accumulate
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from common.parallel.environment import launcher_rank, launcher_size


class Reporter:
    """Prints a line per round with the state of every population, and on a terminal a bar over the run's steps."""

    def __init__(self, lengths: list[int], first_round: int) -> None:
        self.rounds = len(lengths)
        self.before = list(accumulate(lengths, initial=0))  # steps before every round
        self.active = launcher_rank() == 0
        self.began = time.monotonic()
        self.first_round = first_round
        self.bar: Progress | None = None
        # A launcher gives rank 0 a pseudo-terminal even if the output is redirected, so only plain python gets the bar.
        if self.active and launcher_size() is None and sys.stdout.isatty():
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("steps"),
                TimeRemainingColumn(),
            )
            self.bar = Progress(*columns, console=Console(), transient=True)
            self.task = self.bar.add_task("training", total=self.before[-1], completed=self.before[first_round])
            self.bar.start()

    def step(self, t: int, step: int) -> None:
        """One optimizer step of round t is done."""
        if self.bar:
            self.bar.update(self.task, completed=self.before[t] + step + 1, description=f"round {t + 1}/{self.rounds}")

    def round(self, t: int, rows: list[dict[str, Any]]) -> None:
        """One round is done; rows: every rank's line of the record."""
        if not self.active:
            return
        seconds = time.monotonic() - self.began
        done = self.before[t + 1] - self.before[self.first_round]
        left = seconds / done * (self.before[-1] - self.before[t + 1])
        losses = [r["train_loss"] for r in rows if r["train_loss"] == r["train_loss"]]  # NaN on ranks that train nothing
        loss = sum(losses) / len(losses) if losses else math.nan
        states = " | ".join(_population(k, rows) for k in sorted({r["population"] for r in rows}))
        number = f"{t + 1:>{len(str(self.rounds))}}/{self.rounds}"
        self.line(f"round {number}  loss {loss:.3f} | {states} | {seconds:.0f} s, {left:.0f} s to go")

    def line(self, text: str) -> None:
        """One line, above the bar if there is one."""
        if self.bar:
            self.bar.console.print(text, highlight=False, markup=False)
        elif self.active:
            print(text, flush=True)

    def close(self) -> None:
        """Remove the bar."""
        if self.bar:
            self.bar.stop()


def span(lengths: list[int]) -> str:
    """`175`, or `6 to 40` where rounds differ in length."""
    return str(lengths[0]) if len(set(lengths)) == 1 else f"{min(lengths)} to {max(lengths)}"


def _population(number: int, rows: list[dict[str, Any]]) -> str:
    """`gwo lr 0.08-0.11 fitness 71.2 %`: rates from lowest to highest, fitness of the best worker."""
    mine = [r for r in rows if r["population"] == number]
    rates = [r["lr"] for r in mine]
    lost = sum(r["fitness"] == float("-inf") for r in mine)
    span = f"{min(rates):.3g}" if min(rates) == max(rates) else f"{min(rates):.3g}..{max(rates):.3g}"
    text = f"{mine[0]['species']} lr {span}"
    judged = [r["fitness"] for r in mine if not math.isnan(r["fitness"])]  # asynchronous runs evaluate on one worker per round
    if judged:
        best = max(judged)
        text += f" fitness {100 * best:.1f} %" if best >= 0 else f" fitness {best:.3f}"  # an accuracy, or minus a loss
    return text + (f" ({lost} of {len(mine)} diverged)" if lost else "")
