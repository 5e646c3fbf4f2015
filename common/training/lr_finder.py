"""Learning-rate range test (Smith 2017, arXiv 1506.01186): training loss over a log-spaced sweep of the learning rate.

Every step has its own rate, from LOWEST to HIGHEST times the base rate. All ranks stop at the same step, decided by the mean
loss over the world.
"""

import csv
import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from torch import Tensor

from common.ecosphere.rates import ScheduledRates
from common.optim.registry import lr_option
from common.training.loop import train_round
from common.training.round_ends import DataParallelEnd
from common.training.run import Run

LOWEST, HIGHEST = 1e-4, 1e2  # range of rates, in multiples of the base rate
STEPS = 200  # unless --max-steps is given
FORGETTING = 0.9  # decay of the moving average that detects divergence
TOO_MUCH = 4.0  # the test stops where the average exceeds this multiple of its minimum
AT_ONCE = 10  # divergence within so many steps: the first rates were too high
BLUR = 0.02  # standard deviation of the smoothing Gaussian / number of steps


@dataclass(frozen=True)
class Found:
    """Rates at which the loss falls fastest per decade of the rate, and at which it is lowest.

    smoothed: the smoothed losses, shape (n,).
    """

    steepest: float
    lowest: float
    smoothed: np.ndarray


def read_off(rates: np.ndarray, losses: np.ndarray) -> Found | None:
    """Smooth the losses over the rates (both of shape (n,)) and find both rates; None if the loss does not fall, or n < 3.

    steepest: minimum of d loss / d log10(rate), among the rates up to `lowest`.
    """
    from scipy.ndimage import gaussian_filter1d  # takes long to import, and no other run needs it

    if len(rates) < 3:
        return None
    smoothed = gaussian_filter1d(losses, max(1.0, BLUR * len(losses)), mode="nearest")
    bottom = int(smoothed.argmin())
    slopes = np.gradient(smoothed, np.log10(rates))[: bottom + 1]
    if not bottom or slopes.min() >= 0:
        return None
    return Found(float(rates[slopes.argmin()]), float(rates[bottom]), smoothed)


class Watch:
    """Divergence detector: loss not finite, or its moving average above TOO_MUCH times its lowest value so far."""

    def __init__(self) -> None:
        self.sum = self.weight = 0.0
        self.lowest = np.inf

    def has_run_away(self, loss: float) -> bool:
        """Whether the test has diverged with this next loss."""
        self.sum = FORGETTING * self.sum + (1 - FORGETTING) * loss
        self.weight = FORGETTING * self.weight + 1 - FORGETTING
        average = self.sum / self.weight
        self.lowest = min(self.lowest, average)
        return not np.isfinite(average) or average > TOO_MUCH * self.lowest


def advice_of(found: Found | None, steps: int, asked: int, option: str) -> str:
    """Recommendation to print. steps: steps before divergence, out of `asked`. option: option that sets the rate."""
    if found:
        return (
            f"the loss falls fastest at {found.steepest:.2g} and is lowest at {found.lowest:.2g}: "
            f"try {option} {found.steepest:.2g}"
        )
    if steps <= AT_ONCE < asked:
        return f"the loss rose at the first rates already: give a lower {option}"
    return f"the loss did not fall at any of {steps} rates: look at the curve, or give another {option}"


def option_of_rate(optimizer: str) -> str:
    """The option that sets the base rate of a weight optimizer."""
    return "--learning-rate" if lr_option(optimizer) == "sgd" else "--adam-rate"


class RangeTest:
    """Range test in place of training: writes find-lr.csv and find-lr.png into the run's directory, prints a recommendation.

    Collective over the world.
    """

    def __init__(self, run: Run) -> None:
        self.run, args = run, run.args
        steps = args.max_steps or STEPS
        self.steps = steps
        base = args.learning_rate
        rising = ScheduledRates(
            lambda progress: LOWEST * (HIGHEST / LOWEST) ** progress, base, 0.0, run.topology.world.size, max(1, steps - 1)
        )
        self.worker = run.build_worker(run.build_model(), rising)
        self.option = option_of_rate(args.optimizer)

    def go(self) -> None:
        """Train one step at every rate, then write the curve and print the recommendation."""
        run = self.run
        run.start(self.worker, DataParallelEnd(self.worker), lengths=[1] * self.steps)
        rates, losses = self._losses()
        run.record.close()
        run.reporter.close()
        found = read_off(rates, losses)
        if run.record.active:
            _write(run.directory / "find-lr.csv", rates, losses)
            _draw(run.directory / "find-lr.png", rates, losses, found, self.option)
        advice = advice_of(found, len(rates), len(run.lengths), self.option)
        run.reporter.line(f"{advice}; curve in {run.directory}/find-lr.png")

    def _losses(self) -> tuple[np.ndarray, np.ndarray]:
        """Rates, and losses before the step at each, averaged over the world; up to the last rate or divergence."""
        run, watch, losses = self.run, Watch(), []
        plan = replace(run.plan, steps=1)
        for t, batch in enumerate(itertools.islice(self._batches(), len(run.lengths))):
            trained = train_round(self.worker, [batch], run.args.seed, t, plan)
            losses.append(float(run.topology.world.gather_rows(np.array([trained.loss])).mean()))
            run.reporter.step(t, 0)
            if watch.has_run_away(losses[-1]):
                losses.pop()
                break
        rates = [self.worker.optimizer.effective_lr(self.worker.rate_at(t)) for t in range(len(losses))]
        return np.array(rates), np.array(losses)

    def _batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        for epoch in itertools.count():
            yield from self.run.batches(epoch, self.run.plan.steps)


def _write(path: Path, rates: np.ndarray, losses: np.ndarray) -> None:
    """Write the table of rates and losses atomically."""
    temporary = path.with_suffix(".tmp")
    with open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["step", "rate", "loss"])
        writer.writerows([t, f"{r:.9g}", f"{loss:.9g}"] for t, (r, loss) in enumerate(zip(rates, losses, strict=True)))
    os.replace(temporary, path)


def _draw(path: Path, rates: np.ndarray, losses: np.ndarray, found: Found | None, option: str) -> None:
    """Plot the curve and both rates."""
    from matplotlib.figure import Figure  # half a second to import, and only rank 0 draws

    figure = Figure((7.5, 4.2), layout="constrained")
    axes = figure.subplots()
    axes.plot(rates, losses, color="#9AA0A8", lw=0.8, label="loss of a batch")
    if found:
        axes.plot(rates, found.smoothed, color="#0072B2", lw=1.8, label="smoothed")
        axes.axvline(found.steepest, color="#009E73", ls="--", label=f"falls fastest: {found.steepest:.2g}")
        axes.axvline(found.lowest, color="#D55E00", ls=":", label=f"lowest: {found.lowest:.2g}")
    axes.set_xscale("log")
    axes.set(xlabel=f"learning rate of the step ({option})", ylabel="training loss", title="Learning-rate range test")
    axes.legend(frameon=False)
    temporary = path.with_name(f"{path.name}.tmp")
    figure.savefig(temporary, dpi=150, format="png")
    os.replace(temporary, path)
