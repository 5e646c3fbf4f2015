"""Foraging: an ecosphere that finds its base rate from a start that is wrong by decades. Experimental, and ours.

One rate per population, spread around a centre c in log rate; short rounds at first; fitness is minus the loss of *smoothed*
weights, because a lower rate always looks better this very round; the centre moves to where the loss was low:

    ln x_k  = c_t + sigma_t zeta_k,  zeta in [-1, 1],  sigma_t = max(0.1, 1.2 (1 - 2 t/R))
    c_{t+1} = sum_k w_k ln x_k,  w = softmax((f_k - f*) / T)

The temperature T is 0.02 |f*| as first specified; measured against the loss, what six steps differ in is next to nothing, and
the centre hardly moves. The improved rule measures it against the progress since the round before, T = max(0.3 (f* -
f*_before), 0.002 |f*|), and takes back a round in which lower rates did better and even the leader's loss grew by a
hundredth, the centre falling to the round's lowest rate: a network can be spoiled for good without a number that is not
finite. Where every population lost its weights, the last finite ones are put back and the centre falls by a decade below the
lowest rate.

In the last quarter of the run all populations take exp(c), falling linearly to 0. Between rounds everybody takes the mean of
weights and momentum over the populations that are nearly as good as the leader (`--exchange kin`).
"""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from common.comm import Group
from common.data import DataSet
from common.election import Standings
from common.flat import FlatModel
from common.loop import Judged, autocast, evaluate
from common.populations import PopulationSpec
from common.rates import RateRule, as_arrays, as_lists
from common.seeding import Purpose, stream
from common.species import SPECIES, Memory, Moment, Rules, View


@dataclass(frozen=True)
class ForageSettings:
    """The constants of the rule; defaults are the specification's.

    widest, narrowest: sigma at the start and its floor, natural logarithms. narrowing: share of the rounds after which sigma
    would reach 0. temperature: of the softmax, relative to the leader's fitness (`specified`). landing: last share of the
    steps, in which rates fall to 0. rule: `improved` or `specified`. proposals: `species` (each population's own one proposes
    zeta) or `spread` (evenly over [-1, 1], shuffled every round).
    """

    widest: float = 1.2
    narrowest: float = 0.1
    narrowing: float = 0.5
    temperature: float = 0.02
    landing: float = 0.25
    proposals: str = "species"
    rule: str = "improved"


SHORTEST = 6  # steps of the first round
PER_EPOCH = 4  # rounds to a pass over the training images, on average
SHARE, FLOOR = 0.3, 0.002  # temperature of the improved rule: share of the progress, and of the fitness
WORSE = 0.01  # a round that leaves even the leader's fitness worse by this share is taken back
TINY = 1e-12  # keeps a quotient finite
RETREAT = 10.0  # by this factor below the lowest rate where all populations lost their weights
SMOOTHING = 0.8  # of the weights that are judged, per step
CALIBRATION = 128  # training images over a population that batch-norm statistics of smoothed weights are taken from


def round_lengths(steps: int, rounds: int, shortest: int = SHORTEST) -> list[int]:
    """Steps of every round: from `shortest` on linearly longer, adding up to `steps` exactly.

    Fewer rounds than asked for where there are not `shortest` steps for each. Raises ValueError without a step.
    """
    if steps < 1:
        raise ValueError(f"{steps} steps make no round")
    rounds = max(1, min(rounds, steps // shortest))
    longest = max(shortest, 2 * steps / rounds - shortest)
    ends = np.cumsum(np.linspace(min(shortest, steps / rounds), longest, rounds))
    return [int(n) for n in np.diff(np.round(ends * steps / ends[-1]).astype(int), prepend=0)]


def spread_at(t: int, rounds: int, settings: ForageSettings) -> float:
    """sigma_t = max(narrowest, widest (1 - (t/R) / narrowing))."""
    return max(settings.narrowest, settings.widest * (1 - t / rounds / settings.narrowing))


def weights_of(fitness: np.ndarray, temperature: float) -> np.ndarray:
    """w = softmax((f_k - f*) / temperature), shape (n,); populations with fitness -inf weigh nothing."""
    scores = np.exp((fitness - fitness.max()) / temperature)
    return scores / scores.sum()


class ForageRates(RateRule):
    """One rate per population around a centre that moves. All ranks compute all of it, from the same standings.

    specs: the populations, in rank order. eta0: the first centre. lengths: steps of every round.
    """

    def __init__(
        self, specs: list[PopulationSpec], eta0: float, lengths: list[int], seed: int, settings: ForageSettings | None = None
    ) -> None:
        self.specs, self.lengths, self.seed, self.settings = specs, lengths, seed, settings or ForageSettings()
        self.centre = math.log(eta0)
        self.ends = np.cumsum([0, *lengths]) / sum(lengths)  # share of the steps that is done at the start of every round
        self.zeta = self._spread(0)
        self.before = -math.inf  # the leader's fitness of the last round that was kept; set it to that of the start
        self.memories: dict[int, Memory] = {}
        self.start = np.repeat(self._rates(0), [s.workers for s in specs])

    def next(self, t: int, standings: Standings, population: int) -> np.ndarray:
        """The population's rate for round t + 1, the same for all its workers."""
        if not self._landing(t + 1):
            fitness = standings.fitness[standings.champions]
            logs = np.log(standings.rates[standings.champions])
            self.zeta = self._proposals(t, logs, fitness)
            self.centre = float(weights_of(fitness, self._temperature(fitness.max())) @ logs)
        self.before = float(standings.fitness.max())
        rate = self._rates(t + 1)[population]
        return np.full(self.specs[population].workers, rate)

    def _temperature(self, best: float) -> float:
        """Of the softmax, in units of fitness; above 0."""
        if self.settings.rule == "specified" or not math.isfinite(self.before):
            return max(self.settings.temperature * abs(best), TINY)
        return max(SHARE * (best - self.before), FLOOR * abs(best), TINY)

    def spoiled(self, t: int, standings: Standings) -> bool:
        """Improved rule: whether the round left even the leader worse than the round before, and the lower rates did better.

        With a start that is too low there is no progress either, but then it is the higher rates that do better.
        """
        if self.settings.rule == "specified" or self._landing(t) or not math.isfinite(self.before):
            return False
        worse = standings.fitness.max() < self.before - WORSE * abs(self.before)
        return bool(worse and math.log(standings.leader_rate) < self.centre)

    def retreat(self, t: int, population: int, lost: bool) -> np.ndarray:
        """Everything was too high: the centre falls to the lowest rate of the round, where all were lost a decade below it."""
        self.centre = float(np.log(self._rates(t).min())) - (math.log(RETREAT) if lost else 0.0)
        return np.full(self.specs[population].workers, self._rates(t + 1)[population])

    def at(self, rate: float, rounds_done: float) -> float:
        """The rate of the round; in the last part of the run falling linearly to 0, step by step."""
        t = min(int(rounds_done), len(self.lengths) - 1)
        done = self.ends[t] + (rounds_done - t) * (self.ends[t + 1] - self.ends[t])
        if not self._landing(t):
            return rate
        began = self.ends[self._first_landing()]
        return rate * (1 - done) / (1 - began)

    def state(self) -> dict[str, Any]:
        """Centre, proposals, the fitness to beat and what the species remember."""
        zeta, memories = self.zeta.tolist(), as_lists(self.memories)
        return {"centre": self.centre, "zeta": zeta, "before": self.before, "memories": memories}

    def load_state(self, state: dict[str, Any]) -> None:
        """Put back what `state` gave."""
        self.centre, self.zeta, self.before = state["centre"], np.array(state["zeta"]), state["before"]
        self.memories = as_arrays(state["memories"])

    def _rates(self, t: int) -> np.ndarray:
        """exp(c + sigma_t zeta_k), shape (n,); exp(c) for everybody once the rates are falling."""
        sigma = 0.0 if self._landing(t) else spread_at(t, len(self.lengths), self.settings)
        return np.exp(self.centre + sigma * self.zeta)

    def _first_landing(self) -> int:
        return int(np.searchsorted(self.ends[:-1], 1 - self.settings.landing))

    def _landing(self, t: int) -> bool:
        return t >= self._first_landing()

    def _spread(self, t: int) -> np.ndarray:
        """Evenly over [-1, 1] in an order drawn by (seed, t); a single population stays at the centre."""
        n = len(self.specs)
        return stream(self.seed, Purpose.MOVE, t).permutation(np.linspace(-1, 1, n)) if n > 1 else np.zeros(1)

    def _proposals(self, t: int, logs: np.ndarray, fitness: np.ndarray) -> np.ndarray:
        """zeta of the next round. Each population's species is shown all populations as its pack, in units of sigma around the
        centre with the leader as prey, and its own place among its proposals counts; then the n proposals are stretched to
        fill [-1, 1], so that a search never stops by agreement.
        """
        if self.settings.proposals == "spread" or len(self.specs) == 1:
            return self._spread(t + 1)
        sigma = spread_at(t, len(self.lengths), self.settings)
        places = (logs - self.centre) / sigma
        base, moment, rules = float(places[np.argmax(fitness)]), Moment(t, len(self.lengths)), Rules("none", "log")
        proposed = np.empty(len(self.specs))
        for k, spec in enumerate(self.specs):
            view = View(places, fitness, base, moment, rules, places, self.memories.get(k, {}))
            moved, self.memories[k] = SPECIES[spec.species].propose(view, stream(self.seed, Purpose.MOVE, t, k + 1))
            proposed[k] = moved[k]
        low, high = proposed.min(), proposed.max()
        return 2 * (proposed - low) / (high - low) - 1 if high > low else self._spread(t + 1)


class Smoother:
    """Exponential average of the weights during a round, and its fitness.

    Call `restart` before a round and `add` after every step.
    """

    def __init__(self, model: FlatModel) -> None:
        self.model = model
        self.average = model.parameters.detach().clone()

    def restart(self) -> None:
        """Begin a round at the present weights."""
        self.average.copy_(self.model.parameters.detach())

    @torch.no_grad()
    def add(self) -> None:
        """average <- 0.8 average + 0.2 weights."""
        self.average.lerp_(self.model.parameters.detach(), 1 - SMOOTHING)

    def judge(self, data: DataSet, precision: str, population: Group) -> Judged:
        """Loss and accuracy of the smoothed weights on the fitness images, shared out among the population, whose workers
        hold the same ones. Batch-norm statistics are taken anew on a few training images and averaged over the population.
        Collective over the population; the model is left as it was.
        """
        began = time.perf_counter()
        model = self.model
        before = model.state.detach().clone()
        model.parameters.data.copy_(self.average)
        if any(True for _ in _batch_norms(model.module)):
            self._calibrate(data, precision, population)
        judged = evaluate(model.module, data.fitness, precision, population)
        model.state.detach().copy_(before)
        return Judged(judged.loss, judged.accuracy, time.perf_counter() - began, fitness=-judged.loss)

    @torch.no_grad()
    def _calibrate(self, data: DataSet, precision: str, population: Group) -> None:
        share = max(8, CALIBRATION // population.size)
        first = population.rank * share % max(1, len(data.train) - share)
        indices = torch.arange(first, first + min(share, len(data.train)), device=self.model.device)
        with _fresh_statistics(self.model.module), autocast(self.model.device, precision):
            self.model.module(data.train.augmenter.plain(indices))
        population.sum_(self.model.buffers, "statistics").div_(population.size)


def _batch_norms(module: nn.Module) -> Iterator[_BatchNorm]:
    return (m for m in module.modules() if isinstance(m, _BatchNorm))


@contextmanager
def _fresh_statistics(module: nn.Module) -> Iterator[None]:
    """Training mode in which running statistics become those of the one batch that is seen."""
    layers = list(_batch_norms(module))
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.momentum = 1.0
    module.train()
    try:
        yield
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
