"""Whales (WOA): encircle the prey, spiral towards it, or follow a random whale. Mirjalili & Lewis 2016, as EOA uses it."""

import math

import numpy as np

from common.ecosphere.species.moves import Memory, View, coefficient, damp, distance


def propose_whales(view: View, rng: np.random.Generator) -> tuple[np.ndarray, Memory]:
    """The new places x' of the whales; no memory.

        p >= 1/2             x' = b + d(D' e^l cos(2 pi l)),  D' = b - x        spiral
        p < 1/2, |A| < 1     x' = b - d(A D(b, x))                              encircle
        p < 1/2, |A| >= 1    x' = x_r - d(A D(x_r, x)), r a random whale        explore

    Fitness is not used: the prey b already is the leader's. Every whale draws five numbers whatever its branch: p, l, r, then
    A's and D's. l ~ U(0, 1), as in the reference scripts (the canonical algorithm has U(-1, 1)).
    """
    herd = view.world if view.rules.world_prey else view.x
    return np.array([_move_whale(x, herd, view, rng) for x in view.x]), {}


def _move_whale(x: float, herd: np.ndarray, view: View, rng: np.random.Generator) -> float:
    base, moment, rules = view.base, view.moment, view.rules
    p, l = rng.random(), rng.random()  # noqa: E741  (the paper's letter)
    r = int(len(view.x) * rng.random())
    a = coefficient(moment, rng)
    explores = abs(a) >= 1
    prey = herd[r] if explores else base
    step = damp(a * distance(prey, x, rng, rules), base, moment, rules.damping)
    if p < 0.5:
        return (_folded(prey, base) if explores and rules.fold_prey else prey) - step
    gap = base - x if rules.signed else abs(base - x)
    return base + damp(gap * math.exp(l) * math.cos(2 * math.pi * l), base, moment, rules.damping, spiral=True)


def _folded(x: float, base: float) -> float:
    """x / floor(x / b) where x / b > 2, else x: a prey brought near the base rate."""
    return x / math.floor(x / base) if x > 2 * base > 0 else x
