"""The ranking of workers and populations after a round. Pure; no MPI."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from common.ecosphere.species.moves import best_first

TRUNCATED = 0.2  # fraction of the populations that copy, and that are copied, in truncation selection


@dataclass(frozen=True)
class Standings:
    """Fitness and rates of all workers after one round, and their ranking.

    Attributes:
        fitness: shape (N,), larger is better; -inf for a worker without finite weights.
        rates: shape (N,), the rates of the round.
        sizes: workers in each population, in rank order.
    """

    fitness: np.ndarray
    rates: np.ndarray
    sizes: list[int]

    @cached_property
    def leader(self) -> int:
        """World rank of the lexicographic maximum of (fitness, rate); the lowest rank among equals."""
        return int(best_first(self.fitness, self.rates)[0])

    @property
    def leader_rate(self) -> float:
        """x*, the leader's rate."""
        return float(self.rates[self.leader])

    @cached_property
    def champions(self) -> list[int]:
        """World rank of the best worker of each population: its (fitness, rate) is the population's."""
        starts = np.cumsum([0, *self.sizes])
        parts = [slice(starts[k], starts[k + 1]) for k in range(len(self.sizes))]
        return [int(p.start + best_first(self.fitness[p], self.rates[p])[0]) for p in parts]

    @cached_property
    def order(self) -> list[int]:
        """Indices of the populations ranked by their best workers, the leader's first; the lower index first among equals."""
        return [int(k) for k in best_first(self.fitness[self.champions], self.rates[self.champions])]

    @property
    def best_population(self) -> int:
        """Index of the leader's population."""
        return self.order[0]

    @property
    def worst_population(self) -> int:
        """Index of the population whose best worker ranks last; the highest index among equals."""
        return self.order[-1]

    @property
    def alive(self) -> list[bool]:
        """For each population whether any of its workers holds finite weights."""
        return [bool(self.fitness[c] > -np.inf) for c in self.champions]

    @cached_property
    def copies(self) -> dict[int, int]:
        """Copies of truncation selection (Jaderberg et al. 2017), {population: its source}.

        The worst fifth (at least one) of n >= 2 populations copy the best fifth, the i-th worst the i-th best. If populations
        are lost, only these copy, from the leader's.
        """
        lost = [k for k, alive in enumerate(self.alive) if not alive]
        if lost:
            return dict.fromkeys(lost, self.best_population)
        n = len(self.sizes)
        count = max(1, round(TRUNCATED * n)) if n > 1 else 0
        return {self.order[-1 - i]: self.order[i] for i in range(count)}
