"""An ecosphere of one worker is ordinary training with the schedule b_t; what it does when its weights are lost."""

from math import cos, pi

import pytest
import torch
from small import batches, closure_of, perceptron, plain_step

from common.ecosphere.exchange import POLICIES, Exchange
from common.ecosphere.membership import Membership, join
from common.ecosphere.rates import EcosphereRates, EoaSettings
from common.errors import Diverged, UsageError
from common.optim.bases import OptimizerSettings
from common.optim.weight_optimizer import WeightOptimizer
from common.parallel.populations import PopulationSpec
from common.training.worker import reductions_of

ROUNDS, STEPS, ETA0, K = 4, 3, 0.1, 2.0


def ecosphere_of_one(alone, settings=None, policy="average"):
    rates = EcosphereRates([PopulationSpec("gwo", 1, "sgd")], ETA0, ROUNDS, [K * 128], 7, settings)
    return Membership(alone, perceptron(batch_norm=True), rates, Exchange(policy))


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("rule", ["best", "blend", "anneal"])
def test_one_worker_trains_as_a_plain_loop_with_the_base_rates_bit_for_bit(alone, rule, policy):
    ecosphere = ecosphere_of_one(alone, EoaSettings(base_rule=rule), policy)
    model, optimizer = ecosphere.model, WeightOptimizer(ecosphere.model, OptimizerSettings("sgd"), reductions_of(alone))
    plain = perceptron(batch_norm=True)
    reference = torch.optim.SGD(plain.parameters(), lr=1.0, momentum=0.9, weight_decay=5e-4)
    b = K * ETA0  # the start, without noise
    for t in range(ROUNDS):
        for step, batch in enumerate(batches(STEPS, seed=t)):
            optimizer.step(closure_of(model, batch), ecosphere.rate_at(t + step / STEPS))
            warm = ETA0 + (b - ETA0) * step / STEPS if t == 0 else b  # one epoch, here one round
            reference.param_groups[0]["lr"] = warm
            plain_step(plain, reference, batch)
        end = ecosphere.end_round(t, 0.1 * t)
        assert end.finite
        x = b
        b = {
            "best": x,
            "blend": (x + K * ETA0 * (1 + cos(pi * t / ROUNDS)) / 2) / 2,
            "anneal": 0.0 if t >= ROUNDS - 1 else x * (1 + cos(pi * (t + 1) / ROUNDS)) / (1 + cos(pi * t / ROUNDS)),
        }[rule]
        assert ecosphere.rate == pytest.approx(b, rel=1e-14)
        b = ecosphere.rate  # the formula in another order may differ in the last bit, which the weights would show
    for ours, theirs in zip(model.module.state_dict().values(), plain.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)
    assert (alone.traffic.inside, alone.traffic.across) == (0, 0)


@pytest.mark.parametrize(("spoil", "fitness"), [(float("nan"), 0.5), (float("inf"), 0.5), (None, float("nan"))])
def test_when_the_last_worker_is_lost_the_run_stops_with_the_last_finite_weights(alone, spoil, fitness):
    ecosphere = ecosphere_of_one(alone)
    ecosphere.model.state.detach().mul_(0.5)
    ecosphere.end_round(0, 0.5)
    kept = ecosphere.model.state.detach().clone()
    ecosphere.model.state.detach().add_(1.0)
    if spoil is not None:
        ecosphere.model.buffers[0] = spoil  # a batch-norm statistic counts as a weight
    with pytest.raises(Diverged):
        ecosphere.end_round(1, fitness)
    assert torch.equal(ecosphere.model.state, kept)


def test_joining_with_a_script_of_ones_own():
    module = torch.nn.Linear(3, 2)
    ecosphere = join(module, "auto", eta0=0.2, rounds=4, batch_size=64)
    assert ecosphere.rate == pytest.approx(0.2 * 64 / 128)  # one worker: linear scaling, no noise
    assert list(ecosphere.shard(10)) == list(range(10))
    assert ecosphere.share_of(64) == 64
    module(torch.ones(1, 3)).sum().backward()
    assert ecosphere.average_gradient()
    torch.optim.SGD(module.parameters(), lr=ecosphere.rate).step()
    end = ecosphere.end_round(0, 0.5)
    assert end.finite
    with pytest.raises(UsageError, match="unknown species 'cats'"):
        join(module, "cats", eta0=0.2, rounds=4, batch_size=64)
