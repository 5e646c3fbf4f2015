"""Foraging: an ecosphere that finds its base rate from a start that is wrong by decades. Experimental, and ours.

Each population has one rate, spread around a centre c in log rate. Rounds are short at first. Fitness is minus the loss of
*smoothed* weights (`common.ecosphere.smoothing`), because within one round a lower rate always looks better. The centre moves
to rates of low loss:

    ln x_k  = c_t + sigma_t zeta_k,  zeta in [-1, 1],  sigma_t = max(narrowest, widest (1 - (t/R) / searching))
    c_{t+1} = sum_k w_k ln x_k,  w = softmax((f_k - f*) / (temperature |f*|))

In the last part of the run, the landing, all populations take exp(c), falling linearly to 0. Between rounds all workers take
the mean of weights and momentum over the populations nearly as good as the leader (`--exchange kin`). If every population
lost its weights, the last finite ones are restored and the centre falls to a decade below the lowest rate.

`SPECIFIED` is the rule as first written down: it searches until the landing. `IMPROVED` *scouts* first: trial rounds with rates
a decade to either side, each from the initial weights, until the better rate no longer lies on the same side. It searches for
only a fifth of its rounds, which are half as long, keeps the centre, and begins to land at two fifths of the steps. For the
reasons see docs/algorithms.md, "Foraging".
"""

import math
from dataclasses import dataclass

import numpy as np

from common.ecosphere.rates import RateRule
from common.ecosphere.species import SPECIES
from common.ecosphere.species.moves import Moment, Rules, View
from common.ecosphere.standings import Standings
from common.parallel.populations import PopulationSpec
from common.seeding import Purpose, stream


@dataclass(frozen=True)
class ForageSettings:
    """The constants of the rule.

    per_epoch: mean number of rounds per pass over the training images. scouting: maximum number of scouting rounds.
    widest, narrowest: initial sigma of the search and its floor, natural logarithms. searching: fraction of the rounds after
    which sigma would reach 0. temperature: of the softmax, relative to the leader's fitness. landing: final fraction of the
    steps, in which rates fall to 0. proposals: `species` (each population's species proposes zeta) or `spread` (evenly over
    [-1, 1], shuffled every round).
    """

    per_epoch: int
    scouting: int
    widest: float
    narrowest: float
    searching: float
    temperature: float
    landing: float
    proposals: str = "species"


SPECIFIED = ForageSettings(4, scouting=0, widest=1.2, narrowest=0.1, searching=1 / 2, temperature=0.02, landing=0.25)
IMPROVED = ForageSettings(8, scouting=8, widest=1.2, narrowest=0.0, searching=1 / 5, temperature=0.02, landing=0.6)
FORAGE_RULES = {"improved": IMPROVED, "specified": SPECIFIED}

SHORTEST = 6  # steps of the first round
TINY = 1e-12  # avoids a division by zero
DECADE = math.log(10.0)  # distance of scouts from the centre, and fall of the centre after all weights were lost


def round_lengths(steps: int, rounds: int) -> list[int]:
    """Steps of every round: growing linearly from SHORTEST, with the exact sum `steps` >= 1.

    Returns fewer than `rounds` rounds if there are not SHORTEST steps for each.
    """
    rounds = max(1, min(rounds, steps // SHORTEST))
    longest = max(SHORTEST, 2 * steps / rounds - SHORTEST)
    ends = np.cumsum(np.linspace(min(SHORTEST, steps / rounds), longest, rounds))
    return [int(n) for n in np.diff(np.round(ends * steps / ends[-1]).astype(int), prepend=0)]


def spread_at(t: int, rounds: int, settings: ForageSettings) -> float:
    """sigma_t = max(narrowest, widest (1 - (t/R) / searching)), t counted from the start of the search."""
    return max(settings.narrowest, settings.widest * (1 - t / rounds / settings.searching))


def weights_of(fitness: np.ndarray, temperature: float) -> np.ndarray:
    """w = softmax((f_k - f*) / (temperature |f*|)), shape (n,); populations with fitness -inf have weight 0."""
    best = fitness.max()
    scores = np.exp((fitness - best) / max(temperature * abs(best), TINY))
    return scores / scores.sum()


def scout(centre: float, zeta: np.ndarray, fitness: np.ndarray, heading: int) -> tuple[float, int, bool]:
    """Outcome of a scouting round: (the next centre, direction of its move, whether the decade is found).

    zeta: positions of the populations in decades from the centre, in [-1, 1], shape (n,). fitness: shape (n,), -inf where
    weights were lost. heading: previous direction of the centre, -1 down, 0 none yet, 1 up. The centre moves to the best rate.
    The decade is found if that rate lies between the others, or if the centre would turn back; it then moves half-way.
    """
    if not np.isfinite(fitness).any():
        return centre - 2 * DECADE, -1, False
    best = float(zeta[np.argmax(fitness)])
    side = int(np.sign(best))
    if abs(best) < 1:
        return centre + DECADE * best, side, True
    if side == -heading:
        return centre + DECADE * best / 2, side, True
    return centre + DECADE * best, side, False


class ForageRates(RateRule):
    """One rate per population around a moving centre. All ranks compute the same rates from the same standings.

    specs: the populations, in rank order. eta0: the initial centre, as a rate. lengths: steps of every round. With a single
    population the centre stays.
    """

    kept = ("centre", "zeta", "scouting", "heading", "search_began")

    def __init__(
        self, specs: list[PopulationSpec], eta0: float, lengths: list[int], seed: int, settings: ForageSettings = IMPROVED
    ) -> None:
        self.specs, self.lengths, self.seed, self.settings = specs, lengths, seed, settings
        self.centre = math.log(eta0)
        self.ends = np.cumsum([0, *lengths]) / sum(lengths)  # fraction of the steps done at the start of every round
        self.first_landing = int(np.searchsorted(self.ends[:-1], 1 - settings.landing))
        self.scouting = bool(settings.scouting) and len(specs) > 1
        self.heading = 0
        self.search_began = 0
        self.zeta = self._evenly(0)
        self.start = np.repeat(self._rates(0), [s.workers for s in specs])

    def next(self, t: int, standings: Standings, population: int) -> np.ndarray:
        """The population's rate for round t + 1, the same for all its workers."""
        sigma = self._sigma(t)
        if sigma > 0:
            fitness = standings.fitness[standings.champions]
            logs = np.log(standings.rates[standings.champions])
            self.zeta = self._proposals(t, (logs - self.centre) / sigma, fitness)
            self.centre = float(weights_of(fitness, self.settings.temperature) @ logs)
        return self._rates_of(t + 1, population)

    def is_trial(self, t: int) -> bool:
        """Whether round t is a scouting round."""
        return self.scouting and t < self.first_landing

    def rollback_rates(self, t: int, standings: Standings, population: int) -> np.ndarray:
        """Rates for round t + 1 after a rolled-back round.

        These are the rates of the next scouting round, the first ones of the search, or, if every population lost its weights,
        rates around a centre a decade below the lowest rate.
        """
        if self.is_trial(t):
            fitness = standings.fitness[standings.champions]
            self.centre, self.heading, found = scout(self.centre, np.array(self.zeta), fitness, self.heading)
            self.zeta = self._evenly(t + 1)
            self.scouting = not found and t + 1 < self.settings.scouting
            self.search_began = t + 1
        else:
            self.centre += self._sigma(t) * min(self.zeta) - DECADE
        return self._rates_of(t + 1, population)

    def at(self, rate: float, rounds_done: float) -> float:
        """The rate of the round; during the landing it falls linearly to 0, step by step."""
        t = min(int(rounds_done), len(self.lengths) - 1)
        if t < self.first_landing:
            return rate
        done = self.ends[t] + (rounds_done - t) * (self.ends[t + 1] - self.ends[t])
        return rate * (1 - done) / (1 - self.ends[t])

    def _sigma(self, t: int) -> float:
        """Half-width of round t in log rate: a decade while scouting, 0 during the landing."""
        if t >= self.first_landing:
            return 0.0
        if self.scouting:
            return DECADE
        return spread_at(t - self.search_began, len(self.lengths), self.settings)

    def _rates(self, t: int) -> np.ndarray:
        """exp(c + sigma_t zeta_k), shape (n,); during the landing times the fraction of it left at the round's start."""
        landing = self.first_landing <= t < len(self.lengths)
        left = (1 - self.ends[t]) / (1 - self.ends[self.first_landing]) if landing else 1.0
        return left * np.exp(self.centre + self._sigma(t) * np.array(self.zeta))

    def _rates_of(self, t: int, population: int) -> np.ndarray:
        return np.full(self.specs[population].workers, self._rates(t)[population])

    def _evenly(self, t: int) -> list[float]:
        """zeta evenly over [-1, 1], in an order drawn from (seed, t); 0 for a single population."""
        n = len(self.specs)
        return stream(self.seed, Purpose.MOVE, t).permutation(np.linspace(-1, 1, n)).tolist() if n > 1 else [0.0]

    def _proposals(self, t: int, places: np.ndarray, fitness: np.ndarray) -> list[float]:
        """zeta of the next round.

        Each population's species gets all populations as its pack, in units of sigma around the centre and with the leader as
        prey; only its proposal for this population is used. The n proposals are rescaled to fill [-1, 1], so that the search
        cannot collapse. Species have no memory here, because units and origin change.
        """
        if self.settings.proposals == "spread" or len(self.specs) == 1:
            return self._evenly(t + 1)
        base, moment, rules = float(places[np.argmax(fitness)]), Moment(t, len(self.lengths)), Rules("none", "log")
        proposed = np.empty(len(self.specs))
        for k, spec in enumerate(self.specs):
            view = View(places, fitness, base, moment, rules, places, {})
            moved, _ = SPECIES[spec.species].propose(view, stream(self.seed, Purpose.MOVE, t, k + 1))
            proposed[k] = moved[k]
        low, high = proposed.min(), proposed.max()
        return (2 * (proposed - low) / (high - low) - 1).tolist() if high > low else self._evenly(t + 1)
