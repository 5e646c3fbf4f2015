"""Foraging: an ecosphere that finds its base rate from a start that is wrong by decades. Experimental, and ours.

One rate per population, spread around a centre c in log rate; short rounds at first; fitness is minus the loss of *smoothed*
weights (`common.ecosphere.smoothing`), because a lower rate always looks better this very round; the centre moves to where the
loss was low:

    ln x_k  = c_t + sigma_t zeta_k,  zeta in [-1, 1],  sigma_t = max(narrowest, widest (1 - (t/R) / searching))
    c_{t+1} = sum_k w_k ln x_k,  w = softmax((f_k - f*) / (temperature |f*|))

In the last part of the run all populations take exp(c), falling linearly to 0. Between rounds everybody takes the mean of
weights and momentum over the populations that are nearly as good as the leader (`--exchange kin`). Where every population
lost its weights, the last finite ones are put back and the centre falls by a decade below the lowest rate.

`SPECIFIED` is the rule as first written down: the search goes on until the landing, and since even a fair fitness prefers low
rates over a short round, the centre sinks with every round. `IMPROVED` differs in three things. It *scouts* first: rounds of a
decade to either side, all from the first weights, which are put back after each, until the better rate no longer lies on the
same side; so a rate that is far too high spoils nothing, and one that is far too low costs a few rounds of six steps. It
searches for a fifth of the rounds only (a seventh of the steps), keeps what it found, and begins to land at two fifths of the
steps. Its rounds are half as long, because weights that meet more often learn more together.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from common.ecosphere.rates import RateRule
from common.ecosphere.species import SPECIES, Moment, Rules, View
from common.ecosphere.standings import Standings
from common.parallel.populations import PopulationSpec
from common.seeding import Purpose, stream


@dataclass(frozen=True)
class ForageSettings:
    """The constants of the rule.

    per_epoch: rounds to a pass over the training images, on average. scouting: rounds at most that look for the decade.
    widest, narrowest: sigma at the start of the search and its floor, natural logarithms. searching: share of the rounds after
    which sigma would reach 0. temperature: of the softmax, relative to the leader's fitness. landing: last share of the steps,
    in which rates fall to 0. proposals: `species` (each population's own one proposes zeta) or `spread` (evenly over [-1, 1],
    shuffled every round).
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
TINY = 1e-12  # keeps a quotient finite
DECADE = math.log(10.0)  # how far scouts look to either side, and the centre falls where everybody lost their weights


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
    """sigma_t = max(narrowest, widest (1 - (t/R) / searching)), t counted from the start of the search."""
    return max(settings.narrowest, settings.widest * (1 - t / rounds / settings.searching))


def weights_of(fitness: np.ndarray, temperature: float) -> np.ndarray:
    """w = softmax((f_k - f*) / (temperature |f*|)), shape (n,); populations with fitness -inf weigh nothing."""
    best = fitness.max()
    scores = np.exp((fitness - best) / max(temperature * abs(best), TINY))
    return scores / scores.sum()


def scout(centre: float, zeta: np.ndarray, fitness: np.ndarray, heading: int) -> tuple[float, int, bool]:
    """One look a decade to either side: (the next centre, where it went, whether the decade is found).

    zeta: where the populations were, in decades from the centre, [-1, 1], shape (n,). fitness: shape (n,), -inf where weights
    were lost. heading: where the centre went before, -1 down, 0 nowhere yet, 1 up. The centre goes to the best rate; the
    decade is found where that lies between the others, or on the way back: then between it and the centre.
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
    """One rate per population around a centre that moves. All ranks compute all of it, from the same standings.

    specs: the populations, in rank order. eta0: the first centre. lengths: steps of every round. A single population has
    nothing to compare: its centre stays.
    """

    def __init__(
        self, specs: list[PopulationSpec], eta0: float, lengths: list[int], seed: int, settings: ForageSettings = IMPROVED
    ) -> None:
        self.specs, self.lengths, self.seed, self.settings = specs, lengths, seed, settings
        self.centre = math.log(eta0)
        self.ends = np.cumsum([0, *lengths]) / sum(lengths)  # share of the steps that is done at the start of every round
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
        """Whether round t only scouts."""
        return self.scouting and t < self.first_landing

    def rollback_rates(self, t: int, standings: Standings, population: int) -> np.ndarray:
        """Rates for round t + 1 after one that was taken back: the next look of the scouts, the first rates of the search, or
        a decade below the lowest rate where every population lost its weights.
        """
        if self.is_trial(t):
            self._scout(t, standings.fitness[standings.champions])
        else:
            self.centre += self._sigma(t) * self.zeta.min() - DECADE
        return self._rates_of(t + 1, population)

    def _scout(self, t: int, fitness: np.ndarray) -> None:
        self.centre, self.heading, found = scout(self.centre, self.zeta, fitness, self.heading)
        self.zeta = self._evenly(t + 1)
        self.scouting = not found and t + 1 < self.settings.scouting
        self.search_began = t + 1

    def at(self, rate: float, rounds_done: float) -> float:
        """The rate of the round; in the last part of the run falling linearly to 0, step by step."""
        t = min(int(rounds_done), len(self.lengths) - 1)
        if t < self.first_landing:
            return rate
        done = self.ends[t] + (rounds_done - t) * (self.ends[t + 1] - self.ends[t])
        return rate * (1 - done) / (1 - self.ends[t])

    def state(self) -> dict[str, Any]:
        """Centre, proposals, and how far scouting got."""
        scouts = {"scouting": self.scouting, "heading": self.heading, "search_began": self.search_began}
        return {"centre": self.centre, "zeta": self.zeta.tolist(), **scouts}

    def load_state(self, state: dict[str, Any]) -> None:
        """Put back what `state` gave."""
        self.centre, self.zeta = state["centre"], np.array(state["zeta"])
        self.scouting, self.heading, self.search_began = state["scouting"], state["heading"], state["search_began"]

    def _sigma(self, t: int) -> float:
        """Half the width of round t in log rate: a decade for scouts, 0 once the rates are falling."""
        if t >= self.first_landing:
            return 0.0
        if self.scouting:
            return DECADE
        return spread_at(t - self.search_began, len(self.lengths), self.settings)

    def _rates(self, t: int) -> np.ndarray:
        """exp(c + sigma_t zeta_k), shape (n,); during the landing times the share of it that is left when the round begins."""
        landing = self.first_landing <= t < len(self.lengths)
        left = (1 - self.ends[t]) / (1 - self.ends[self.first_landing]) if landing else 1.0
        return left * np.exp(self.centre + self._sigma(t) * self.zeta)

    def _rates_of(self, t: int, population: int) -> np.ndarray:
        return np.full(self.specs[population].workers, self._rates(t)[population])

    def _evenly(self, t: int) -> np.ndarray:
        """Evenly over [-1, 1] in an order drawn by (seed, t); a single population stays at the centre."""
        n = len(self.specs)
        return stream(self.seed, Purpose.MOVE, t).permutation(np.linspace(-1, 1, n)) if n > 1 else np.zeros(1)

    def _proposals(self, t: int, places: np.ndarray, fitness: np.ndarray) -> np.ndarray:
        """zeta of the next round. Each population's species is shown all populations as its pack, in units of sigma around the
        centre with the leader as prey, and its own place among its proposals counts; then the n proposals are stretched to
        fill [-1, 1], so that a search never stops by agreement. Species remember nothing here: units and origin change.
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
        return 2 * (proposed - low) / (high - low) - 1 if high > low else self._evenly(t + 1)
