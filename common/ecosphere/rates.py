"""Learning-rate rules. Pure; no MPI.

`EcosphereRates` is EOA (docs/algorithms.md), `ScheduledRates` an ordinary schedule on the same harness, `PopulationBasedRates`
population-based training. Each rule gives the starting rates, the rates of a population after a round, and the rate of a step.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Protocol

import numpy as np

from common.ecosphere.species import SPECIES
from common.ecosphere.species.moves import Moment, Rules, View, coordinates, rates_at
from common.ecosphere.standings import Standings
from common.parallel.populations import PopulationSpec
from common.seeding import Purpose, stream

BASE_RULES = ("best", "blend", "anneal")
REFERENCE_BATCH_SIZE = 128  # eta0 is quoted for this many images behind one gradient
LIMITS = (1e-3, 10.0)  # a rate stays within these multiples of its worker's starting rate
SPREAD = 3.0  # population-based training starts between eta0 over this and eta0 times this
EXPLORING = (0.8, 1.2)  # perturbation of a copied rate


class RateRule(Protocol):
    """Interface of a learning-rate rule.

    Attributes:
        start: starting rates of all workers, shape (N,), by world rank.
        eta0: rate at which the warm-up begins. warmup_rounds: its length.
        kept: names of the attributes that a checkpoint holds; their values are JSON-serialisable.
    """

    kept: ClassVar[tuple[str, ...]] = ()
    start: np.ndarray
    eta0: float = 0.0
    warmup_rounds: float = 0.0

    def next(self, t: int, standings: Standings, population: int) -> np.ndarray:
        """Rates of one population's workers for round t + 1, shape (m_k,)."""
        ...

    def at(self, rate: float, rounds_done: float) -> float:
        """The rate of one step, by default `rate`, the worker's rate of the round, after a warm-up.

        rounds_done = t + fraction of round t that is done.
        """
        return warmed_up(rate, self.eta0, rounds_done, self.warmup_rounds)

    def is_trial(self, t: int) -> bool:
        """Whether round t is a trial, after which all workers restore the weights before it; by default never."""
        return False

    def rollback_rates(self, t: int, standings: Standings, population: int) -> np.ndarray | None:
        """Rates for round t + 1 after a rolled-back round: a trial, or one after which no worker has finite weights.

        None (the default): the run ends.
        """
        return None

    def lineage(self, population: int) -> list[int] | None:
        """For every finished round, the population that this one's current weights came from.

        None (the default) if they come from several.
        """
        return None

    def state(self) -> dict[str, Any]:
        """State for a checkpoint."""
        return {name: getattr(self, name) for name in self.kept}

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore what `state` returned."""
        vars(self).update(state)


def base_rate(rule: str, leader_rate: float, eta0: float, k: float, moment: Moment) -> float:
    """The base (prey) rate b_t, t counted from 0.

    best: x*. blend: (x* + k eta0 (1 + cos(pi t/T))/2) / 2. anneal: x* (1 + cos(pi (t+1)/T)) / (1 + cos(pi t/T)), and 0 from
    t = T - 1 on. Raises ValueError for another name.
    """
    t, rounds = moment.t, moment.rounds
    match rule:
        case "best":
            return leader_rate
        case "blend":
            return (leader_rate + k * cosine(eta0, t / rounds)) / 2
        case "anneal":
            if t >= rounds - 1:
                return 0.0
            return leader_rate * (1 + math.cos(math.pi * (t + 1) / rounds)) / (1 + math.cos(math.pi * t / rounds))
    raise ValueError(f"unknown base rate rule '{rule}': choose from {', '.join(BASE_RULES)}")


def cosine(rate: float, progress: float) -> float:
    """Rate (1 + cos(pi progress)) / 2, progress in [0, 1]."""
    return rate * (1 + math.cos(math.pi * progress)) / 2


def stepped(progress: float) -> float:
    """Step decay: times 0.2 at 30, 60 and 80 % of the run, as Zagoruyko and Komodakis train Wide ResNets."""
    return 0.2 ** sum(progress >= mark for mark in (0.3, 0.6, 0.8))


def one_cycle(progress: float) -> float:
    """Half a cosine from 1/25 up to 1 at 30 % of the run, and another down to 1/250,000 (Smith, Topin 2019; torch's numbers).

    The momentum is constant.
    """
    first, last = 1 / 25, 1 / 25e4
    if progress < 0.3:
        return 1 - cosine(1 - first, progress / 0.3)
    return last + cosine(1 - last, (progress - 0.3) / 0.7)


# Schedules by name: rate / peak rate as a function of the completed fraction of the run.
SHAPES: dict[str, Callable[[float], float]] = {
    "constant": lambda progress: 1.0,
    "cosine": lambda progress: cosine(1.0, progress),
    "step": stepped,
    "onecycle": one_cycle,
}


def warmed_up(rate: float, eta0: float, rounds_done: float, warmup_rounds: float) -> float:
    """Linear warm-up: from eta0 (or the rate itself, if that is lower) to the rate over the first `warmup_rounds`."""
    if rounds_done >= warmup_rounds:
        return rate
    start = min(eta0, rate)
    return start + (rate - start) * rounds_done / warmup_rounds


@dataclass(frozen=True)
class EoaSettings:
    """Settings in which the published scripts differ; defaults are this project's."""

    base_rule: str = "blend"
    rules: Rules = field(default_factory=Rules)
    count_workers: bool = False  # k = number of workers, instead of images behind one gradient / reference_batch_size
    limited: bool = True  # keep rates within LIMITS
    warmup_epochs: float = 1.0
    reference_batch_size: int = REFERENCE_BATCH_SIZE


# The published scripts, by data set or model (docs/algorithms.md, "With --reference"); no script of ours trains ImageNet yet.
_REFERENCE = EoaSettings(count_workers=True, limited=False, warmup_epochs=0.0)
_MOVES = Rules(signed=False, higher_rank_first=True, world_prey=True)
REFERENCE = {
    "cifar10": replace(_REFERENCE, base_rule="best", rules=replace(_MOVES, damping="annealed")),
    "cifar100": replace(_REFERENCE, base_rule="blend", rules=Rules("relative", absolute_leaders=True, higher_rank_first=True)),
    "vit": replace(_REFERENCE, base_rule="best", rules=replace(_MOVES, damping="fixed")),
    "imagenet": EoaSettings(
        "anneal", replace(_MOVES, damping="scaled", fold_prey=True), limited=False, warmup_epochs=5.0, reference_batch_size=256
    ),
}


class EcosphereRates(RateRule):
    """EOA's learning rates: species move the rates of a population's workers around the elected base rate.

    specs: the populations, in rank order. images_per_gradient: per population, images behind one averaged gradient.
    rounds_per_epoch: rounds per pass over the training data (warm-up is counted in passes).
    """

    kept = ("memories",)

    def __init__(
        self,
        specs: list[PopulationSpec],
        eta0: float,
        rounds: int,
        images_per_gradient: list[float],
        seed: int,
        settings: EoaSettings | None = None,
        rounds_per_epoch: float = 1.0,
    ) -> None:
        self.specs, self.eta0, self.rounds, self.seed = specs, eta0, rounds, seed
        self.settings = settings or EoaSettings()
        self.workers = sum(s.workers for s in specs)
        self.k = [
            self.workers if self.settings.count_workers else n / self.settings.reference_batch_size for n in images_per_gradient
        ]
        self.warmup_rounds = self.settings.warmup_epochs * rounds_per_epoch
        self.bounds = np.cumsum([0, *(s.workers for s in specs)])
        self.start = np.concatenate([self._start(p) for p in range(len(specs))])
        self.memories: dict[str, dict[str, list]] = {}  # of the species, by population

    def _start(self, population: int) -> np.ndarray:
        """Starting rates x_i = scale_i eta0 (1 + 0.1 u_i); without noise in a world of one worker."""
        scale = SPECIES[self.specs[population].species].start_scale
        ranks = range(self.bounds[population], self.bounds[population + 1])
        if self.workers == 1:
            return np.array([scale(self.k[population], 1.0) * self.eta0])
        u, v = np.array([stream(self.seed, Purpose.START, 0, population, i).random(2) for i in ranks]).T
        scales = np.array([scale(self.k[population], draw) for draw in v])
        return scales * self.eta0 * (1 + 0.1 * u)

    def next(self, t: int, standings: Standings, population: int) -> np.ndarray:
        """Base rate and moves. Draws depend on (seed, t, population) only, so its workers agree without communication."""
        moment, rules = Moment(t, self.rounds), self.settings.rules
        base = base_rate(self.settings.base_rule, standings.leader_rate, self.eta0, self.k[population], moment)
        if self.workers == 1:
            return np.array([base])
        mine = slice(self.bounds[population], self.bounds[population + 1])
        if base == 0 and rules.space == "log":
            return np.zeros(self.specs[population].workers)
        world, prey = coordinates(standings.rates, rules.space), float(coordinates(np.array(base), rules.space))
        memory = {name: np.array(values) for name, values in self.memories.get(str(population), {}).items()}
        view = View(world[mine], standings.fitness[mine], prey, moment, rules, world, memory)
        propose = SPECIES[self.specs[population].species].propose
        x, memory = propose(view, stream(self.seed, Purpose.MOVE, t, population))
        self.memories[str(population)] = {name: array.tolist() for name, array in memory.items()}
        moved = rates_at(x, rules.space)
        if self.settings.limited:
            moved = np.clip(moved, LIMITS[0] * self.start[mine], LIMITS[1] * self.start[mine])
        return moved


class ScheduledRates(RateRule):
    """A plain schedule for every worker: `peak` times `shape(progress)`, with linear warm-up from eta0."""

    def __init__(
        self, shape: Callable[[float], float], peak: float, eta0: float, workers: int, rounds: int, warmup_rounds: float = 0.0
    ) -> None:
        self.shape, self.peak, self.eta0, self.rounds, self.warmup_rounds = shape, peak, eta0, rounds, warmup_rounds
        self.start = np.full(workers, peak * shape(0.0))

    def next(self, t: int, standings: Standings, population: int) -> np.ndarray:
        """The schedule at the start of round t + 1; the standings are not used (one population only)."""
        return np.full(len(self.start), self.peak * self.shape((t + 1) / self.rounds))

    def at(self, rate: float, rounds_done: float) -> float:
        """The schedule at this step; `rate`, its value at the start of the round, is not used."""
        return warmed_up(self.peak * self.shape(rounds_done / self.rounds), self.eta0, rounds_done, self.warmup_rounds)


class ReplayedRates(RateRule):
    """Rates read from a file, one per round, the same for every worker; with the ecosphere's warm-up."""

    def __init__(self, rates: list[float], eta0: float, workers: int, warmup_rounds: float = 0.0) -> None:
        self.rates, self.eta0, self.warmup_rounds = rates, eta0, warmup_rounds
        self.start = np.full(workers, rates[0])

    def next(self, t: int, standings: Standings, population: int) -> np.ndarray:
        """The file's rate of round t + 1; past its end, the last one."""
        return np.full(len(self.start), self.rates[min(t + 1, len(self.rates) - 1)])


class PopulationBasedRates(RateRule):
    """Population-based training (Jaderberg et al. 2017) of the learning rate, with truncation selection.

    Starting rates are log-uniform in [eta0 / 3, 3 eta0], one draw from each of n equal parts. A population keeps its rate until
    it copies another's weights (`Standings.copies`, run by `Exchange("exploit")`); it then takes that one's rate times 0.8 or
    1.2, clipped to LIMITS times eta0. All workers of a population have the same rate. A single population keeps eta0.
    """

    kept = ("parents",)

    def __init__(self, sizes: list[int], eta0: float, seed: int) -> None:
        self.sizes, self.eta0, self.seed, n = sizes, eta0, seed, len(sizes)
        draws = [stream(seed, Purpose.START, 0, p).random() for p in range(n)]
        rates = [eta0 * SPREAD ** (2 * (p + u) / n - 1) if n > 1 else eta0 for p, u in enumerate(draws)]
        self.start = np.repeat(rates, sizes)
        self.parents: list[list[int]] = []  # per round: for each population, the one its weights came from

    def next(self, t: int, standings: Standings, population: int) -> np.ndarray:
        """The population's own rate, or the copied one, perturbed by a draw from (seed, t, population)."""
        copies = standings.copies
        self.parents.append([copies.get(p, p) for p in range(len(self.sizes))])
        rate = float(standings.rates[standings.champions[self.parents[-1][population]]])
        if population in copies:
            factor = stream(self.seed, Purpose.MOVE, t, population).choice(EXPLORING)
            rate = float(np.clip(rate * factor, LIMITS[0] * self.eta0, LIMITS[1] * self.eta0))
        return np.full(self.sizes[population], rate)

    def lineage(self, population: int) -> list[int]:
        """The ancestors of a population, traced back from the last round; round 0 first."""
        line: list[int] = []
        for parents in reversed(self.parents):
            population = parents[population]
            line.append(population)
        return line[::-1]
