"""Asynchronous steady-state evolution: no generations, so no worker waits for one. Pure: the generator is an argument.

A trial is bred from two of the best so far (a tournament each), by uniform crossover and mutation, or is a fresh random
setting. Probabilities and deviations are Propulate's defaults (Taubert et al. 2023); the tournament is not.
"""

from dataclasses import dataclass

import numpy as np

from common.search.space import Setting, Space, Value, Variable, key_of
from common.search.strategies import GIVE_UP, Generators, Known, Proposal, Strategy, draw_new
from common.search.trial import State, Trial, best_first

FRESH = 0.1  # p_init: a random setting instead of a child
FROM_OTHER = 0.7  # p_c: a gene comes from the second parent
REDRAWN = 0.4  # p_m: one gene is drawn anew
STEP = 0.05  # deviation of every numeric gene's step, in units of its range


@dataclass(frozen=True)
class Order:
    """The trials that a proposal uses.

    lag W: proposal i waits for and uses trials 0 .. i - W; it then depends neither on timing nor on the number of ranks, and up
    to W ranks can work at a time. Without a lag ("free"): all trials that have ended.
    """

    lag: int | None = 16

    def needs(self, i: int) -> int | None:
        """Number of first trials that proposal i uses; None without a lag."""
        return None if self.lag is None else max(0, i - self.lag + 1)


LAG, FREE = Order(), Order(None)


class Asynchronous(Strategy):
    """A strategy without generations. order: the trials that its proposals use."""

    static = False
    order: Order

    def needs(self, i: int) -> int | None:
        """See `Order.needs`."""
        return self.order.needs(i)


@dataclass(frozen=True)
class Steady(Asynchronous):
    """Steady-state evolution on the best `population` of all trials that have ended."""

    space: Space
    population: int = 4
    order: Order = LAG

    def propose(self, i: int, known: Known, generators: Generators) -> list[Proposal]:
        """One new setting: random until there is a population, then bred."""
        rng = generators(i)
        pool = best_first([t for t in known.ended() if t.state is not State.FAILED])[: self.population]
        if len(pool) >= self.population:
            for _ in range(GIVE_UP):
                if rng.random() < FRESH:
                    break
                parents = tournament(pool, rng), tournament(pool, rng)
                child = breed(self.space, parents[0].setting, parents[1].setting, rng)
                if key_of(child) not in known.keys:
                    return [Proposal(child, tuple(dict.fromkeys(p.id for p in parents)))]
        return draw_new(self.space, known.keys, rng)


def tournament(pool: list[Trial], rng: np.random.Generator) -> Trial:
    """The better of two random members; pool: best first."""
    return pool[int(rng.integers(len(pool), size=2).min())]


def breed(space: Space, first: Setting, second: Setting, rng: np.random.Generator) -> Setting:
    """A child: each gene from the second parent with probability p_c, else from the first; then mutated.

    With probability p_m one gene is redrawn, and every number takes a Gaussian step, reflected at the bounds. A gene that only
    one parent has is taken from it; a gene that neither has is drawn.
    """
    redrawn = space.names[rng.integers(len(space.names))] if rng.random() < REDRAWN else None

    def gene(variable: Variable) -> Value:
        name = variable.name
        mother, other = (second, first) if rng.random() < FROM_OTHER else (first, second)
        parent = mother if name in mother else other
        if name == redrawn or name not in parent:
            return variable.draw(rng)
        if not variable.is_numeric:
            return parent[name]
        return variable.from_unit(reflect(variable.to_unit(parent[name]) + STEP * rng.standard_normal()))

    return space.build(gene)


def reflect(u: float) -> float:
    """Reflect u at both ends of [0, 1]; clipping would accumulate settings at the ends."""
    u = abs(u) % 2
    return 2 - u if u > 1 else u
