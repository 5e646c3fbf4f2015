"""Training on many ranks against what one process computes: data, whole runs of steps, SAM's first gradient, evaluation."""

import hashlib
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from torch import nn
from worlds import LAYOUTS, RANK, SIZE, alone, build, closure_of, each_engine, each_layout, everyones, population_of

from common.data.dataset import open_data
from common.data.options import DataOptions
from common.ecosphere.end_of_round import Ecosphere
from common.ecosphere.exchange import Exchange
from common.ecosphere.rates import ScheduledRates
from common.evaluate import evaluate
from common.models.flat import FlatModel, share_model
from common.optim.bases import OptimizerSettings
from common.optim.weight_optimizer import WeightOptimizer
from common.training.loop import Plan, train_round
from common.training.worker import build_worker, reductions_of

BATCH = 48 if 48 % SIZE == 0 else 16 * SIZE
PLAN = Plan(BATCH, 20, label_smoothing=0.1, precision="float32")
PLAIN = OptimizerSettings("sgd", momentum=0.0, weight_decay=0.0)


@cache
def digits():
    """The digits, the same on every rank."""
    return open_data(DataOptions(dataset="digits", fitness_images=50), build(LAYOUTS[0]), 3)


def shard(topology, t, steps):
    """This rank's part of the first batches of round t."""
    return digits().batches(3, t, BATCH, topology.world.rank, topology.world.size, steps)


def network() -> nn.Module:
    """Convolution and head, no batch norm, no dropout; the same initial weights on every rank."""
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 64, 10))


def distance(found, wanted):
    """||found - wanted|| / ||wanted||."""
    return float((found - wanted).norm() / wanted.norm())


def trained(topology, settings=PLAIN, rounds=1, plan=PLAN, lr_scale=1.0):
    """The evaluated weights after so many rounds at one rate for all workers."""
    rates = ScheduledRates(lambda progress: 1.0, 0.1, 0.1, topology.world.size, rounds)
    model = share_model(network(), topology.world)
    worker = build_worker(topology, model, rates, settings, lr_scale)
    ecosphere = Ecosphere(topology, model.state, rates, Exchange())
    for t in range(rounds):
        train_round(worker, shard(topology, t, plan.steps), seed=3, t=t, plan=plan)
        worker.optimizer.end_training()
        if t + 1 < rounds:
            worker.optimizer.after_exchange(ecosphere.end_round(t, 0.5, worker.rate).finite)
    return model.state.detach()


def test_a_round_that_is_cut_short_takes_the_rates_of_its_first_steps():
    asked = []

    class Noted(ScheduledRates):
        def at(self, rate, rounds_done):
            asked.append(rounds_done)
            return rate

    topology = build(LAYOUTS[0])
    rates = Noted(lambda progress: 1.0, 0.1, 0.1, topology.world.size, 3)
    worker = build_worker(topology, share_model(network(), topology.world), rates, PLAIN)
    trained = train_round(worker, shard(topology, 2, 2), seed=3, t=2, plan=replace(PLAN, steps=8))
    assert asked == [2, 2 + 1 / 8]
    assert trained.images == 2 * BATCH // SIZE


def test_images_and_texts_are_the_same_on_every_rank():
    texts = open_data(DataOptions(dataset="topics", fitness_images=50), build(LAYOUTS[0]), 0)
    found = [texts.source.digest]
    for data in (digits(), texts):
        for split in (data.train, data.validation, data.fitness, data.test):
            content = split.symbols if data is texts else split.augmenter.images
            found += [hashlib.sha256(part.numpy().tobytes()).hexdigest() for part in (content, split.labels)]
        assert len(data.fitness) == 50
    assert all(f == found for f in everyones(found))


def test_all_ranks_together_see_the_batches_of_one_process():
    parts = everyones([(x.numpy().copy(), y.numpy()) for x, y in digits().batches(3, 0, BATCH, RANK, SIZE, 3)])
    for step, (images, labels) in enumerate(digits().batches(3, 0, BATCH, 0, 1, 3)):
        np.testing.assert_array_equal(np.concatenate([p[step][0] for p in parts]), images.numpy())
        np.testing.assert_array_equal(np.concatenate([p[step][1] for p in parts]), labels.numpy())


@each_engine
@pytest.mark.parametrize(
    ("name", "lr_scale", "most"),
    [
        ("sgd", 1.0, 1e-5),  # the spec's: float32 sums of gradients in another order, 20 steps a round
        ("schedulefree-sgd", 1.0, 1e-4),
        ("schedulefree-adamw", 0.05, 1e-4),  # Adam divides by roots of tiny gradients, which magnifies rounding
        ("prodigy", 10.0, 1e-4),
    ],
)
def test_equal_rates_in_scope_world_are_one_process_on_the_same_global_batch(engine, name, lr_scale, most):
    """Two rounds with an exchange between them; also with optimizers that average or estimate."""
    settings = OptimizerSettings(name, momentum=0.9, weight_decay=5e-4)
    here = trained(alone(), settings, rounds=2, lr_scale=lr_scale)
    together = trained(build(LAYOUTS[0], "world", engine), settings, rounds=2, lr_scale=lr_scale)
    assert len(set(everyones(together.numpy().tobytes()))) == 1
    start = trained(alone(), settings, rounds=0)
    assert distance(here, start) > 1e-3, "it has gone somewhere"
    assert distance(together, here) < most
    if SIZE == 1:
        assert torch.equal(together, here)


@each_layout
@each_engine
def test_scope_population_is_one_process_per_population(sizes, engine):
    """A population of m workers trains on its m shards of every batch and on nothing else, Horovod or not."""
    plan = replace(PLAN, steps=5)
    together = trained(build(sizes, "population", engine), plan=plan)
    home, table = population_of(sizes), everyones(together)
    mine = [r for r in range(SIZE) if home[r] == home[RANK]]
    assert all(np.array_equal(table[r], table[RANK]) for r in mine)

    model = FlatModel(network())
    optimizer = WeightOptimizer(model, PLAIN, reductions_of(alone()))
    shards = [digits().batches(3, 0, BATCH, r, SIZE, plan.steps) for r in mine]
    for step in zip(*shards, strict=True):
        batch = (torch.cat(part) for part in zip(*step, strict=True))
        optimizer.step(closure_of(model, *batch, label_smoothing=0.1), 0.1)
    assert distance(together, model.state.detach()) < 1e-5


def numpy_sam_step(sizes, scope, sam_scope, adaptive, weights, targets, rate, rho):
    """One step of every rank in float64, loss ||w - target||^2 / 2 on each: gradient w - target."""
    home = population_of(sizes)

    def averaged(rows, over):
        if over == "local":
            return rows
        ranks = [[j for j in range(SIZE) if over == "world" or home[j] == home[i]] for i in range(SIZE)]
        return np.array([rows[r].mean(axis=0) for r in ranks])

    first = averaged(weights - targets, sam_scope)
    if adaptive:
        e = rho * weights**2 * first / np.linalg.norm(np.abs(weights) * first, axis=1, keepdims=True)
    else:
        e = rho * first / np.linalg.norm(first, axis=1, keepdims=True)
    return weights - rate * averaged(weights + e - targets, scope)


@each_layout
@pytest.mark.parametrize("scope", ["population", "world"])
@pytest.mark.parametrize("sam_scope", ["local", "population", "world"])
def test_the_first_gradient_of_sam_is_averaged_over_the_sam_scope(sizes, scope, sam_scope):
    for name in ("sam", "asam"):
        topology = build(sizes, scope)
        model = share_model(nn.Linear(5, 1, bias=False), topology.world)
        model.state.detach().copy_(torch.tensor([1.0, -2.0, 0.5, 3.0, -0.25]))
        settings = OptimizerSettings(name, momentum=0.0, weight_decay=0.0, rho=0.5, sam_scope=sam_scope)
        optimizer = WeightOptimizer(model, settings, reductions_of(topology, sam_scope))
        targets = np.random.default_rng(8).standard_normal((SIZE, 5))
        weights = np.repeat(model.state.detach().numpy()[None].astype(np.float64), SIZE, axis=0)
        for _ in range(3):
            target = torch.from_numpy(targets[RANK]).float()

            def closure(model=model, target=target):
                model.gradient.copy_(model.parameters.detach() - target)
                return torch.zeros(())

            optimizer.step(closure, 0.1)
            weights = numpy_sam_step(sizes, scope, sam_scope, name == "asam", weights, targets, 0.1, 0.5)
        # 3 steps of float32 beside float64.
        np.testing.assert_allclose(everyones(model.state), weights, rtol=1e-5, atol=1e-6)


def test_ranks_that_share_out_an_evaluation_get_what_one_process_gets():
    module, data = network(), digits()
    world = build(LAYOUTS[0]).world
    shared, own = evaluate(module, data.test, "float32", world), evaluate(module, data.test, "float32")
    assert shared.accuracy == own.accuracy
    assert shared.loss == pytest.approx(own.loss, rel=1e-6)
    assert len(set(everyones((shared.loss, shared.accuracy)))) == 1
