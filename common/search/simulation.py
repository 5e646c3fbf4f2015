"""Discrete-event simulation of the duration of a search: the `Search` of real runs, on a simulated clock.

Trials have given costs and compute nothing, so the result is that of scheduling alone, for any number of ranks.
"""

import heapq
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from common.search.search import Limits, Search
from common.search.space import Setting
from common.search.steady_state import FREE, Asynchronous, Order
from common.search.strategies import Generators, Known, Proposal, Strategy
from common.search.trial import State, Trial


@dataclass(frozen=True)
class Generations(Strategy):
    """A static strategy that proposes `size` trials at a time, with placeholder settings."""

    size: int

    def needs(self, i: int) -> int:
        """Number of trials in earlier generations."""
        return i // self.size * self.size

    def propose(self, i: int, known: Known, generators: Generators) -> list[Proposal]:
        """The rest of a generation."""
        return [Proposal({"number": k}) for k in range(i, self.needs(i) + self.size)]


@dataclass(frozen=True)
class Queue(Asynchronous):
    """A strategy without generations, with placeholder settings."""

    order: Order = FREE

    def propose(self, i: int, known: Known, generators: Generators) -> list[Proposal]:
        """One trial."""
        return [Proposal({"number": i})]


def log_normal(rng: np.random.Generator, n: int, spread: float) -> np.ndarray:
    """n costs of mean 1 and coefficient of variation `spread`."""
    variance = np.log1p(spread**2)
    return rng.lognormal(-variance / 2, np.sqrt(variance), n)


def play(search: Search, cost: Callable[[Trial], float], value: Callable[[Setting], float] = lambda setting: 0.0) -> float:
    """Simulate a search whose trials take `cost(trial)` seconds; returns its simulated seconds."""
    coming: list[tuple[float, int, int, Trial]] = []  # (when it ends, tie break, worker, trial)
    ties = itertools.count()
    began = now = search.now
    search.begin(now)
    for worker in range(search.workers):
        search.ready(worker)
    while not search.is_over:
        for worker, trial in search.assign(now):
            heapq.heappush(coming, (now + cost(trial), next(ties), worker, trial))
        if not coming:
            break  # a limit was reached: the remaining trials are not started
        now, _, worker, trial = heapq.heappop(coming)
        assert trial.start is not None
        search.end(trial.id, State.COMPLETE, value(trial.setting), now, now - trial.start)
        search.ready(worker)
    return now - began


def speed_up(strategy: Strategy, costs: Sequence[float], workers: int) -> float:
    """Sum of the costs over the simulated time of P = `workers` workers: S_P = T_1 / T_P."""
    search = Search(strategy, Limits(len(costs)), workers)
    return float(sum(costs)) / play(search, lambda trial: float(costs[trial.id]))


def utilisation(search: Search) -> float:
    """Share of the workers' time spent in trials: sum of costs / (P T), over all sessions; waiting for replies, and work lost
    by a kill, count as idle.
    """
    busy = sum(t.cost for t in search.trials)
    ends = [moment for moment, _ in search.sessions[1:]] + [search.now]
    there = sum(workers * (end - began) for (began, workers), end in zip(search.sessions, ends, strict=True))
    return busy / there if there else 0.0
