"""Population optimizers ("species"): pure functions from rates and fitness to the next rates. No MPI."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from common.ecosphere.species.cma import propose_samples
from common.ecosphere.species.controls import propose_at_random, propose_to_hold
from common.ecosphere.species.de import propose_trials
from common.ecosphere.species.gwo import propose_wolves
from common.ecosphere.species.moves import Memory, View
from common.ecosphere.species.pso import propose_particles
from common.ecosphere.species.woa import propose_whales


def between(k: float, u: float) -> float:
    """Log-uniformly between sqrt(k) and k for u ~ U(0, 1)."""
    return k ** ((1 + u) / 2)


@dataclass(frozen=True)
class Species:
    """A population optimizer: its move, and the starting rates of its workers.

    propose: next coordinates of one population of m >= 1 workers, shape (m,), in the order of `View.x`, and its memory. It does
    not communicate: equal views and generators give equal output on every rank. In linear space coordinates may be negative.
    start_scale: starting rate in units of eta0, from k = images behind one averaged gradient / 128 and a draw from U(0, 1).
    """

    propose: Callable[[View, np.random.Generator], tuple[np.ndarray, Memory]]
    start_scale: Callable[[float, float], float] = between


SPECIES = {
    "gwo": Species(propose_wolves, start_scale=lambda k, u: k),  # linear scaling
    "woa": Species(propose_whales, start_scale=lambda k, u: k**0.5),  # square-root scaling
    "pso": Species(propose_particles),
    "de": Species(propose_trials),
    "cmaes": Species(propose_samples),
    "hold": Species(propose_to_hold),
    "random": Species(propose_at_random),
}
