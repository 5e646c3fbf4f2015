"""EOA's moves once more, from the specification's equations and slowly: the oracle of test_species.py and test_rates.py.

Nothing here is shared with `common`: plain floats, one line per equation, and random numbers that are handed in as a list, in
the order the docstrings of `common.ecosphere.species` promise (wolves: in the order of the equations, A's number before D's;
whales: p, l, r, A's, D's).
"""

from dataclasses import dataclass
from math import cos, e, floor, pi


class Numbers:
    """A stand-in for a generator: `random()` gives the listed numbers one by one."""

    def __init__(self, numbers):
        self.left = list(numbers)

    def random(self):
        return self.left.pop(0)


@dataclass
class Case:
    """One move: the state of a population, the moment, the variant of the rules, and the numbers to come."""

    rates: list
    fitness: list
    base: float
    t: int
    rounds: int
    numbers: list
    damping: str = "proportional"
    signed: bool = True
    absolute_leaders: bool = False
    higher_rank_first: bool = False
    world_prey: bool = False
    fold_prey: bool = False
    world_rates: list | None = None

    def __post_init__(self):
        self.numbers = list(self.numbers)

    def a_times_d(self, prey, x):
        """s = A D(prey, x), with its own u and C; returns (A, s)."""
        u, v = self.numbers.pop(0), self.numbers.pop(0)
        A, C = (2 - 2 * self.t / self.rounds) * (2 * u - 1), 2 * v
        D = C * prey - x
        return A, A * (D if self.signed else abs(D))

    def d(self, s):
        """The table of dampings."""
        annealed = (1 + cos(pi * (self.t + 1) / self.rounds)) / 2
        return {
            "none": s,
            "proportional": 0.2 * s / 4,
            "relative": s / 4 * self.base * 0.2,
            "annealed": (s + 4) / 8 * annealed,
            "fixed": (s + 4) / 8 * 0.01,
            "scaled": (s + 4) / 8 * 0.01 * self.base,
        }[self.damping]

    def d_spiral(self, s):
        """The same for the spiral's step, where the last three differ."""
        annealed = (1 + cos(pi * (self.t + 1) / self.rounds)) / 2
        special = {"annealed": (s + 1.67) / 4.38 * annealed, "fixed": (s + 1.67) / 4.38 * 0.01, "scaled": s * 0.01 * self.base}
        return special.get(self.damping, self.d(s))


def slow_wolves(case):
    """Alpha follows b; beta b and alpha'; delta b, alpha' and beta'; every omega alpha', beta' and delta'."""
    m, b, x = len(case.rates), case.base, case.rates
    order = sorted(range(m), key=lambda i: (-case.fitness[i], -x[i], -i if case.higher_rank_first else i))
    towards = lambda guide, wolf: guide - case.d(case.a_times_d(guide, x[wolf])[1])  # noqa: E731
    positive = abs if case.absolute_leaders else float
    new = [0.0] * m
    alpha_wolf = order[0]
    alpha = towards(b, alpha_wolf)
    new[alpha_wolf] = abs(alpha)
    if m > 1:
        beta_wolf = order[1]
        one, two = towards(b, beta_wolf), towards(alpha, beta_wolf)
        beta = positive((one + two) / 2)
        new[beta_wolf] = abs(beta)
    if m > 2:
        delta_wolf = order[2]
        one, two, three = towards(b, delta_wolf), towards(alpha, delta_wolf), towards(beta, delta_wolf)
        delta = positive((one + two + three) / 3)
        new[delta_wolf] = abs(delta)
    for omega_wolf in order[3:]:
        one, two, three = towards(alpha, omega_wolf), towards(beta, omega_wolf), towards(delta, omega_wolf)
        new[omega_wolf] = abs((one + two + three) / 3)
    return new


def slow_whales(case):
    """Spiral for p >= 1/2, else encircle for |A| < 1, else explore."""
    m, b = len(case.rates), case.base
    new = []
    for x in case.rates:
        p, l, r = (case.numbers.pop(0) for _ in range(3))  # noqa: E741
        A = (2 - 2 * case.t / case.rounds) * (2 * case.numbers[0] - 1)
        if p >= 0.5:
            case.numbers = case.numbers[2:]  # drawn by every whale whatever its branch
            D = b - x if case.signed else abs(b - x)
            moved = b + case.d_spiral(D * e**l * cos(2 * pi * l))
        elif abs(A) < 1:
            moved = b - case.d(case.a_times_d(b, x)[1])
        else:
            x_r = (case.world_rates if case.world_prey else case.rates)[floor(r * m)]
            step = case.d(case.a_times_d(x_r, x)[1])  # D from x_r itself; only then is x_r folded
            if case.fold_prey and b > 0 and x_r / b > 2:
                x_r = x_r / floor(x_r / b)
            moved = x_r - step
        new.append(abs(moved))
    return new


SLOW = {"gwo": slow_wolves, "woa": slow_whales}


def numbers_needed(species, m):
    """How many random numbers one move of m workers takes."""
    if species == "woa":
        return 5 * m
    return sum(2 * guides for guides in [1, 2, 3][:m]) + 6 * max(0, m - 3)
