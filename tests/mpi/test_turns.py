"""The end of a round through the interface of the scripts: election, exchange and move, diverged workers included."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from worlds import LAYOUTS, RANK, SIZE, build, each_layout, each_split, everyones, fitness_of, needs_two, numbers, population_of

from common.ecosphere.end_of_round import Ecosphere, elect
from common.ecosphere.exchange import POLICIES, Exchange
from common.ecosphere.membership import Membership
from common.ecosphere.rates import EcosphereRates
from common.errors import Diverged
from common.optim.bases import OptimizerSettings
from common.optim.weight_optimizer import WeightOptimizer
from common.training.worker import reductions_of

ROUNDS = 12
LOST = float("nan")


def ecosphere(sizes, policy="average"):
    """A member of an ecosphere with a small model; eta0 0.1, and a population's gradient has 128 images per worker."""
    topology = build(sizes)
    rates = EcosphereRates(topology.specs, 0.1, ROUNDS, [128.0 * m for m in sizes], seed=5)
    torch.manual_seed(RANK)  # initial weights of each rank's own, until rank 0's are shared
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    return Membership(topology, module, rates, Exchange(policy))


def drift(member, t):
    """Weights after a round of training, different on every worker; returns those of all ranks, in float64."""
    member.model.state.detach().add_(numbers(len(member.model.state), t, RANK), alpha=0.1)
    return np.array(everyones(member.model.state), dtype=np.float64)


def optimizer_of(member, name):
    return WeightOptimizer(member.model, OptimizerSettings(name), reductions_of(member.topology))


@each_layout
def test_a_member_begins_with_rank_0s_weights_in_the_group_of_its_population_and_warms_up(sizes):
    member = ecosphere(sizes)
    torch.manual_seed(0)
    first = nn.Linear(3, 4).weight
    assert torch.equal(member.model.parameters[:12].detach().view(4, 3), first.detach())
    assert len(set(everyones(member.model.sha256()))) == 1
    assert member.topology.gradients.size == member.topology.spec.workers
    assert 0 < member.rate_at(0.0) <= max(0.1, member.rate)  # warm-up starts at eta0, or lower
    assert member.rate_at(1.0) == member.rate


@given(
    scores=st.lists(st.sampled_from([-np.inf, 0.0, 0.5, 1.0]), min_size=SIZE, max_size=SIZE),
    rates=st.lists(st.sampled_from([0.1, 0.2, 1 / 3]), min_size=SIZE, max_size=SIZE),
)
def test_all_ranks_elect_the_best_fitness_then_rate_then_lowest_rank(scores, rates):
    topology = build(LAYOUTS[0])
    standings = elect(topology.world, scores[RANK], rates[RANK], topology.sizes)
    assert standings.leader == max(range(SIZE), key=lambda i: (scores[i], rates[i], -i))
    assert standings.leader_rate == rates[standings.leader]  # float64 all the way: not rounded
    assert standings.best_population == population_of(topology.sizes)[standings.leader]
    seen = everyones((standings.fitness.tolist(), standings.rates.tolist(), standings.leader, standings.worst_population))
    assert all(s == seen[0] for s in seen)


@each_layout
@pytest.mark.parametrize("policy", POLICIES)
def test_every_rank_computes_the_rates_that_everybody_gets(sizes, policy):
    member = ecosphere(sizes, policy)
    history = [everyones(member.rate)]
    for t in range(4):
        drift(member, t)
        end = member.end_round(t, fitness_of(t)[RANK])
        assert end.finite
        np.testing.assert_array_equal(end.standings.rates, history[-1])
        np.testing.assert_array_equal(end.standings.fitness, fitness_of(t))
        computed_here = np.concatenate([member.rates.next(t, end.standings, k) for k in range(len(sizes))])
        history.append(everyones(member.rate))
        np.testing.assert_array_equal(computed_here, history[-1])
    if SIZE > 1:
        assert all(len(set(rates)) == SIZE for rates in history)  # no two workers alike
        assert all(len(set(of_worker)) == len(history) for of_worker in zip(*history, strict=True))  # nor two rounds
    home, hashes = population_of(sizes), everyones(member.model.sha256())
    together = 1 if policy in ("average", "kin", "best") else len(sizes)
    assert len(set(hashes)) <= together
    assert all(hashes[i] == hashes[j] for i in range(SIZE) for j in range(SIZE) if home[i] == home[j])


@needs_two
@each_layout
@pytest.mark.parametrize("what", ["weights", "fitness"])
def test_a_worker_lost_to_a_number_that_is_not_finite_takes_its_populations_weights(sizes, what):
    member = ecosphere(sizes)
    lost, fitness, states = SIZE - 1, 0.5, drift(member, 0)
    if lost == RANK and what == "weights":
        member.model.state.detach()[3] = LOST
    if lost == RANK and what == "fitness":
        fitness = LOST
    end = member.end_round(0, fitness)
    assert end.finite == (lost != RANK)
    assert end.standings.fitness.tolist() == [0.5] * lost + [-np.inf]
    theta = 0.0
    for k, m in enumerate(sizes):
        alive = [i for i, p in enumerate(population_of(sizes)) if p == k and i != lost]
        theta = theta + m * states[alive].mean(axis=0) if alive else theta
    weight = sum(m for k, m in enumerate(sizes) if sizes[k] > 1 or k != len(sizes) - 1)
    np.testing.assert_allclose(member.model.state.detach().numpy(), theta / weight, rtol=1e-6, atol=1e-6)
    assert member.rate > 0
    assert np.isfinite(member.rate)


@each_split
@pytest.mark.parametrize("policy", POLICIES)
def test_a_whole_population_that_is_lost_comes_back_with_the_others_weights(sizes, policy):
    member = ecosphere(sizes, policy)
    drift(member, 0)
    if member.topology.index == 0:
        member.model.state.detach().fill_(LOST)
    end = member.end_round(0, 0.25)
    assert end.standings.alive == [k > 0 for k in range(len(sizes))]
    assert all(everyones(member.model.is_finite()))
    if policy == "migrate":
        hashes = everyones(member.model.sha256())
        assert hashes[0] == hashes[end.standings.leader]
    drift(member, 1)
    assert all(everyones(member.end_round(1, 0.25).finite))


@each_layout
def test_when_nobody_is_finite_all_ranks_stop_with_the_last_finite_weights(sizes):
    member = ecosphere(sizes)
    drift(member, 0)
    member.end_round(0, 0.5)
    kept = member.model.state.detach().clone()
    member.model.state.detach().fill_(LOST)
    with pytest.raises(Diverged, match="no worker has finite weights after round 2"):
        member.end_round(1, 0.5)
    assert torch.equal(member.model.state.detach(), kept)
    assert len(set(everyones(member.model.sha256()))) == 1


@each_layout
def test_a_gradient_that_is_not_finite_stays_out_of_the_average(sizes):
    member = ecosphere(sizes)
    mine = [i for i, k in enumerate(population_of(sizes)) if k == member.topology.index]
    member.model.gradient.fill_(LOST if mine[-1] == RANK else RANK + 1.0)
    answer = member.average_gradient()
    assert answer == (len(mine) > 1)
    wanted = np.mean([i + 1.0 for i in mine[:-1]]) if len(mine) > 1 else 0.0
    np.testing.assert_allclose(member.model.gradient.numpy(), wanted, rtol=1e-6)


@each_layout
@pytest.mark.parametrize("name", ["sgd", "sam", "asam"])
def test_a_step_is_left_out_where_no_gradient_of_the_group_is_finite(sizes, name):
    member = ecosphere(sizes)
    optimizer, before = optimizer_of(member, name), member.model.state.detach().clone()
    first = member.topology.index == 0

    def closure():
        member.model.gradient.fill_(LOST if first else 1.0)
        return torch.zeros(2)

    optimizer.step(closure, 0.1)
    assert torch.equal(member.model.state.detach(), before) == first


@each_layout
@pytest.mark.parametrize("lost", [False, True])
def test_weights_buffers_and_carried_state_cross_populations_and_optimizer_state_stays(sizes, lost):
    """With another weight optimizer in every population."""
    member = ecosphere(sizes)
    optimizer = optimizer_of(member, ("sgd", "adamw", "sam+adamw", "asam")[member.topology.index % 4])

    def closure():
        member.model.gradient.copy_(numbers(len(member.model.parameters), 3, RANK))
        return torch.zeros(2)

    optimizer.step(closure, 0.01)
    before = {n: t.clone() for n, t in optimizer.state_tensors().items()}
    companion = numbers(11, 4, RANK)
    if lost and RANK == SIZE - 1:
        companion[2] = LOST  # finite weights count all the same: what is not finite in a companion is taken for 0
    companions = np.array(everyones(torch.nan_to_num(companion)), dtype=np.float64)
    member.ecosphere = Ecosphere(member.topology, member.model.state, member.rates, Exchange(), lambda: [companion])
    states = drift(member, 0)  # batch-norm buffers as well
    member.end_round(0, fitness_of(0)[RANK])
    np.testing.assert_allclose(member.model.state.detach().numpy(), states.mean(axis=0), rtol=1e-5, atol=2e-6)
    np.testing.assert_allclose(companion.numpy(), companions.mean(axis=0), rtol=1e-5, atol=2e-6)
    after = optimizer.state_tensors()
    assert before.keys() == after.keys()
    assert before
    assert all(torch.equal(before[n], after[n]) for n in before)


@each_layout
def test_shards_are_disjoint_equally_long_and_nearly_everything(sizes):
    member = ecosphere(sizes)
    shards = everyones(list(member.shard(101)))
    seen = [i for shard in shards for i in shard]
    assert {len(shard) for shard in shards} == {101 // SIZE}
    assert sorted(seen) == list(range(101 // SIZE * SIZE))
    assert member.share_of(64) == 64 // SIZE
    assert member.share_of(1) == 1
