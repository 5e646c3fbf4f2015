"""Election: fitness and rate of all workers on every rank, hence the same leader (docs/algorithms.md, elect)."""

import numpy as np

from common.ecosphere.standings import Standings
from common.parallel.comm import Group


def elect(world: Group, fitness: float, rate: float, sizes: list[int]) -> Standings:
    """All-gather fitness and rate, two floats per worker. Collective over the world.

    fitness: this worker's; -inf if and only if its weights are not finite.
    """
    table = world.gather_rows(np.array([fitness, rate]))
    return Standings(fitness=table[:, 0], rates=table[:, 1], sizes=sizes)
