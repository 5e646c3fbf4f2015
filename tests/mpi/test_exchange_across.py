"""Weights across populations, against a slow version with the weights of all ranks, in float64."""

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from worlds import LAYOUTS, RANK, SIZE, build, each_layout, everyones, numbers, population_of

from common.ecosphere.exchange import POLICIES, Exchange, schedule, slice_bounds
from common.ecosphere.standings import Standings

each_policy = pytest.mark.parametrize("policy", POLICIES)
SEEDS = st.integers(0, 2**31)
LOST = st.sampled_from(["none", "some", "a population"])
LENGTH = 42  # most numbers of slices do not divide it


def slow_exchange(policy, c, sizes, states, fitness, rates):
    """States of all ranks after the exchange, shape (N, length); a worker is finite if its fitness is above -inf."""
    home = population_of(sizes)
    place = [(fitness[i], rates[i], -i) for i in range(len(states))]  # the larger, the better
    champions = [max((i for i in range(len(states)) if home[i] == k), key=place.__getitem__) for k in range(len(sizes))]
    leader = max(champions, key=place.__getitem__)
    theta = []
    for k in range(len(sizes)):
        members = [i for i in range(len(states)) if home[i] == k and fitness[i] > -np.inf]
        theta.append(states[members].mean(axis=0) if members else None)
    alive = [k for k in range(len(sizes)) if theta[k] is not None]
    if policy == "best":
        theta = [states[leader]] * len(sizes)
    elif policy in ("average", "kin"):
        best = fitness[leader]
        near = [k for k in alive if policy == "average" or fitness[champions[k]] >= best - 0.05 * abs(best)]
        theta = [sum(sizes[k] * theta[k] for k in near) / sum(sizes[k] for k in near)] * len(sizes)
    else:
        before = [theta[home[leader]] if t is None else t for t in theta]
        theta = list(before)
        if policy == "ring" and len(sizes) > 1:
            theta = [(1 - c) * before[k] + c * before[k - 1] for k in range(len(sizes))]
        elif policy == "migrate" and len(alive) == len(sizes):
            theta[home[min(champions, key=place.__getitem__)]] = before[home[leader]]
        elif policy == "exploit" and len(alive) == len(sizes) > 1:
            order = [home[i] for i in sorted(champions, key=place.__getitem__, reverse=True)]
            for i in range(max(1, round(len(sizes) / 5))):
                theta[order[-1 - i]] = before[order[i]]
    return np.array([theta[k] for k in home])


def situation(sizes, seed, lost):
    """Fitness (with ties) and rates of all workers, the same on every rank. lost: no worker, some, or a population and some."""
    rng = np.random.default_rng([seed, 99])
    fitness = rng.integers(0, 4, SIZE) / 4.0
    rates = rng.choice([0.1, 0.2, 0.3], SIZE)
    gone = np.zeros(SIZE, dtype=bool)
    if lost != "none":
        gone = rng.random(SIZE) < 0.3
    if lost == "a population":
        gone |= np.array(population_of(sizes)) == rng.integers(len(sizes))
    if gone.all():
        gone[rng.integers(SIZE)] = False  # at least one worker stays
    return Standings(np.where(gone, -np.inf, fitness), rates, list(sizes)), bool(~gone[RANK])


def exchanged(policy, sizes, seed, lost="none", c=0.5, length=LENGTH):
    """Run one exchange of random weights: (topology, this rank's weights after it, those of all ranks before, standings)."""
    topology, mine = build(sizes), numbers(length, seed, RANK)
    standings, finite = situation(sizes, seed, lost)
    before = np.array(everyones(mine), dtype=np.float64)
    state = mine if finite else torch.full_like(mine, torch.nan)
    Exchange(policy, c).run(topology, state, standings, finite)
    return topology, state, before, standings


@each_policy
@each_layout
@example(seed=4, lost="none", c=0.5, length=1)  # shorter than the number of slices
@given(seed=SEEDS, lost=LOST, c=st.sampled_from([0.0, 0.25, 0.5, 1.0]), length=st.just(LENGTH))
def test_every_policy_does_what_the_slow_version_does(policy, sizes, seed, lost, c, length):
    _, state, before, standings = exchanged(policy, sizes, seed, lost, c, length)
    after = np.array(everyones(state))
    wanted = slow_exchange(policy, c, sizes, before, standings.fitness, standings.rates)
    if policy == "best":
        np.testing.assert_array_equal(after, wanted.astype(np.float32))  # the leader's own bits
    np.testing.assert_allclose(after, wanted, rtol=1e-6, atol=2e-6)  # float32 sums of numbers around 1, in another order
    home = population_of(sizes)
    bits = [a.tobytes() for a in after]
    assert all(bits[i] == bits[j] for i in range(SIZE) for j in range(SIZE) if home[i] == home[j])
    if policy in ("average", "kin", "best"):
        assert len(set(bits)) == 1


@each_policy
@each_layout
@settings(max_examples=5)
@given(seed=SEEDS, lost=LOST)
def test_bytes_counted_are_the_schedules(policy, sizes, seed, lost):
    topology, _, _, standings = exchanged(policy, sizes, seed, lost)
    plan, me = schedule(policy, standings), topology.population.rank
    sent = sum(t.source == topology.index for transfers in plan for t in transfers)
    bounds = slice_bounds(LENGTH, min(sizes))
    slice_bytes = 4 * (bounds[me][1] - bounds[me][0]) if me < len(bounds) else 0
    assert topology.traffic.across == sent * slice_bytes
    assert sum(everyones(topology.traffic.across)) == 4 * LENGTH * sum(map(len, plan))
    n = len(sizes)
    if policy == "average" and n & (n - 1) == 0:
        assert sent == n.bit_length() - 1  # log2 n

    inside = slice_bytes if plan else 0  # the last gathering
    if policy != "best":
        inside += 4 * (LENGTH + 1)  # the merge, with its flag
    elif standings.leader == RANK:
        inside += 4 * LENGTH  # the leader's broadcast
    assert topology.traffic.inside == (inside if topology.population.size > 1 else 0)


@each_layout
def test_an_average_keeps_the_mean_of_all_workers_and_twice_is_once(sizes):
    topology, state, before, standings = exchanged("average", sizes, seed=2)
    np.testing.assert_allclose(state.numpy(), before.mean(axis=0), rtol=1e-6, atol=2e-6)
    once = state.clone()
    Exchange("average").run(topology, state, standings, True)
    exact = len(set(sizes)) == 1 and SIZE & (SIZE - 1) == 0  # then all sums and quotients are by powers of two
    np.testing.assert_allclose(state.numpy(), once.numpy(), rtol=0 if exact else 1e-6)


@pytest.mark.skipif(SIZE % 2, reason="an odd number of ranks makes no two equal populations")
def test_a_half_ring_of_two_equal_populations_is_the_average():
    ring, average = (exchanged(policy, [SIZE // 2] * 2, seed=3)[1] for policy in ("ring", "average"))
    torch.testing.assert_close(ring, average, rtol=1e-6, atol=1e-6)


@given(seed=SEEDS, c=st.floats(0, 1))
def test_a_ring_of_equal_populations_keeps_the_mean_over_populations(seed, c):
    for sizes in (s for s in LAYOUTS if len(set(s)) == 1):
        _, state, before, _ = exchanged("ring", sizes, seed, c=c)
        after = np.mean(everyones(state), axis=0, dtype=np.float64)
        np.testing.assert_allclose(after, before.mean(axis=0), rtol=1e-6, atol=2e-6)
