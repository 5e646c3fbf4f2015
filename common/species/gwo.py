"""Grey wolves (GWO): the pack follows its three best. Mirjalili et al. 2014, eqs. 3.1-3.7, as EOA uses them."""

import numpy as np

from common.species.moves import Moment, Rules, best_first, coefficient, damp, distance


def move_wolves(
    rates: np.ndarray,
    fitness: np.ndarray,
    base: float,
    moment: Moment,
    rng: np.random.Generator,
    rules: Rules,
    world_rates: np.ndarray,
) -> np.ndarray:
    """Next learning rates of one wolf population.

        alpha' = b - d(A D(b, alpha))
        beta'  = mean of  g - d(A D(g, beta))   over the guides g in (b, alpha')
        delta' = mean of  g - d(A D(g, delta))  over (b, alpha', beta')
        omega' = mean of  g - d(A D(g, omega))  over (alpha', beta', delta')

    rates, fitness: shape (m,), m >= 1, one per worker; with fewer than four wolves the missing ranks are absent.
    base: b > 0. Each occurrence of A and D draws its own number, in the order of the equations, A before D.
    world_rates is not used by wolves. Communicates nothing: equal inputs and generator give equal output on every rank.

    Returns shape (m,), the absolute values of the primed rates, in the order of `rates`.
    """
    primed = np.empty(len(rates))
    leaders: list[float] = []  # alpha', beta', delta' as the others see them
    for place, wolf in enumerate(best_first(fitness, rates, rules.higher_rank_first)):
        guides = [base, *leaders] if place < 3 else leaders
        moved = [g - _step(g, rates[wolf], base, moment, rng, rules) for g in guides]
        primed[wolf] = sum(moved) / len(moved)
        if place < 3:
            leaders.append(abs(primed[wolf]) if rules.absolute_leaders and place > 0 else primed[wolf])
    return np.abs(primed)


def _step(guide: float, x: float, base: float, moment: Moment, rng: np.random.Generator, rules: Rules) -> float:
    """d(A D(guide, x))."""
    a = coefficient(moment, rng)
    return damp(a * distance(guide, x, rng, rules), base, moment, rules.damping)
