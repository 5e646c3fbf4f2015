"""Whales (WOA): encircle the prey, spiral towards it, or follow a random whale. Mirjalili & Lewis 2016, as EOA uses it."""

import math

import numpy as np

from common.species.moves import Moment, Rules, coefficient, damp, damp_spiral, distance


def move_whales(
    rates: np.ndarray,
    fitness: np.ndarray,
    base: float,
    moment: Moment,
    rng: np.random.Generator,
    rules: Rules,
    world_rates: np.ndarray,
) -> np.ndarray:
    """Next learning rates of one whale population.

        p >= 1/2             x' = b + d(D' e^l cos(2 pi l)),  D' = b - x        spiral
        p < 1/2, |A| < 1     x' = b - d(A D(b, x))                              encircle
        p < 1/2, |A| >= 1    x' = x_r - d(A D(x_r, x)), r a random whale        explore

    rates, fitness: shape (m,), m >= 1; fitness is not used by whales (the prey b already is the leader's). base: b > 0.
    Every whale draws five numbers whatever its branch: p, l, r, then A's and D's. l ~ U(0, 1), as in the reference scripts
    (the canonical algorithm has U(-1, 1)). world_rates: shape (N,), used with `rules.world_prey`.
    Communicates nothing: equal inputs and generator give equal output on every rank.

    Returns shape (m,), the absolute values of x', in the order of `rates`.
    """
    herd = world_rates if rules.world_prey else rates
    return np.array([abs(_move_whale(x, len(rates), herd, base, moment, rng, rules)) for x in rates])


def _move_whale(
    x: float, whales: int, herd: np.ndarray, base: float, moment: Moment, rng: np.random.Generator, rules: Rules
) -> float:
    p, l = rng.random(), rng.random()  # noqa: E741  (the paper's letter)
    r = int(whales * rng.random())
    a = coefficient(moment, rng)
    prey = base if abs(a) < 1 else _random_prey(herd[r], base, rules)
    step = damp(a * distance(prey, x, rng, rules), base, moment, rules.damping)
    if p < 0.5:
        return prey - step
    gap = base - x if rules.signed else abs(base - x)
    return base + damp_spiral(gap * math.exp(l) * math.cos(2 * math.pi * l), base, moment, rules.damping)


def _random_prey(x: float, base: float, rules: Rules) -> float:
    """x_r, with `fold_prey` brought near the base rate."""
    return x / math.floor(x / base) if rules.fold_prey and x > 2 * base > 0 else x
