"""Local SGD, its outer step, and gradients that are gathered: against torch, against loops, and against one large batch."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small import batches, closure_of, perceptron, plain_step
from torch import nn
from torch.nn.utils import parameters_to_vector

from common.coupling.synchronous import GradientAccumulation, LocalSteps, SyncSchedule, outer_nesterov
from common.models.flat import FlatModel
from common.optim.bases import OptimizerSettings
from common.optim.weight_optimizer import WeightOptimizer
from common.training.worker import reductions_of

lengths, rates, momenta = st.integers(1, 20), st.floats(0.01, 2.0), st.floats(0.0, 0.99)


def draw(seed, *shape):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


class Workers:
    """A group in which `others` (shape (p - 1, n), NaN for a lost worker) are the other ranks, and never move."""

    def __init__(self, others):
        self.size, finite = len(others) + 1, torch.isfinite(others).all(1)
        self.share = torch.cat([others[finite].sum(0), finite.sum()[None]])
        self.calls = 0

    def sum_(self, buffer, name):
        self.calls += 1
        return buffer.add_(self.share)


@given(lengths, rates, momenta, st.integers(0, 99))
def test_the_outer_step_is_torchs_nesterov_on_the_pseudogradient_or_a_look_ahead_in_other_variables(n, nu, mu, seed):
    """y moves by a velocity that is a sum over all of the past; x is y looking ahead once more: x = y - nu mu V."""
    theirs = nn.Parameter(draw(seed + 1, n))
    reference = torch.optim.SGD([theirs], nu, mu, nesterov=mu > 0)
    x, v = theirs.detach().clone(), torch.zeros(n, dtype=torch.float64)
    y, past = x, []
    for mean in draw(seed, 6, n):
        past.append(x - mean)
        velocity = sum(mu ** (len(past) - 1 - k) * d for k, d in enumerate(past))
        y = y - nu * velocity
        theirs.grad = theirs.detach() - mean
        reference.step()
        before = x.clone(), v.clone()
        new = outer_nesterov(x, mean, v, nu, mu)
        assert torch.equal(x, before[0])
        assert torch.equal(v, before[1])
        x, v = new
        torch.testing.assert_close(x, y - nu * mu * velocity, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(x, theirs.detach())


@given(st.integers(1, 9), st.integers(1, 60), st.integers(0, 70))
def test_workers_meet_every_step_then_every_period_and_at_the_end(period, steps, switch):
    rhythm = SyncSchedule(period, steps, switch)
    met = [t for t in range(steps) if rhythm.due(t)]
    expected, since = [], 0  # a counter instead of a formula
    for t in range(steps):
        since += 1
        if t < switch or since == period or t == steps - 1:
            expected.append(t)
            since = 0
    assert met == expected
    if switch == 0:
        assert len(met) == -(-steps // period)
    if switch >= steps:
        assert met == list(range(steps))


def local_steps(x, others, due=lambda t: True, **options):
    group = Workers(others)
    return group, LocalSteps(x, group, due, **options)


@given(lengths, st.integers(0, 4), st.integers(0, 99))
def test_a_meeting_gives_everybody_the_mean_and_between_two_nothing_is_said(n, others, seed):
    x, theirs = draw(seed, n), draw(seed + 1, others, n)
    expected = torch.cat([x[None], theirs]).mean(0)
    group, local = local_steps(x, theirs, SyncSchedule(2, 5).due)
    before = x.clone()
    local.end(0, x, x)
    assert torch.equal(x, before)
    assert group.calls == 0
    local.end(1, x, x)
    torch.testing.assert_close(x, expected)
    assert torch.equal(local.centre, x)
    assert local.tensors().keys() == {"centre"}


@given(lengths, rates, momenta, st.integers(0, 99))
def test_diloco_moves_everybody_by_the_outer_step(n, nu, mu, seed):
    weights, theirs = draw(seed, n), draw(seed + 1, 2, n)
    x, v = weights.clone(), torch.zeros(n, dtype=torch.float64)
    _, local = local_steps(weights, theirs, outer=(nu, mu))
    for t in range(4):
        weights += draw(seed + 10 + t, n)  # the worker's own steps
        d = x - torch.cat([weights[None], theirs]).mean(0)
        v = mu * v + d
        x = x - nu * d - nu * mu * v
        local.end(t, weights, weights)
        torch.testing.assert_close(weights, x)


def test_a_worker_that_is_lost_takes_the_others_mean_and_forgets_its_momentum():
    x, theirs = draw(0, 5), draw(1, 3, 5)
    theirs[1, 2] = torch.nan
    _, local = local_steps(x, theirs)
    assert not local.end(0, x, x), "the momentum stays"
    torch.testing.assert_close(local.centre, (draw(0, 5) + theirs[[0, 2]].sum(0)) / 3)
    x[4] = torch.inf
    assert local.end(1, x, x), "the momentum begins anew"
    torch.testing.assert_close(x, theirs[[0, 2]].mean(0))


def test_where_everybody_is_lost_the_last_meeting_stays_what_it_was():
    x, theirs = draw(0, 4), torch.full((2, 4), torch.nan, dtype=torch.float64)
    _, local = local_steps(x, theirs, outer=(0.7, 0.9))
    x.fill_(torch.nan)
    local.end(0, x, x)
    assert torch.equal(local.centre, draw(0, 4))
    assert not local.velocity.any()


@pytest.mark.parametrize("outer", [None, (0.7, 0.9)])
def test_what_a_checkpoint_keeps_of_local_steps_goes_on_bit_for_bit(outer):
    def play(local, x, times):
        for t in times:
            x += draw(20 + t, 4)
            local.end(t, x, x)

    due, theirs, x = SyncSchedule(2, 9).due, draw(1, 2, 4), draw(0, 4)
    _, local = local_steps(x, theirs, due, outer=outer)
    play(local, x, range(5))
    again = x.clone()
    _, other = local_steps(torch.zeros(4, dtype=torch.float64), theirs, due, outer=outer)
    for name, value in local.tensors().items():
        other.tensors()[name].copy_(value)
    play(local, x, range(5, 9))
    play(other, again, range(5, 9))
    assert torch.equal(x, again)


def gathering_optimizer(alone, module, period, steps):
    model = FlatModel(module)
    gathered = GradientAccumulation(model.parameters.data, alone.population, SyncSchedule(period, steps).due)
    settings = OptimizerSettings("sgd", momentum=0.9, weight_decay=0.05)
    return model, WeightOptimizer(model, settings, reductions_of(alone), coupling=gathered)


def plain_sgd():
    """The same network in plain PyTorch, and its optimizer."""
    plain = perceptron()
    return plain, torch.optim.SGD(plain.parameters(), 0.2, 0.9, weight_decay=0.05)


@pytest.mark.parametrize("spoilt", [None, 1])
@given(period=st.integers(1, 5), steps=st.integers(2, 11))
def test_gathered_gradients_are_those_of_one_large_batch(alone, spoilt, period, steps):
    """Remaining gradients at the end make a step of their own; non-finite gradients are not counted."""
    model, optimizer = gathering_optimizer(alone, perceptron(), period, steps)
    given_ = batches(steps)
    for t, batch in enumerate(given_):
        before = model.parameters.detach().clone()
        optimizer.step(closure_of(model, batch, spoil=t == spoilt), 0.2)
        moved = not torch.equal(model.parameters.detach(), before)
        due = (t + 1) % period == 0 or t + 1 == steps
        gathered = range(t // period * period, t + 1)
        assert moved == (due and any(k != spoilt for k in gathered)), "not where there is nothing to step with"
    plain, sgd = plain_sgd()
    for first in range(0, steps, period):
        part = [batch for t, batch in enumerate(given_[first : first + period], first) if t != spoilt]
        if part:
            plain_step(plain, sgd, [torch.cat(together) for together in zip(*part, strict=True)])
    expected = parameters_to_vector(plain.parameters())
    torch.testing.assert_close(model.parameters.detach(), expected, rtol=1e-5, atol=1e-6)  # sums in another order


def test_gathering_every_step_is_plain_training_bit_for_bit(alone):
    model, optimizer = gathering_optimizer(alone, perceptron(), 1, 6)
    plain, sgd = plain_sgd()
    for batch in batches(6):
        optimizer.step(closure_of(model, batch), 0.2)
        plain_step(plain, sgd, batch)
    assert torch.equal(model.parameters.detach(), parameters_to_vector(plain.parameters()))


def test_gathering_resumes_in_mid_air(alone):
    model, optimizer = gathering_optimizer(alone, perceptron(), 3, 9)
    for batch in batches(4):
        optimizer.step(closure_of(model, batch), 0.2)
    again, other = gathering_optimizer(alone, copy.deepcopy(model.module), 3, 9)
    other.load_state_tensors({n: t.clone() for n, t in optimizer.state_tensors().items()})
    other.clock = optimizer.clock
    for name, value in optimizer.coupling.tensors().items():
        other.coupling.tensors()[name].copy_(value)
    for batch in batches(9)[4:]:
        optimizer.step(closure_of(model, batch), 0.2)
        other.step(closure_of(again, batch), 0.2)
    assert torch.equal(model.state, again.state)


def test_forgetting_is_a_fresh_start(alone):
    model, optimizer = gathering_optimizer(alone, perceptron(), 1, 6)
    optimizer.step(closure_of(model, *batches(1)), 0.2)
    (momentum,) = optimizer.momentum()
    assert momentum.any()
    optimizer.forget()
    assert not optimizer.momentum()[0].any()
