"""What the moves of all species have in common: exploration range, distance, damping, and the reference scripts' columns.

Notation of the equations here and in `gwo`, `woa`: b base rate, x a worker's rate, t round of T, u and C uniform draws,

    a(t) = 2 - 2 t/T                    exploration range
    A = a(t) (2 u - 1), u ~ U(0, 1)     step coefficient, in [-a, a]
    D(X_p, X) = C X_p - X, C ~ U(0, 2)  distance to the prey, signed or absolute
    d(s), s = A D                       damping
"""

import math
from dataclasses import dataclass

import numpy as np

DAMPINGS = ("none", "proportional", "relative", "annealed", "fixed", "scaled")
STRENGTH = 0.2  # lambda of the dampings `proportional` and `relative`


@dataclass(frozen=True)
class Rules:
    """Variants of the moves; the defaults are this project's, the fields exist because the reference scripts differ.

    Attributes:
        damping: name of d, see `damp`.
        signed: D keeps its sign; else its absolute value is used.
        absolute_leaders: the new beta and delta are made positive before other wolves follow them.
        higher_rank_first: wolves that are equal in fitness and rate are ordered by higher rank first.
        world_prey: an exploring whale r < m indexes the rates of all workers, not of its population.
        fold_prey: that random prey x_r is first divided by floor(x_r / b) where x_r / b > 2.
    """

    damping: str = "proportional"
    signed: bool = True
    absolute_leaders: bool = False
    higher_rank_first: bool = False
    world_prey: bool = False
    fold_prey: bool = False


@dataclass(frozen=True)
class Moment:
    """Round t of T: 0 <= t < T while training, t = T at the limit where nothing explores any more."""

    t: int
    rounds: int

    @property
    def exploration(self) -> float:
        """a(t) = 2 - 2 t/T."""
        return 2 - 2 * self.t / self.rounds

    @property
    def annealing(self) -> float:
        """Lambda = (1 + cos(pi (t+1)/T)) / 2, the strength of the damping `annealed`."""
        return (1 + math.cos(math.pi * (self.t + 1) / self.rounds)) / 2


def coefficient(moment: Moment, rng: np.random.Generator) -> float:
    """A = a(t) (2 u - 1); one draw."""
    return moment.exploration * (2 * rng.random() - 1)


def distance(prey: float, x: float, rng: np.random.Generator, rules: Rules) -> float:
    """D(X_p, X) = C X_p - X with C ~ U(0, 2), or its absolute value; one draw."""
    d = 2 * rng.random() * prey - x
    return d if rules.signed else abs(d)


def damp(s: float, base: float, moment: Moment, damping: str) -> float:
    """The damped step d(s).

    none: s. proportional: 0.2 s/4. relative: 0.2 b s/4. annealed: lambda(t) (s + 4)/8. fixed: 0.01 (s + 4)/8.
    scaled: 0.01 b (s + 4)/8. Raises ValueError for another name.
    """
    match damping:
        case "none":
            return s
        case "proportional":
            return STRENGTH * s / 4
        case "relative":
            return STRENGTH * base * s / 4
        case "annealed":
            return moment.annealing * (s + 4) / 8
        case "fixed":
            return 0.01 * (s + 4) / 8
        case "scaled":
            return 0.01 * base * (s + 4) / 8
    raise ValueError(f"unknown damping '{damping}': choose from {', '.join(DAMPINGS)}")


def damp_spiral(s: float, base: float, moment: Moment, damping: str) -> float:
    """d(s) for the whales' spiral, whose step lies in another interval: (s + 1.67)/4.38 where `damp` has (s + 4)/8.

    `scaled` is 0.01 b s here; none, proportional and relative are as in `damp`.
    """
    match damping:
        case "annealed":
            return moment.annealing * (s + 1.67) / 4.38
        case "fixed":
            return 0.01 * (s + 1.67) / 4.38
        case "scaled":
            return 0.01 * base * s
    return damp(s, base, moment, damping)


def best_first(fitness: np.ndarray, rates: np.ndarray, higher_rank_first: bool = False) -> np.ndarray:
    """Indices by descending (fitness, rate); among equals the lower index first, or the higher one.

    fitness may hold -inf (a worker without finite weights), which comes last. Shapes (m,).
    """
    index = np.arange(len(rates))
    return np.lexsort((-index if higher_rank_first else index, -rates, -fitness))
