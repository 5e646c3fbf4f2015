"""Cases of a move, played by EOA-SAM/eoa_simple.py: the oracle of test_species.py and test_rates.py.

It shares nothing with `common`: plain floats, and random numbers that are handed in as a list, in the order the docstrings of
`common.ecosphere.species` promise (wolves: in the order of the equations, A's number before D's; whales: p, l, r, A's, D's).
"""

import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path

_PATH = Path(__file__).parents[2] / "EOA-SAM" / "eoa_simple.py"
_spec = importlib.util.spec_from_file_location("eoa_simple", _PATH)
eoa_simple = importlib.util.module_from_spec(_spec)
sys.modules["eoa_simple"] = eoa_simple  # dataclasses look their module up
_spec.loader.exec_module(eoa_simple)


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

    def played(self):
        """(moment, rules, draw) as eoa_simple.py takes them."""
        names = ("damping", "signed", "absolute_leaders", "higher_rank_first", "world_prey", "fold_prey")
        rules = eoa_simple.Rules(**{name: getattr(self, name) for name in names})
        return eoa_simple.Moment(self.t, self.rounds, self.base), rules, Numbers(self.numbers).random


def slow_wolves(case):
    return eoa_simple.wolves(list(case.rates), list(case.fitness), *case.played())


def slow_whales(case):
    return eoa_simple.whales(list(case.rates), list(case.world_rates or case.rates), *case.played())


SLOW = {"gwo": slow_wolves, "woa": slow_whales}


def numbers_needed(species, m):
    """How many random numbers one move of m workers takes."""
    if species == "woa":
        return 5 * m
    return sum(2 * guides for guides in [1, 2, 3][:m]) + 6 * max(0, m - 3)
