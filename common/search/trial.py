"""One evaluation of one setting, from its proposal to its end. Pure; no MPI."""

import math
from dataclasses import dataclass, field
from enum import StrEnum

from common.search.space import Setting


class State(StrEnum):
    """State of a trial. Journals have these words; Optuna's TrialState has others, and takes a second to import."""

    WAITING = "waiting"  # proposed and not yet assigned, or to be retried
    RUNNING = "running"
    COMPLETE = "complete"
    PRUNED = "pruned"  # stopped early; its value is the last one it reported
    FAILED = "failed"  # raised an error, or its value is not finite


ENDED = (State.COMPLETE, State.PRUNED, State.FAILED)


@dataclass
class Trial:
    """Record of one trial.

    parents: ids of the trials that its setting was bred from. value: larger is better; None if there is none. curve: the value
    after each of its steps so far. attempts: retries after errors. worker: index of the worker that evaluates it. start, end:
    seconds since the search began, by the coordinator's clock; cost: seconds by the worker's clock.
    """

    id: int
    setting: Setting
    parents: tuple[int, ...] = ()
    state: State = State.WAITING
    value: float | None = None
    curve: list[float] = field(default_factory=list)
    attempts: int = 0
    worker: int | None = None
    start: float | None = None
    end: float | None = None
    cost: float = 0.0
    error: str = ""

    @property
    def has_ended(self) -> bool:
        """Whether it is complete, pruned or failed."""
        return self.state in ENDED

    @property
    def merit(self) -> tuple[float, float]:
        """Sort key, larger is better: complete trials by value, below them pruned ones by number of steps and value, last
        failed ones (-inf, since comparisons with NaN are arbitrary).
        """
        if self.state is State.FAILED or self.value is None:
            return -1.0, -math.inf
        return math.inf if self.state is State.COMPLETE else float(len(self.curve)), self.value


def best_first(trials: list[Trial]) -> list[Trial]:
    """Trials by merit; among equals in their given order, which is by id."""
    return sorted(trials, key=lambda trial: trial.merit, reverse=True)
