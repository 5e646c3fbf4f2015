"""Learning-rate range test (Smith 2017, arXiv 1506.01186): the loss while the rate rises by decades, and what it suggests.

Every step has a rate of its own, from LOWEST to HIGHEST times the base rate, evenly spaced in logarithm. All ranks make the
same steps and stop together: they decide by the mean of everybody's losses.
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

LOWEST, HIGHEST = 1e-4, 1e2  # of the rates tried, as multiples of the base rate
STEPS = 200  # unless --max-steps says otherwise
FORGETTING = 0.9  # weight of the past in the average that is watched for losses that run away
TOO_MUCH = 4.0  # times the lowest average so far: there is nothing more to see
AT_ONCE = 10  # losses that run away within so many steps began at too high a rate
BLUR = 0.02  # of the number of steps: deviation of the bell that the curve is smoothed with


@dataclass(frozen=True)
class Found:
    """What a curve says: the rate at which the loss falls fastest by decade of the rate, and the one at which it is lowest.

    smoothed: the curve they were read off, shape (n,).
    """

    steepest: float
    lowest: float
    smoothed: np.ndarray


def read_off(rates: np.ndarray, losses: np.ndarray) -> Found | None:
    """Smooth the curve of losses over rates (both of shape (n,)) and read it; None where it does not fall, or n < 3.

    Steepest: least derivative by log10 of the rate, among the rates below the lowest place of the curve.
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
    """Tells when losses have run away: not finite, or their moving average above TOO_MUCH times its lowest value so far."""

    def __init__(self) -> None:
        self.sum = self.weight = 0.0
        self.lowest = np.inf

    def has_run_away(self, loss: float) -> bool:
        """Whether that is so with this loss, the next one."""
        self.sum = FORGETTING * self.sum + (1 - FORGETTING) * loss
        self.weight = FORGETTING * self.weight + 1 - FORGETTING
        average = self.sum / self.weight
        self.lowest = min(self.lowest, average)
        return not np.isfinite(average) or average > TOO_MUCH * self.lowest


def advice_of(found: Found | None, steps: int, asked: int, option: str) -> str:
    """What to try, in words. steps: before the losses ran away, of those asked for. option: of the rate."""
    if found:
        return (
            f"the loss falls fastest at {found.steepest:.2g} and is lowest at {found.lowest:.2g}: "
            f"try {option} {found.steepest:.2g}"
        )
    if steps <= AT_ONCE < asked:
        return f"the loss rose at the first rates already: give a lower {option}"
    return f"the loss did not fall at any of {steps} rates: look at the curve, or give another {option}"


def option_of_rate(optimizer: str) -> str:
    """The option that says the base rate of a weight optimizer."""
    return "--learning-rate" if lr_option(optimizer) == "sgd" else "--adam-rate"


class RangeTest:
    """The test in the place of a run's training: writes find-lr.csv and find-lr.png into its directory, and says what it found.

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
        """Train at every rate in turn, then write and say what came of it."""
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
        """(rates, mean losses over all ranks before the step at each), until there are no more or the losses run away."""
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
    """A table of rates and losses, whole or not at all."""
    temporary = path.with_suffix(".tmp")
    with open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["step", "rate", "loss"])
        writer.writerows([t, f"{r:.9g}", f"{loss:.9g}"] for t, (r, loss) in enumerate(zip(rates, losses, strict=True)))
    os.replace(temporary, path)


def _draw(path: Path, rates: np.ndarray, losses: np.ndarray, found: Found | None, option: str) -> None:
    """The curve, with what was read off it."""
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
