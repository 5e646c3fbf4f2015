"""Line searches on many ranks: the steps of one process on the same samples, equal decisions on all ranks."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from test_training_together import PLAN, distance, network, shard
from torch import nn
from worlds import LAYOUTS, RANK, SIZE, WORLD, alone, build, each_engine, each_layout, everyones, needs_two, population_of

from common.ecosphere.rates import ScheduledRates
from common.evaluate import EvalResult
from common.models.flat import share_model
from common.optim import salsa
from common.optim.armijo import PAPER, PLAIN, RELEASED
from common.optim.bases import OptimizerSettings
from common.optim.salsa import Salsa
from common.optim.weight_optimizer import WeightOptimizer
from common.parallel.mpi import MPI
from common.training.loop import train_round
from common.training.round_ends import DataParallelEnd
from common.training.worker import build_worker, reductions_of

EVERY = replace(PAPER, interval=1)


def module():
    """Float64, the same weights everywhere."""
    torch.manual_seed(2)
    return nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 4)).double()


def samples(step, seed, n):
    rng = np.random.default_rng([seed, step])
    return torch.from_numpy(rng.standard_normal((n, 6))), torch.from_numpy(rng.integers(0, 4, n))


def closure_of(net, x, y, comm=None):
    """Summed losses and their number; the gradient of the global mean, reduced over a communicator."""

    def closure(backwards):
        losses = F.cross_entropy(net(x), y, reduction="sum")
        count = len(y)
        if backwards:
            losses.backward()
            total = comm.allreduce(count) if comm else count
            for p in net.parameters():
                p.grad = torch.zeros_like(p) if p.grad is None else p.grad
                if comm:
                    comm.Allreduce(MPI.IN_PLACE, p.grad.numpy())
                p.grad /= total
        return torch.stack([losses.detach(), torch.tensor(float(count), dtype=torch.float64)])

    return closure


def searched(net, rules, direction, batches, comm=None, gather=salsa.alone):
    """The state of the search after every step."""
    optimizer = Salsa(net.parameters(), rules, direction, gather=gather)
    states = []
    for x, y in batches:
        optimizer.zero_grad()
        optimizer.step(closure_of(net, x, y, comm))
        states.append(optimizer.search)
    return states


def line_search(net, rules=EVERY):
    """A line search that all ranks make together."""
    return Salsa(net.parameters(), rules, gather=build(LAYOUTS[0]).world.gather_rows, rank=RANK)


@pytest.mark.parametrize("rules", [PAPER, PLAIN, RELEASED])
@pytest.mark.parametrize("direction", ["adam", "sgd"])
@settings(max_examples=3)
@given(st.integers(0, 99), st.integers(0, 7))
def test_all_ranks_together_take_the_steps_of_one_process_on_the_same_samples(rules, direction, seed, more):
    """Shards of unequal size, one of them perhaps much larger; float64, no batch norm, no dropout."""
    sizes = [3 + (more if r == SIZE - 1 else r % 2) for r in range(SIZE)]
    first = sum(sizes[:RANK])
    whole = [samples(k, seed, sum(sizes)) for k in range(25)]
    mine = [(x[first : first + sizes[RANK]], y[first : first + sizes[RANK]]) for x, y in whole]
    one, together = module(), module()
    here = searched(one, rules, direction, whole)
    there = searched(together, rules, direction, mine, WORLD, build(LAYOUTS[0]).world.gather_rows)
    for ours, theirs in zip(there, here, strict=True):
        assert (ours.searches, ours.trials, ours.since) == (theirs.searches, theirs.trials, theirs.since)
        for name in ("eta", "h", "s", "fast", "slow"):
            assert getattr(ours, name) == pytest.approx(getattr(theirs, name), rel=1e-6, abs=1e-15)
    for p, q in zip(together.parameters(), one.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-9)
    assert len(set(everyones(there[-1]))) == 1, "not a bit differs between ranks"


@needs_two
def test_with_local_losses_ranks_would_take_different_steps():
    rules, mine = replace(PLAIN, eta0=10.0, interval=1), [samples(k, RANK, 5) for k in range(25)]
    states = searched(module(), rules, "sgd", mine, WORLD)  # the gradient is shared, the losses are not
    assert any(len(set(everyones(state.eta))) > 1 for state in states)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_on_one_rank_is_everybodys(bad):
    net = module()
    optimizer = line_search(net)
    x, y = samples(RANK, 0, 6)
    honest, calls = closure_of(net, x, y, WORLD), []

    def closure(backwards, spoilt):
        calls.append(backwards)
        report = honest(backwards)
        return torch.full_like(report, bad) if RANK == SIZE - 1 and len(calls) == spoilt else report

    before = [p.detach().clone() for p in net.parameters()]
    optimizer.step(lambda backwards: closure(backwards, spoilt=1))
    assert optimizer.search.skipped == 1
    assert all(torch.equal(p, b) for p, b in zip(net.parameters(), before, strict=True))
    calls.clear()
    optimizer.zero_grad()
    optimizer.step(lambda backwards: closure(backwards, spoilt=2))  # the first trial, which would have passed
    assert optimizer.last.at_trial
    assert optimizer.search.eta <= 0.8 * 1.1 * EVERY.eta0 * (1 + 1e-9)
    assert len(set(everyones(optimizer.search))) == 1


def test_ranks_with_unlike_threads_decide_alike():
    """Long sums in another order differ in their last digits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1 + RANK)
    try:
        net = nn.Sequential(nn.Linear(6, 16384), nn.Tanh(), nn.Linear(16384, 4)).double()
        for p in net.parameters():
            p.data.copy_(torch.from_numpy(WORLD.bcast(p.detach().numpy())))
        optimizer = line_search(net, replace(EVERY, beta3=0.9))
        for k in range(4):
            optimizer.zero_grad()
            optimizer.step(closure_of(net, *samples(k, RANK, 3), WORLD))
            assert len(set(everyones((optimizer.search, optimizer.last.slope)))) == 1
    finally:
        torch.set_num_threads(threads)


@needs_two
def test_ranks_that_no_longer_agree_are_found_out(monkeypatch):
    monkeypatch.setattr(salsa, "AGREEMENT", 4)
    net = module()
    optimizer = line_search(net, replace(PAPER, warmup_searches=1, interval=50))
    x, y = samples(RANK, 0, 6)
    for _ in range(3):
        optimizer.step(closure_of(net, x, y, WORLD))
    if RANK == 1:
        optimizer.search = replace(optimizer.search, h=optimizer.search.h * (1 + 1e-15) + 1e-300)
    with pytest.raises(RuntimeError, match="the ranks of a line search disagree: eta, h, s"):
        optimizer.step(closure_of(net, x, y, WORLD))


def member(topology, name="salsa", **options):
    rates = ScheduledRates(lambda progress: 1.0, 0.1, 0.1, topology.world.size, 3)
    settings = OptimizerSettings(name, weight_decay=0.0, adam_decay=0.0, **options)
    worker = build_worker(topology, share_model(network(), topology.world), rates, settings)
    return worker, worker.optimizer


def trained(topology, name, rounds=2):
    worker, optimizer = member(topology, name)
    end = DataParallelEnd(worker)
    for t in range(rounds):
        train_round(worker, shard(topology, t, PLAN.steps), seed=3, t=t, plan=PLAN)
        end.end_round(t, EvalResult(1.0, 0.5, 0.0, 0.5))
    return worker.model.state.detach(), optimizer


@each_engine
@pytest.mark.parametrize("name", ["salsa", "salsa-sgd"])
def test_on_the_harness_all_ranks_search_as_one_process_does(engine, name):
    here, one = trained(alone(), name)
    together, all_of_us = trained(build(LAYOUTS[0], "world", engine), name)
    assert len(set(everyones(all_of_us.salsa.search))) == 1
    assert len(set(everyones(together.numpy().tobytes()))) == 1
    # Float32 sums in another order do not change a decision here: steps on the grid 1.1^a 0.8^b would jump by a tenth.
    assert all_of_us.effective_lr(0.1) == pytest.approx(one.effective_lr(0.1), rel=1e-9)
    assert all_of_us.counts() == one.counts()
    # Adam divides gradients by their own size, which multiplies the rounding of small ones.
    assert distance(together, here) < (1e-3 if name == "salsa" else 1e-4)


@each_layout
def test_a_population_searches_by_itself_beside_others_that_do_not(sizes):
    topology = build(sizes)
    name = "salsa" if topology.index % 2 == 0 else "sgd"
    worker, optimizer = member(topology, name, momentum=0.0)
    measured = train_round(worker, shard(topology, 0, 6), seed=3, t=0, plan=replace(PLAN, steps=6))
    home, steps = population_of(sizes), everyones(optimizer.effective_lr(0.1))
    weights, tried = everyones(worker.model.state), everyones(measured.trials)
    for r in range(SIZE):
        assert np.array_equal(weights[r], weights[home.index(home[r])])
        assert steps[r] == steps[home.index(home[r])]
        assert (tried[r] > 0) == (home[r] % 2 == 0)


def test_on_the_harness_masks_differ_between_ranks_and_seeds_and_not_inside_a_step():
    def masks_with(seed):
        """The masks of all ranks in three steps."""
        topology, net = build(LAYOUTS[0], "world"), nn.Sequential(nn.Linear(5, 40), nn.Dropout(0.5), nn.Linear(40, 3))
        model, drawn, masks = share_model(net, topology.world), [], []
        net[1].register_forward_hook(lambda layer, args, out: drawn.append((out != 0).numpy().tobytes()))
        optimizer = WeightOptimizer(model, OptimizerSettings("salsa", search=EVERY, seed=seed), reductions_of(topology))

        def closure(backwards=True):
            if backwards:
                model.zero_gradient()
            losses = F.cross_entropy(net(torch.ones(4, 5)), torch.zeros(4, dtype=torch.int64), reduction="sum")
            if backwards:
                losses.backward()
            return torch.stack([losses.detach(), torch.tensor(0.0), torch.tensor(4.0)])

        for _ in range(3):
            drawn.clear()
            optimizer.step(closure, 0.1)
            assert len(drawn) == 1 + optimizer.salsa.last.trials > 1
            assert len(set(drawn)) == 1
            masks.append(everyones(drawn[0]))
            assert len(set(masks[-1])) == SIZE
        assert len(set(everyones(optimizer.salsa.search))) == 1
        return masks

    assert all(mask != other for mask, other in zip(masks_with(0), masks_with(1), strict=True))


def test_a_population_that_moves_its_workers_apart_moves_the_search_by_the_geometric_mean():
    topology = build(LAYOUTS[-1])
    _, optimizer = member(topology)
    optimizer.begin_round(0.1)
    size, mine = topology.population.size, topology.population.rank
    optimizer.begin_round(0.1 * 2.0**mine)
    lr = optimizer.salsa.param_groups[0]["lr"]
    assert lr == pytest.approx(PAPER.eta0 * 2 ** ((size - 1) / 2))
    assert len({(k, v) for k, v in zip(population_of(LAYOUTS[-1]), everyones(lr), strict=True)}) == len(LAYOUTS[-1])


def test_a_worker_that_lost_its_weights_makes_its_population_forget_together():
    topology = build(LAYOUTS[0])
    worker, optimizer = member(topology)
    train_round(worker, shard(topology, 0, 3), seed=3, t=0, plan=replace(PLAN, steps=3))
    assert optimizer.salsa.state
    optimizer.after_exchange(finite=True)
    assert optimizer.salsa.state
    optimizer.after_exchange(finite=topology.world.rank != 0)
    assert bool(optimizer.salsa.state) == (topology.index != 0)
    assert bool(optimizer.salsa.search.h) == (topology.index != 0)
