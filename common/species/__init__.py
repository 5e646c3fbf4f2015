"""Population optimizers ("species"): pure functions from rates and fitness to the next rates. No MPI in here.

A new species is one file with a move function of the signature below and one line in `SPECIES`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from common.species.gwo import move_wolves
from common.species.moves import DAMPINGS, Moment, Rules, best_first
from common.species.woa import move_whales

Move = Callable[[np.ndarray, np.ndarray, float, Moment, np.random.Generator, Rules, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Species:
    """A population optimizer: how it moves, and where its workers start.

    start_scale: starting rate in units of eta0, from k = images behind one averaged gradient / 128.
    """

    move: Move
    start_scale: Callable[[float], float]


SPECIES = {
    "gwo": Species(move_wolves, start_scale=lambda k: k),  # linear scaling
    "woa": Species(move_whales, start_scale=np.sqrt),  # square-root scaling
}

__all__ = ["DAMPINGS", "SPECIES", "Moment", "Rules", "Species", "best_first"]
