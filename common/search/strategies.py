"""Search strategies: grid, random, and the reference project's evolution. Pure: the generator is an argument.

A strategy proposes trial i from the first `needs(i)` trials, which must have ended before. A proposal depends on nothing else,
so a search can stop anywhere, even within a generation, and resume with the same proposals, on any number of ranks. Random
numbers come from `generators(k)`, the generator of trial k, which starts with the same state on every call.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from itertools import islice
from typing import Protocol, TypeAlias

import numpy as np

from common.search.space import Key, Setting, Space, Value, Variable, key_of
from common.search.trial import Trial, best_first

LEAST_DEVIATION = 0.01  # of a mutation
GIVE_UP = 100  # attempts to find a new setting

Generators: TypeAlias = Callable[[int], np.random.Generator]


@dataclass(frozen=True)
class Proposal:
    """A setting, and the ids of the trials it was bred from."""

    setting: Setting
    parents: tuple[int, ...] = ()


@dataclass(frozen=True)
class Known:
    """Trials that a proposal may use.

    trials: all earlier trials, in order. bound: number of first trials that are known, all of which have ended; None for all
    that have ended. keys: of the settings of all `trials`, running ones included.
    """

    trials: Sequence[Trial]
    bound: int | None
    keys: AbstractSet[Key]

    def ended(self) -> list[Trial]:
        """The known trials, by id."""
        return [t for t in islice(self.trials, self.bound) if t.has_ended]


class Strategy(Protocol):
    """A search strategy. static: trials proposed together are divided evenly among the workers, and all end before the next
    proposal; otherwise each worker gets the next trial as soon as it is free.
    """

    static: bool = True

    def needs(self, i: int) -> int | None:
        """Number of first trials that must have ended before proposal i, which uses them; None for all that have ended."""
        return 0

    def propose(self, i: int, known: Known, generators: Generators) -> Iterable[Proposal]:
        """Trial i, or trials i, i + 1, ...; none if no settings are left."""
        ...


@dataclass(frozen=True)
class Grid(Strategy):
    """All points of a grid in random order; `size` values of each variable without its own `grid`."""

    space: Space
    size: int = 4

    def propose(self, i: int, known: Known, generators: Generators) -> Iterator[Proposal]:
        """The points not proposed yet, made as they are taken; those that differ only where nothing exists are duplicates."""
        points = generators(0).permutation(math.prod(self.space.grid_shape(self.size)))
        keys = set(known.keys)
        for setting in self.space.grid_points(points, self.size):
            if key_of(setting) not in keys:
                keys.add(key_of(setting))
                yield Proposal(setting)


@dataclass(frozen=True)
class Random(Strategy):
    """Independent settings; trial i has a generator of its own, so no two workers draw the same."""

    space: Space

    def propose(self, i: int, known: Known, generators: Generators) -> list[Proposal]:
        """One setting that was not proposed before."""
        return draw_new(self.space, known.keys, generators(i))


@dataclass(frozen=True)
class Evolution(Strategy):
    """The reference project's (mu + mu) evolution: mutation only, truncation, generations with a barrier.

    Means and deviations are of positions on each variable's scale, in units of its range; the reference's variables have a
    range of about one, so both agree there. mutation: p_m per gene.
    """

    space: Space
    population: int = 4
    mutation: float = 0.2

    def needs(self, i: int) -> int:
        """Number of trials in earlier generations."""
        return i // self.population * self.population

    def propose(self, i: int, known: Known, generators: Generators) -> list[Proposal]:
        """The rest of a generation. The first is random, later ones are children of the best so far (full elitism)."""
        first = self.needs(i)
        rng = generators(first)
        if first == 0:
            return self._filled({}, set(), rng)[i:]
        before = known.trials[:first]
        keys = {key_of(t.setting) for t in before}
        return self.children(best_first(list(before))[: self.population], keys, rng)[i - first :]

    def children(self, parents: list[Trial], keys: AbstractSet[Key], rng: np.random.Generator) -> list[Proposal]:
        """Mutate all parents until there are at least `population` new settings; returns a random sample of these.

        If mutation finds no new settings, random ones are added; fewer are returned if a finite space is exhausted.
        """
        deviations = mutation_deviations(self.space, [p.setting for p in parents])
        found: dict[Key, Proposal] = {}
        for _ in range(GIVE_UP):
            if len(found) >= self.population:
                break
            for parent in parents:
                child = mutate(self.space, parent.setting, deviations, self.mutation, rng)
                if key_of(child) not in keys:  # the parents are among them
                    found.setdefault(key_of(child), Proposal(child, (parent.id,)))
        candidates = self._filled(found, keys, rng)
        return [candidates[c] for c in rng.permutation(len(candidates))[: self.population]]

    def _filled(self, found: dict[Key, Proposal], keys: AbstractSet[Key], rng: np.random.Generator) -> list[Proposal]:
        """The proposals found so far, and random ones until there are `population`, if that many are left."""
        while len(found) < self.population and (new := draw_new(self.space, keys | found.keys(), rng)):
            found |= {key_of(proposal.setting): proposal for proposal in new}
        return list(found.values())


def mutation_deviations(space: Space, settings: Sequence[Setting]) -> dict[str, float]:
    """sigma = max(0.01, sqrt(std)) of each numeric variable, std (ddof 0) over the settings that have it.

    The square root of the standard deviation, not the deviation itself, is the reference's.
    """
    deviations = {}
    for variable in space.variables:
        if variable.is_numeric:
            units = [variable.to_unit(s[variable.name]) for s in settings if variable.name in s]
            deviations[variable.name] = max(LEAST_DEVIATION, math.sqrt(np.std(units))) if units else LEAST_DEVIATION
    return deviations


def mutate(
    space: Space, parent: Setting, deviations: dict[str, float], probability: float, rng: np.random.Generator
) -> Setting:
    """Each gene with the given probability: a number becomes Normal(x, sigma), clipped; a choice any of the choices.

    Variables that the child has and the parent lacks are drawn.
    """

    def gene(variable: Variable) -> Value:
        """One variable of the child."""
        if variable.name not in parent:
            return variable.draw(rng)
        value = parent[variable.name]
        if rng.random() >= probability:
            return value
        if not variable.is_numeric:
            return variable.draw(rng)
        return variable.from_unit(rng.normal(variable.to_unit(value), deviations[variable.name]))

    return space.build(gene)


def draw_new(space: Space, keys: AbstractSet[Key], rng: np.random.Generator) -> list[Proposal]:
    """A random setting not among `keys`; [] if a finite space is exhausted, or GIVE_UP draws found none in another."""
    for _ in range(GIVE_UP):
        setting = space.draw(rng)
        if key_of(setting) not in keys:
            return [Proposal(setting)]
    left = [s for s in space.every_setting() if key_of(s) not in keys]
    return [Proposal(left[rng.integers(len(left))])] if left else []
