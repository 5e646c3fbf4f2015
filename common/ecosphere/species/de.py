"""Differential evolution (DE): steps are differences between other members. Storn & Price 1997, strategy current-to-best/1."""

import numpy as np

from common.ecosphere.species.moves import Memory, View

# The factor F is drawn for every proposal (dither; Price, Storn & Lampinen 2005, section 2.4). Values above 1 let a population
# that started too narrow widen: with 1/2 to 1 it contracts faster than it travels.
LEAST, MOST = 0.5, 1.25


def propose_trials(view: View, rng: np.random.Generator) -> tuple[np.ndarray, Memory]:
    """The new candidates x'; memory: `parents` and `parent_fitness`, each of shape (m,).

        parent_i = x_i where f_i >= the parent's fitness
        x'_i = parent_i + F_i (b - parent_i) + F_i (parent_q - parent_r),   F_i ~ U(1/2, 5/4), q != r, both != i

    The base replaces the best; with a single coordinate there is no crossover. A draw from U(-width, width) replaces the
    difference in the first generation, which has no history to take a scale from, and with fewer than four workers, where q
    and r are missing.
    """
    m = len(view.x)
    first = not view.memory
    parents, parent_fitness = (view.x, view.fitness) if first else (view.memory["parents"], view.memory["parent_fitness"])
    better = view.fitness >= parent_fitness
    parents = np.where(better, view.x, parents)
    factor = rng.uniform(LEAST, MOST, m)
    if first or m < 4:
        difference = view.width * (2 * rng.random(m) - 1)
    else:
        others = np.array([rng.permutation(np.delete(np.arange(m), i))[:2] for i in range(m)])
        difference = factor * (parents[others[:, 0]] - parents[others[:, 1]])
    memory = {"parents": parents, "parent_fitness": np.maximum(view.fitness, parent_fitness)}
    return parents + factor * (view.base - parents) + difference, memory
