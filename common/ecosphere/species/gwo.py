"""Grey wolves (GWO): the pack follows its three best. Mirjalili et al. 2014, eqs. 3.1-3.7, as EOA uses them."""

import numpy as np

from common.ecosphere.species.moves import Memory, View, best_first, coefficient, damp, distance


def propose_wolves(view: View, rng: np.random.Generator) -> tuple[np.ndarray, Memory]:
    """The new places of the wolves; no memory.

        alpha' = b - d(A D(b, alpha))
        beta'  = mean of  g - d(A D(g, beta))   over the guides g in (b, alpha')
        delta' = mean of  g - d(A D(g, delta))  over (b, alpha', beta')
        omega' = mean of  g - d(A D(g, omega))  over (alpha', beta', delta')

    With fewer than four wolves the missing ranks are absent. Each occurrence of A and D draws its own number, in the order of
    the equations, A before D.
    """
    rules = view.rules
    primed = np.empty(len(view.x))
    leaders: list[float] = []  # alpha', beta', delta' as guides of the others
    for place, wolf in enumerate(best_first(view.fitness, view.x, rules.higher_rank_first)):
        guides = [view.base, *leaders] if place < 3 else leaders
        moved = [g - _step(g, view.x[wolf], view, rng) for g in guides]
        primed[wolf] = sum(moved) / len(moved)
        if place < 3:
            made_positive = rules.absolute_leaders and rules.space == "linear" and place > 0
            leaders.append(abs(primed[wolf]) if made_positive else primed[wolf])
    return primed, {}


def _step(guide: float, x: float, view: View, rng: np.random.Generator) -> float:
    """d(A D(guide, x))."""
    a = coefficient(view.moment, rng)
    return damp(a * distance(guide, x, rng, view.rules), view.base, view.moment, view.rules.damping)
