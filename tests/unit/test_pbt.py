"""Population-based training: copies, perturbed rates, and the lineage of the final weights."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.ecosphere.exchange import schedule
from common.ecosphere.rates import PopulationBasedRates
from common.ecosphere.standings import Standings

ETA0 = 0.1


@st.composite
def standings(draw, least=1, lost=False):
    """Populations of one worker or a few; few values, so that ties are common."""
    sizes = draw(st.lists(st.integers(1, 3), min_size=least, max_size=16))
    fitness = draw(st.lists(st.sampled_from([0.1, 0.4, 0.5, 0.9]), min_size=sum(sizes), max_size=sum(sizes)))
    rates = draw(st.lists(st.sampled_from([0.1, 0.2, 0.3]), min_size=sum(sizes), max_size=sum(sizes)))
    fitness = np.array(fitness)
    if lost:
        gone = draw(st.sets(st.integers(0, len(sizes) - 1), min_size=1, max_size=len(sizes) - 1))
        fitness[np.isin(np.repeat(np.arange(len(sizes)), sizes), list(gone))] = -np.inf
    return Standings(fitness, np.array(rates), sizes)


def best_of(world, k):
    """(fitness, rate) of population k's best worker, and its number where both are equal: the larger tuple comes first."""
    start = sum(world.sizes[:k])
    return max((world.fitness[i], world.rates[i]) for i in range(start, start + world.sizes[k])), -k


@given(standings(least=2))
def test_the_worst_fifth_copies_the_best_fifth_in_turn(world):
    n = len(world.sizes)
    order = sorted(range(n), key=lambda k: best_of(world, k), reverse=True)
    count = {2: 1, 3: 1, 4: 1, 5: 1, 6: 1, 7: 1, 8: 2, 9: 2, 10: 2, 11: 2, 12: 2, 13: 3, 14: 3, 15: 3, 16: 3}[n]
    assert world.copies == dict(zip(order[::-1][:count], order[:count], strict=True))
    assert not set(world.copies) & set(world.copies.values())
    assert all(best_of(world, k) <= best_of(world, source) for k, source in world.copies.items())
    (transfers,) = schedule("exploit", world)  # all at once: no rank sends twice
    assert {(t.target, t.source) for t in transfers} == set(world.copies.items())
    assert {t.effect for t in transfers} == {"replace"}


@given(standings(least=2, lost=True))
def test_populations_that_are_lost_copy_the_leader_and_nobody_else_copies(world):
    lost = [k for k in range(len(world.sizes)) if not world.alive[k]]
    assert world.copies == dict.fromkeys(lost, world.best_population)
    assert [[(t.target, t.source) for t in r] for r in schedule("exploit", world)] == [[pair] for pair in world.copies.items()]
    assert schedule("none", world) == schedule("exploit", world)


def test_one_population_copies_nobody():
    assert Standings(np.array([0.5, 0.7]), np.array([0.1, 0.1]), [2]).copies == {}
    rates = PopulationBasedRates([2], ETA0, seed=3)
    assert rates.start.tolist() == [ETA0, ETA0]
    assert rates.next(0, Standings(np.array([0.5, 0.7]), rates.start, [2]), 0).tolist() == [ETA0, ETA0]


@given(st.lists(st.integers(1, 3), min_size=2, max_size=9), st.integers(0, 99))
def test_rates_start_in_equal_parts_of_a_decade_or_so(sizes, seed):
    start = PopulationBasedRates(sizes, ETA0, seed).start
    firsts = start[np.cumsum([0, *sizes[:-1]])]
    np.testing.assert_array_equal(start, np.repeat(firsts, sizes))
    place = (np.log(firsts / ETA0) / np.log(3) + 1) / 2 * len(sizes)
    assert (np.floor(place + 1e-9) == np.arange(len(sizes))).all()
    np.testing.assert_array_equal(start, PopulationBasedRates(sizes, ETA0, seed).start)
    assert not np.array_equal(start, PopulationBasedRates(sizes, ETA0, seed + 1).start)


@given(standings(least=2), st.integers(0, 20), st.integers(0, 99))
def test_who_copies_takes_the_rate_times_a_factor_and_the_others_keep_theirs(world, t, seed):
    rates = PopulationBasedRates(world.sizes, ETA0, seed)
    for k, size in enumerate(world.sizes):
        mine = world.rates[sum(world.sizes[:k]) : sum(world.sizes[: k + 1])]
        new = rates.next(t, world, k)
        assert new.shape == (size,)
        assert len(set(new)) == 1
        if k not in world.copies:
            assert new[0] in mine
            continue
        source = world.rates[world.champions[world.copies[k]]]
        assert new[0] == pytest.approx(0.8 * source) or new[0] == pytest.approx(1.2 * source)
        np.testing.assert_array_equal(new, PopulationBasedRates(world.sizes, ETA0, seed).next(t, world, k))


def test_both_factors_occur_and_rates_stay_within_their_limits():
    low, high = 1e-3 * ETA0, 10 * ETA0
    for extreme, other in ((low, 1.2), (high, 0.8)):
        world = Standings(np.array([0.9, 0.1]), np.array([extreme, ETA0]), [1, 1])
        rates = PopulationBasedRates([1, 1], ETA0, 0)
        drawn = sorted({float(rates.next(t, world, 1)[0]) for t in range(40)})
        assert drawn == pytest.approx(sorted([extreme, other * extreme]))


@given(st.lists(st.integers(1, 2), min_size=1, max_size=9), st.integers(1, 8), st.integers(0, 99))
def test_the_lineage_is_the_history_that_travelled_with_the_weights(sizes, rounds, seed):
    n, rng = len(sizes), np.random.default_rng(seed)
    rules = [PopulationBasedRates(sizes, ETA0, seed) for _ in range(n)]  # one on every population, as on ranks
    present, history = rules[0].start, [[] for _ in range(n)]
    by_round = []
    for t in range(rounds):
        world = Standings(rng.random(sum(sizes)), present, sizes)
        if n > 1 and rng.random() < 0.2:
            world.fitness[: sizes[0]] = -np.inf
        by_round.append(present[np.cumsum([0, *sizes[:-1]])])
        for k in range(n):
            history[k].append(by_round[-1][k])
        before = [list(h) for h in history]
        for target, source in world.copies.items():
            history[target] = list(before[source])
        present = np.concatenate([rules[k].next(t, world, k) for k in range(n)])
        if t == rounds // 2:  # a run that is resumed
            for k in range(n):
                kept = rules[k].state()
                rules[k] = PopulationBasedRates(sizes, ETA0, seed)
                rules[k].load_state(kept)
    for k in range(n):
        assert [rates[p] for p, rates in zip(rules[0].lineage(k), by_round, strict=True)] == history[k]
        assert all(rule.lineage(k) == rules[0].lineage(k) for rule in rules)
