"""The schedules of an exchange, carried out in memory on any number of populations; `Sendrecv` itself is tested under MPI.

A simulated round hands every transfer the sender's theta as it was before the round, as `Sendrecv` does.
"""

from itertools import pairwise
from math import ceil, floor, log2

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.ecosphere.exchange import POLICIES, Exchange, contributions, schedule, slice_bounds
from common.ecosphere.standings import Standings
from common.errors import UsageError

EPS = float(np.finfo(np.float32).eps)
LENGTH = 5


@st.composite
def ecospheres(draw, dead=False, least=1):
    """Standings of n populations, some of them (never all) without a finite worker, and a theta for each."""
    n = draw(st.integers(least, 17))
    sizes = draw(st.lists(st.integers(1, 5), min_size=n, max_size=n))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    fitness = rng.choice([0.1, 0.5, 0.9], sum(sizes))
    lost = draw(st.sets(st.integers(0, n - 1), min_size=1, max_size=n - 1)) if dead else set()
    owner = np.repeat(np.arange(n), sizes)
    fitness[np.isin(owner, list(lost))] = -np.inf
    theta = (rng.standard_normal((n, LENGTH)) * 10 ** rng.uniform(-3, 3, (n, 1))).astype(np.float32)
    theta[list(lost)] = np.nan
    return Standings(fitness, rng.choice([0.1, 0.2], sum(sizes)), sizes), theta


def carry(plan, theta, c=0.5):
    """What `Sendrecv` would make of theta, shape (n, length) float32."""
    for transfers in plan:
        before = theta.copy()
        for t in transfers:
            received = before[t.source]
            if t.effect == "add":
                theta[t.target] = before[t.target] + received
            elif t.effect == "replace":
                theta[t.target] = received
            else:
                theta[t.target] = before[t.target] * np.float32(1 - c) + np.float32(c) * received
    return theta


def average(standings, theta, policy="average"):
    """`average` and `kin`: sizes go in as weights, a population without finite weights counts nothing."""
    weights = contributions(policy, standings)
    theta = np.where(np.array(standings.alive)[:, None], theta, np.float32(0)) * weights[:, None].astype(np.float32)
    return carry(schedule(policy, standings), theta) / np.float32(weights.sum())


@given(ecospheres(), st.sampled_from(POLICIES))
def test_in_a_round_nobody_sends_or_receives_twice(world, policy):
    standings, _ = world
    for transfers in schedule(policy, standings):
        assert transfers, "an empty round would cost a message for nothing"
        for ends in ([t.source for t in transfers], [t.target for t in transfers]):
            assert len(set(ends)) == len(ends)
            assert set(ends) <= set(range(len(standings.sizes)))
        assert all(t.source != t.target for t in transfers)


@given(ecospheres())
def test_average_is_the_size_weighted_mean_with_the_same_bits_everywhere_and_of_itself(world):
    standings, theta = world
    n, m = len(standings.sizes), np.array(standings.sizes, dtype=np.float64)[:, None]
    mean = (m * theta).sum(0) / m.sum()
    after = average(standings, theta)
    assert (after == after[0]).all()
    # Each of log2 n + 2 additions, one product and one quotient rounds by half a unit of at most the sum of magnitudes.
    tolerance = (log2(n) + 4) * EPS * (m * abs(theta.astype(np.float64))).sum(0) / m.sum()
    assert (abs(after[0] - mean) <= tolerance).all()
    # Equal inputs come back up to the roundings of m theta, of the sum and of the division.
    np.testing.assert_allclose(average(standings, after.copy()), after, rtol=1e-6, atol=0)
    assert len(schedule("average", standings)) == (log2(n) if n & (n - 1) == 0 else floor(log2(n)) + 2)


@given(st.integers(0, 4), st.integers(0, 3), st.integers(0, 99))
def test_averaging_equal_thetas_changes_no_bit_for_powers_of_two(log_n, log_m, seed):
    n, m = 2**log_n, 2**log_m
    standings = Standings(np.zeros(n * m), np.ones(n * m), [m] * n)
    theta = np.tile(np.random.default_rng(seed).standard_normal(LENGTH).astype(np.float32), (n, 1))
    np.testing.assert_array_equal(average(standings, theta.copy()), theta)


@pytest.mark.parametrize("policy", ["best", "migrate", "exploit", "none"])
@given(ecospheres(least=2))
def test_copies_are_of_the_very_bits_and_go_where_they_were_elected_to(policy, world):
    standings, theta = world
    n, best = len(standings.sizes), standings.best_population
    copies, rounds = {
        "best": (dict.fromkeys(range(n), best), ceil(log2(n))),
        "migrate": ({standings.worst_population: best}, 1),
        "exploit": (standings.copies, 1),
        "none": ({}, 0),
    }[policy]
    plan = schedule(policy, standings)
    assert len(plan) == rounds
    np.testing.assert_array_equal(carry(plan, theta.copy()), [theta[copies.get(k, k)] for k in range(n)])


@given(ecospheres(least=2), st.floats(0, 1))
def test_ring_blends_with_the_left_neighbour_and_keeps_the_mean_over_populations(world, c):
    standings, theta = world
    plan = schedule("ring", standings)
    assert len(plan) == 1
    before = theta.astype(np.float64)
    after = carry(plan, theta.copy(), c)
    left = np.roll(before, 1, axis=0)
    magnitude = abs(before) + abs(left)
    assert (abs(after - ((1 - c) * before + c * left)) <= 3 * EPS * magnitude).all()  # three roundings, and c's own
    assert (abs(after.mean(0, dtype=np.float64) - before.mean(0)) <= 3 * EPS * magnitude.mean(0)).all()
    if len(theta) == 2:
        same, other = carry(plan, theta.copy(), 0.5)  # the average, with the same bits on both sides
        np.testing.assert_array_equal(same, other)


@given(ecospheres(dead=True, least=2), st.sampled_from(POLICIES))
def test_a_population_without_finite_weights_is_rescued_and_spoils_nobody(world, policy):
    standings, theta = world
    best, alive = theta[standings.best_population].copy(), np.array(standings.alive)
    if policy in ("average", "kin"):
        after = average(standings, theta, policy)
        m = contributions(policy, standings).astype(np.float64)[:, None]
        assert (m[~alive] == 0).all()
        living = np.where(alive[:, None], theta, 0).astype(np.float64)
        np.testing.assert_allclose(after[0], (m * living).sum(0) / m.sum(), atol=8 * EPS * (m * abs(living)).sum(0).max())
        return
    before = theta.copy()
    after = carry(schedule(policy, standings), theta)
    assert np.isfinite(after).all()
    if policy in ("migrate", "exploit", "none"):
        np.testing.assert_array_equal(after[~alive], np.tile(best, (sum(~alive), 1)))
        np.testing.assert_array_equal(after[alive], before[alive])


# For n = 2, 3, 4, 5: n log2 n; with e populations beyond a power of two p, p log2 p + 2 e.
@pytest.mark.parametrize(
    ("policy", "transfers"),
    [
        ("average", [2, 4, 8, 10]),
        ("best", [1, 2, 3, 4]),
        ("migrate", [1, 1, 1, 1]),
        ("ring", [2, 3, 4, 5]),
        ("exploit", [1, 1, 1, 1]),
        ("none", [0, 0, 0, 0]),
    ],
)
def test_the_number_of_transfers(policy, transfers):
    for n, expected in zip([2, 3, 4, 5], transfers, strict=True):
        standings = Standings(np.linspace(0, 1, 2 * n), np.ones(2 * n), [2] * n)
        assert sum(map(len, schedule(policy, standings))) == expected


@given(ecospheres(), st.sampled_from(POLICIES), st.integers(0, 1000))
def test_the_slices_that_are_handed_over_add_up_to_every_transfers_numbers(world, policy, length):
    standings, _ = world
    plan, carriers = schedule(policy, standings), min(standings.sizes)
    handed = sum(stop - start for transfers in plan for _ in transfers for start, stop in slice_bounds(length, carriers))
    assert handed == length * sum(map(len, plan))


@given(st.integers(0, 10**9), st.integers(1, 64))
def test_slices_cover_a_buffer_exactly_and_nearly_equally(length, slices):
    bounds = slice_bounds(length, slices)
    assert len(bounds) == slices
    assert (bounds[0][0], bounds[-1][1]) == (0, length)
    assert all(stop == start for (_, stop), (start, _) in pairwise(bounds))
    parts = [stop - start for start, stop in bounds]
    assert max(parts) - min(parts) <= 1


@pytest.mark.parametrize("policy", POLICIES)
def test_one_population_has_nothing_to_exchange(policy):
    assert schedule(policy, Standings(np.array([0.1, 0.2]), np.ones(2), [2])) == []


def test_unknown_policies_are_refused():
    with pytest.raises(UsageError, match=r"gossip.*average, kin, best, migrate, ring, exploit, none"):
        Exchange("gossip")
