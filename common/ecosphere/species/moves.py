"""Common parts of all species: their view, exploration range, distance, damping, the reference scripts' rules.

Notation of the equations here and in `gwo`, `woa`: b base rate, x a worker's rate, t round of T, u and C uniform draws,

    a(t) = 2 - 2 t/T                    exploration range
    A = a(t) (2 u - 1), u ~ U(0, 1)     step coefficient, in [-a, a]
    D(X_p, X) = C X_p - X, C ~ U(0, 2)  distance to the prey, signed or absolute
    d(s), s = A D                       damping

Species move *coordinates*: in linear space the rates themselves; in log space ln(rate), where the origin of D lies one below
the prey (a rate e times smaller), which makes it scale-invariant (docs/algorithms.md, "Linear and log space"):

    D(X_p, X) = C * 1 - (1 + ln X - ln X_p) = (ln X_p - ln X) + (C - 1)
"""

import math
from dataclasses import dataclass

import numpy as np

SPACES = ("linear", "log")
DAMPINGS = ("none", "proportional", "relative", "annealed", "fixed", "scaled")
LOG_DAMPINGS = ("none", "proportional")  # the others are absolute sizes of rates, not of logarithms
LARGEST = 700.0  # largest logarithm of a rate
STRENGTH = 0.2  # lambda of the dampings `proportional` and `relative`


@dataclass(frozen=True)
class Rules:
    """Variants of the moves, in which the reference scripts differ; the defaults are this project's.

    Attributes:
        damping: name of d, see `damp`.
        signed: D keeps its sign; else its absolute value is used.
        absolute_leaders: the new beta and delta are made positive before other wolves follow them.
        higher_rank_first: wolves that are equal in fitness and rate are ordered by higher rank first.
        world_prey: an exploring whale r < m indexes the rates of all workers, not of its population.
        fold_prey: an exploring whale moves from x_r / floor(x_r / b) where x_r / b > 2; its D is taken from x_r itself.
        space: what coordinates are, `linear` (rates) or `log` (their logarithms).
    """

    damping: str = "proportional"
    space: str = "linear"
    signed: bool = True
    absolute_leaders: bool = False
    higher_rank_first: bool = False
    world_prey: bool = False
    fold_prey: bool = False


@dataclass(frozen=True)
class Moment:
    """Round t of T: 0 <= t < T during training; at the limit t = T the exploration range is 0."""

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


Memory = dict[str, np.ndarray]


@dataclass(frozen=True)
class View:
    """Input of a species after a round. Coordinates: rates, or their logarithms (`rules.space`).

    Attributes:
        x: shape (m,), m >= 1, coordinates of the population's workers in the round.
        fitness: shape (m,), larger is better; -inf for a worker without finite weights.
        base: coordinate of the base rate b.
        moment: the round.
        rules: variants of the moves.
        world: shape (N,), coordinates of all workers of all populations.
        memory: what the species returned after the previous round; empty after the first.
    """

    x: np.ndarray
    fitness: np.ndarray
    base: float
    moment: Moment
    rules: Rules
    world: np.ndarray
    memory: Memory

    @property
    def width(self) -> float:
        """Exploration length of species that need one: 1 (a factor e) in log space, b in linear space.

        A fifth of that unless damping is `none`.
        """
        length = 1.0 if self.rules.space == "log" else self.base
        return length if self.rules.damping == "none" else STRENGTH * length


def coordinates(rates: np.ndarray, space: str) -> np.ndarray:
    """Coordinates of positive rates, any shape."""
    return np.log(rates) if space == "log" else np.asarray(rates)


def rates_at(x: np.ndarray, space: str) -> np.ndarray:
    """Rates at coordinates, any shape; in linear space the absolute value, because a move may cross 0.

    Logarithms are clipped to the range of float64: an undamped whale spiral grows without limit.
    """
    return np.exp(np.clip(x, -LARGEST, LARGEST)) if space == "log" else np.abs(x)


def coefficient(moment: Moment, rng: np.random.Generator) -> float:
    """A = a(t) (2 u - 1); one draw."""
    return moment.exploration * (2 * rng.random() - 1)


def distance(prey: float, x: float, rng: np.random.Generator, rules: Rules) -> float:
    """D(X_p, X) = C X_p - X with C ~ U(0, 2), in log space (X_p - X) + (C - 1); or its absolute value. One draw."""
    c = 2 * rng.random()
    d = (prey - x) + (c - 1) if rules.space == "log" else c * prey - x
    return d if rules.signed else abs(d)


def damp(s: float, base: float, moment: Moment, damping: str, spiral: bool = False) -> float:
    """The damped step d(s).

    none: s. proportional: 0.2 s/4. relative: 0.2 b s/4. annealed: lambda(t) (s + 4)/8. fixed: 0.01 (s + 4)/8.
    scaled: 0.01 b (s + 4)/8. spiral: whether s is of the whales' spiral, which lies in another interval: (s + 1.67)/4.38
    replaces (s + 4)/8, and `scaled` is 0.01 b s. Raises ValueError for another name.
    """
    shift, span = (1.67, 4.38) if spiral else (4, 8)
    match damping:
        case "none":
            return s
        case "proportional":
            return STRENGTH * s / 4
        case "relative":
            return STRENGTH * base * s / 4
        case "annealed":
            return moment.annealing * (s + shift) / span
        case "fixed":
            return 0.01 * (s + shift) / span
        case "scaled":
            return 0.01 * base * s if spiral else 0.01 * base * (s + shift) / span
    raise ValueError(f"unknown damping '{damping}': choose from {', '.join(DAMPINGS)}")


def best_first(fitness: np.ndarray, rates: np.ndarray, higher_rank_first: bool = False) -> np.ndarray:
    """Indices by descending (fitness, rate); among equals the lower index first, or the higher one.

    fitness may hold -inf (a worker without finite weights), which comes last. Shapes (m,).
    """
    index = np.arange(len(rates))
    return np.lexsort((-index if higher_rank_first else index, -rates, -fitness))
