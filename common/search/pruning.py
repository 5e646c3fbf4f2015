"""Pruning of trials: the median rule, and asynchronous successive halving. Pure.

`keeps(curve, others)` says whether a trial continues. curve: its value after every step so far, larger is better. others: the
other known trials, whose curves both rules use as far as they are known; no trial waits for another.

Optuna's pruners decide otherwise: its median is of complete trials alone, of their values at the step instead of their best so
far, and of the first trials at a rung its halving continues the best one instead of all.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from common.search.trial import State, Trial


@dataclass(frozen=True)
class Median:
    """Stop a trial if its best value so far is below the median of the others' best at the same step.

    startup: complete trials needed before pruning. warmup: first steps without pruning. Defaults of Optuna's MedianPruner.
    """

    startup: int = 5
    warmup: int = 0

    def keeps(self, curve: Sequence[float], others: Sequence[Trial]) -> bool:
        """The median rule."""
        step = len(curve)
        if step <= self.warmup or sum(t.state is State.COMPLETE for t in others) < self.startup:
            return True
        best = [max(t.curve[:step]) for t in others if len(t.curve) >= step and t.state is not State.FAILED]
        return not best or max(curve) >= statistics.median(best)


@dataclass(frozen=True)
class Halving:
    """Asynchronous successive halving (ASHA, Li et al., arXiv 1810.05934), one bracket.

    Rungs are r_min eta^k < r_max steps. At a rung a trial continues if it is among the best max(1, floor(n / eta)) of the n
    values seen there so far, its own included, or if n < eta.
    """

    longest: int
    reduction: int = 4
    shortest: int = 1

    @property
    def rungs(self) -> list[int]:
        """Steps at which trials are compared."""
        rungs, step = [], self.shortest
        while step < self.longest:
            rungs.append(step)
            step *= self.reduction
        return rungs

    def keeps(self, curve: Sequence[float], others: Sequence[Trial]) -> bool:
        """The rule of one rung; between rungs all trials continue."""
        step = len(curve)
        if step not in self.rungs:
            return True
        seen = [t.curve[step - 1] for t in others if len(t.curve) >= step]
        n = len(seen) + 1
        better = sum(value > curve[-1] for value in seen)
        return n < self.reduction or better < max(1, n // self.reduction)


Pruner: TypeAlias = Median | Halving
