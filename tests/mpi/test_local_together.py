"""Local SGD, gathered gradients, independent workers and population-based copies, against one process or each other."""

import numpy as np
import pytest
import torch
from torch import nn
from worlds import (
    RANK,
    SIZE,
    build,
    closure_of,
    each_engine,
    each_split,
    everyones,
    fitness_of,
    needs_two,
    numbers,
    population_of,
)

from common.coupling.synchronous import GradientAccumulation, LocalSteps, SyncSchedule
from common.ecosphere.end_of_round import Ecosphere
from common.ecosphere.exchange import Exchange
from common.ecosphere.membership import Membership
from common.ecosphere.rates import PopulationBasedRates, ScheduledRates
from common.models.flat import share_model
from common.optim.bases import OptimizerSettings
from common.optim.weight_optimizer import WeightOptimizer
from common.training.worker import build_worker, reductions_of

STEPS, RATE, SEED = 12, 0.1, 5
each_momentum = pytest.mark.parametrize("momentum", [0.0, 0.9])


def data(t, rank):
    """Eight examples of worker `rank` at step t, and their labels."""
    return numbers(8 * 5, 1, t, rank).view(8, 5), torch.arange(8) % 3


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3))


def take_steps(optimizer, steps):
    """Steps of this rank on its own data."""
    for t in steps:
        optimizer.step(closure_of(optimizer.model, *data(t, RANK)), RATE)


def trained(couple=None, scope="worker", engine="mpi", momentum=0.0, steps=STEPS):
    """(weights, optimizer, topology) of this rank after so many steps; couple(x, group) gives its coupling."""
    topology = build([SIZE], scope, engine)
    model = share_model(network(), topology.world)
    settings = OptimizerSettings("sgd", momentum=momentum, weight_decay=0.01)
    topology.traffic.inside = topology.traffic.across = 0
    coupling = couple(model.parameters.data, topology.population) if couple else None
    optimizer = WeightOptimizer(model, settings, reductions_of(topology), coupling=coupling)
    take_steps(optimizer, range(steps))
    return model.parameters.detach(), optimizer, topology


def local(period, engine="mpi", momentum=0.0, outer=None, steps=STEPS, switch=0):
    """(weights, coupling, topology) of this rank after so many steps of local SGD."""
    due = SyncSchedule(period, steps, switch).due
    weights, optimizer, topology = trained(lambda x, group: LocalSteps(x, group, due, outer), "worker", engine, momentum, steps)
    return weights, optimizer.coupling, topology


def synchronous(momentum=0.0, steps=STEPS):
    """The weights after so many steps whose gradients are averaged over the world."""
    return trained(None, "world", momentum=momentum, steps=steps)[0]


class Plain:
    """A network and its optimizer as in one process: plain PyTorch."""

    def __init__(self):
        self.module = network()
        self.optimizer = torch.optim.SGD(self.module.parameters(), RATE, 0.9, weight_decay=0.01)

    def step(self, images, labels):
        self.optimizer.zero_grad()
        nn.functional.cross_entropy(self.module(images), labels).backward()
        self.optimizer.step()

    def weights(self):
        return nn.utils.parameters_to_vector(self.module.parameters()).detach()


@each_engine
@each_momentum
def test_averaging_weights_every_step_is_synchronous_sgd(engine, momentum):
    """Also with momentum per worker: the mean of the workers' velocities is the velocity of the mean gradient."""
    weights, coupled, _ = local(1, engine, momentum)
    torch.testing.assert_close(weights, synchronous(momentum), rtol=1e-5, atol=1e-6)  # sums in another order
    assert len(set(everyones(weights.numpy().tobytes()))) == 1
    assert torch.equal(coupled.centre, weights)


@pytest.mark.parametrize("period", [3, 5])
def test_local_sgd_is_what_one_process_computes_for_all_workers(period):
    weights, _, topology = local(period, momentum=0.9)
    workers = [Plain() for _ in range(SIZE)]
    for t in range(STEPS):
        for rank, worker in enumerate(workers):
            worker.step(*data(t, rank))
        if (t + 1) % period == 0 or t + 1 == STEPS:
            mean = torch.stack([worker.weights() for worker in workers]).mean(0)
            for worker in workers:
                nn.utils.vector_to_parameters(mean.clone(), worker.module.parameters())
    torch.testing.assert_close(weights, workers[RANK].weights(), rtol=1e-5, atol=1e-6)
    meetings = -(-STEPS // period)
    assert topology.traffic.inside == (4 * (len(weights) + 1) * meetings if SIZE > 1 else 0), "weights, and who is finite"


@each_momentum
def test_post_local_sgd_is_synchronous_before_the_switch_and_local_after_it(momentum):
    until, _, _ = local(5, momentum=momentum, steps=6, switch=6)
    torch.testing.assert_close(until, synchronous(momentum, 6), rtol=1e-5, atol=1e-6)
    _, coupled, topology = local(4, momentum=momentum, switch=6)
    sent = 6 + 2 if SIZE > 1 else 0  # after steps 9 and 11, of which the last is the run's last
    assert topology.traffic.inside == 4 * (len(coupled.centre) + 1) * sent


@each_engine
def test_diloco_at_rate_one_without_momentum_is_averaging(engine):
    plain, outer = local(4, engine)[0], local(4, engine, outer=(1.0, 0.0))[0]
    torch.testing.assert_close(outer, plain, rtol=1e-6, atol=1e-7)
    with_momentum, coupled, _ = local(4, engine, outer=(0.7, 0.9))
    assert float((with_momentum - plain).norm()) > 1e-3
    assert len(set(everyones(coupled.velocity.numpy().tobytes()))) == 1


@each_engine
@pytest.mark.parametrize("period", [1, 3, 5])
def test_gathered_gradients_are_those_of_one_process_with_all_the_batches(engine, period):
    due = SyncSchedule(period, STEPS).due
    weights, _, topology = trained(lambda x, group: GradientAccumulation(x, group, due), "worker", engine, 0.9)
    one = Plain()
    for first in range(0, STEPS, period):
        parts = [data(t, rank) for t in range(first, min(first + period, STEPS)) for rank in range(SIZE)]
        one.step(*(torch.cat(part) for part in zip(*parts, strict=True)))
    torch.testing.assert_close(weights, one.weights(), rtol=1e-5, atol=1e-6)
    assert topology.traffic.inside == (4 * (len(weights) + 1) * -(-STEPS // period) if SIZE > 1 else 0)


@needs_two
def test_a_worker_that_is_lost_comes_back_with_the_mean_of_the_others():
    due = SyncSchedule(2, STEPS).due
    x, optimizer, _ = trained(lambda x, group: LocalSteps(x, group, due), momentum=0.9, steps=1)
    if RANK == SIZE - 1:
        x.fill_(torch.nan)
        optimizer.momentum()[0].fill_(torch.inf)
    others = everyones(x)
    renew = optimizer.coupling.end(1, x, x)
    assert renew == (RANK == SIZE - 1)
    if renew:
        optimizer.forget()
    np.testing.assert_allclose(x, np.mean(others[:-1], axis=0), rtol=1e-5, atol=1e-6)
    take_steps(optimizer, range(2, STEPS))
    assert all(everyones(bool(torch.isfinite(x).all())))


def test_workers_apart_send_nothing_but_their_standings():
    topology = build([1] * SIZE, "worker")
    member = Membership(topology, network(), ScheduledRates(lambda p: 1.0, RATE, RATE, SIZE, 9), Exchange("none"))
    state = member.model.state
    topology.traffic.inside = topology.traffic.across = 0
    for t in range(3):
        state.detach().add_(numbers(len(state), 3, t, RANK), alpha=0.1)
        before = state.detach().clone()
        end = member.end_round(t, fitness_of(t)[RANK])
        assert torch.equal(state, before)
        assert end.standings.best_population == int(fitness_of(t).argmax())
    assert (topology.traffic.inside, topology.traffic.across) == (0, 0)


@each_split
def test_what_is_copied_is_weights_momentum_and_rate_together(sizes):
    """Everything a copier holds after a round is its source's, up to a factor of the rate; the others keep what they have."""
    topology = build(sizes)
    rates, module = PopulationBasedRates(sizes, RATE, SEED), nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    member = build_worker(topology, share_model(module, topology.world), rates, OptimizerSettings("sgd"))
    model, optimizer = member.model, member.optimizer
    ecosphere = Ecosphere(topology, model.state, rates, Exchange("exploit"), optimizer.momentum)
    home = population_of(sizes)
    starts, copied = np.cumsum([0, *sizes[:-1]]), 0
    for t in range(4):
        state, (momentum,) = model.state.detach(), optimizer.momentum()
        state.copy_(numbers(len(state), 4, t, home[RANK]))  # the workers of a population hold the same
        momentum.copy_(numbers(len(momentum), 5, t, home[RANK]))
        states, momenta, rates = everyones(state), everyones(momentum), everyones(member.rate)
        end = ecosphere.end_round(t, fitness_of(t)[RANK], member.rate)
        member.rate = end.rate
        optimizer.after_exchange(end.finite)
        copies = end.standings.copies
        assert len(copies) >= 1
        copied += len(copies)
        source = int(starts[copies.get(home[RANK], home[RANK])])
        np.testing.assert_allclose(state, states[source], rtol=1e-6)  # a merge of equal weights may round
        np.testing.assert_allclose(optimizer.momentum()[0], momenta[source], rtol=1e-6)
        if home[RANK] in copies:
            assert member.rate / rates[source] == pytest.approx(0.8) or member.rate / rates[source] == pytest.approx(1.2)
        else:
            assert member.rate == rates[RANK]
        assert everyones(member.rates.lineage(0)) == [member.rates.lineage(0)] * SIZE
    assert sum(everyones(topology.traffic.across)) == copied * 4 * (len(state) + len(momentum))
