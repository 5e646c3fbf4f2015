"""The election: leader, champions, worst population and the living, against a sort of plain tuples."""

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from common.ecosphere.end_of_round import elect
from common.ecosphere.standings import Standings


@st.composite
def worlds(draw):
    """Few values, so that ties and populations without a finite worker are common."""
    sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=6))
    N = sum(sizes)
    fitness = draw(st.lists(st.sampled_from([-np.inf, 0.0, 0.5, 0.9]), min_size=N, max_size=N))
    rates = draw(st.lists(st.sampled_from([0.1, 0.2, 0.4]), min_size=N, max_size=N))
    return Standings(np.array(fitness), np.array(rates), sizes)


def key(standings, rank):
    """The order of step 3: fitness, then rate, then the lower rank."""
    return standings.fitness[rank], standings.rates[rank], -rank


def members(standings):
    bounds = [sum(standings.sizes[:k]) for k in range(len(standings.sizes) + 1)]
    return [range(a, b) for a, b in pairwise(bounds)]


@given(worlds())
def test_the_leader_is_the_lexicographic_maximum_of_fitness_and_rate(standings):
    leader = max(range(len(standings.rates)), key=lambda i: key(standings, i))
    assert standings.leader == leader
    assert standings.leader_rate == standings.rates[leader]


@given(worlds())
def test_a_population_is_as_good_as_its_best_worker(standings):
    champions = [max(ranks, key=lambda i: key(standings, i)) for ranks in members(standings)]
    assert standings.champions == champions
    places = sorted(range(len(champions)), key=lambda k: key(standings, champions[k]), reverse=True)
    assert standings.best_population == places[0]
    assert standings.worst_population == places[-1]
    assert standings.leader in members(standings)[standings.best_population]


@given(worlds())
def test_a_population_is_alive_if_any_worker_is(standings):
    assert standings.alive == [any(standings.fitness[i] > -np.inf for i in ranks) for ranks in members(standings)]
    if any(standings.alive):
        assert standings.alive[standings.best_population]
        assert standings.fitness[standings.leader] > -np.inf
    if not all(standings.alive):
        assert not standings.alive[standings.worst_population]


def test_alone_one_elects_oneself_with_the_very_numbers(one):
    standings = elect(one, 1 / 3, 0.1, [1])
    assert (standings.leader, standings.leader_rate, standings.fitness[0]) == (0, 0.1, 1 / 3)
