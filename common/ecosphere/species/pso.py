"""Particle swarm (PSO): velocities, pulled to own best position and base. Kennedy & Eberhart 1995, Clerc & Kennedy 2002."""

import numpy as np

from common.ecosphere.species.moves import Memory, View

INERTIA = 0.7298  # chi of Clerc & Kennedy's constriction at phi = 4.1
PULL = 1.49618  # chi * 2.05, towards the particle's best as towards the base


def propose_particles(view: View, rng: np.random.Generator) -> tuple[np.ndarray, Memory]:
    """The new places x' of the particles; memory: `velocity`, `best` and `best_fitness`, each of shape (m,).

        v' = chi v + chi c r_1 (best - x) + chi c r_2 (b - x),   x' = x + v',   r_1, r_2 ~ U(0, 1) per particle

    The base replaces the swarm's best. Initial velocities are uniform in [-width, width]. A particle's best is the position of
    its highest fitness so far; while training raises every fitness from round to round, that is mostly its current position,
    and only the base pulls.
    """
    m = len(view.x)
    memory = view.memory
    if not memory:
        memory = {"velocity": view.width * (2 * rng.random(m) - 1), "best": view.x, "best_fitness": view.fitness}
    better = view.fitness >= memory["best_fitness"]
    best = np.where(better, view.x, memory["best"])
    to_best, to_base = rng.random(m), rng.random(m)
    velocity = INERTIA * memory["velocity"] + PULL * (to_best * (best - view.x) + to_base * (view.base - view.x))
    best_fitness = np.maximum(view.fitness, memory["best_fitness"])
    return view.x + velocity, {"velocity": velocity, "best": best, "best_fitness": best_fitness}
