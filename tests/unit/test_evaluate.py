"""Batch-norm statistics of weights that no rank trained with: which images, which mean, and no trace of the measuring."""

import copy
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from small import convolutions, pictures
from torch import nn

from common.data.dataset import Texts, open_data
from common.data.options import DataOptions
from common.data.registry import SOURCES
from common.evaluate import COMPARED, REPORTED, STATISTICS_BATCH, Evaluator, evaluate
from common.models import build_model
from common.models.batch_norm import fresh_statistics, frozen_batch_norm, running_statistics
from common.models.flat import FlatModel


def padded(n, seed=0):
    """So much that augmented images have other statistics than plain ones."""
    return pictures(n, replace(SOURCES["digits"], pad=3), seed)


def slow_statistics(module, batches):
    """Mean over batches of batch means and unbiased batch variances of what every layer sees, recomputed in float64."""
    seen = {}
    for x in batches:
        for k, layer in enumerate(module):
            if isinstance(layer, nn.BatchNorm2d):
                seen.setdefault(k, []).append((x.double().mean((0, 2, 3)), x.double().var((0, 2, 3))))
                x = F.batch_norm(x, None, None, layer.weight, layer.bias, training=True, eps=layer.eps)
            else:
                x = layer(x)
    return [torch.stack(values).mean(0) for pairs in seen.values() for values in zip(*pairs, strict=True)]


@pytest.mark.parametrize("images", [COMPARED, REPORTED, 1])
def test_statistics_are_the_mean_over_equal_batches_of_augmented_images(images):
    train, module = padded(700), convolutions()
    with torch.no_grad():
        for statistic in running_statistics(module):
            statistic.fill_(torch.nan)  # whatever was there before
    evaluator = Evaluator(train, "float32", seed=5)
    evaluator.measure_statistics(module, None, images, t=3)
    taken, draws, batches = evaluator._draw(images, 3)
    assert batches.shape == ({COMPARED: 8, REPORTED: 21, 1: 2}[images], STATISTICS_BATCH)
    with torch.no_grad():
        expected = slow_statistics(module, [taken.augmented(b, draws)[0] for b in batches])
        plain = slow_statistics(module, [taken.plain(b)[0] for b in batches])
    for found, right, wrong in zip(running_statistics(module), expected, plain, strict=True):
        torch.testing.assert_close(found.double(), right, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(found.double(), wrong, rtol=1e-2)


@given(st.integers(2, 300), st.integers(1, 400), st.integers(0, 5))
def test_batches_are_equal_disjoint_and_as_many_images_as_wanted_or_there_are(n, images, t):
    train = padded(n)
    taken, _, batches = Evaluator(train, "float32", seed=1)._draw(images, t)
    count, size = batches.shape
    assert len(taken) == batches.numel() == len(set(batches.flatten().tolist()))
    assert len({tuple(i.flatten().tolist()) for i in taken.augmenter.images}) == len(taken), "different images"
    assert count * size >= min(images, n - size + 1)
    assert count >= 2 or n < 4
    assert size >= 2


def test_rounds_and_seeds_draw_others_and_ranks_do_not_matter():
    train = padded(500)

    def drawn(seed, t):
        taken, draws, _ = Evaluator(train, "float32", seed)._draw(COMPARED, t)
        return tuple(taken.labels.tolist()), tuple(draws.flatten().tolist())

    assert drawn(0, 0) == drawn(0, 0)
    assert len({drawn(seed, t) for seed in (0, 1) for t in (0, 1)}) == 4
    assert len({drawn(0, t)[1] for t in range(3)}) == 3, "the augmentation as well"


def test_measuring_leaves_generators_counters_momentum_and_mode_as_they_were():
    module, train = build_model("wrn", 1, 10, depth=10, width=1, dropout=0.3), padded(100)
    module.train()
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    counters = {n: b.clone() for n, b in module.named_buffers() if not b.is_floating_point()}
    weights = [p.detach().clone() for p in module.parameters()]
    Evaluator(train, "float32", seed=0).measure_statistics(module, None)
    assert module.training
    assert all(p.grad is None for p in module.parameters())
    assert all(map(torch.equal, weights, module.parameters()))
    assert all(torch.equal(b, counters[n]) for n, b in module.named_buffers() if n in counters)
    assert {m.momentum for m in module.modules() if isinstance(m, nn.BatchNorm2d)} == {0.1}
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == random.getstate()
    assert before[2] == np.random.get_state()[1].tolist()  # noqa: NPY002


def test_weights_trained_at_rate_0_keep_statistics_that_are_those_measured(alone):
    """After many forward passes of training without a step, running statistics and measured ones describe the same thing."""
    train = open_data(DataOptions(dataset="digits"), alone, 0).train
    module = convolutions()
    optimizer = torch.optim.SGD(module.parameters(), 0.1, momentum=0.9)
    rng = np.random.default_rng(0)
    for step in range(450):
        batch = torch.from_numpy(rng.choice(len(train), STATISTICS_BATCH, replace=False))
        inputs, truth = train.augmented(batch, train.draw(0, step))
        optimizer.zero_grad()
        F.cross_entropy(module(inputs), truth).backward()
        if step < 250:
            optimizer.step()
        else:
            module[1].momentum = module[4].momentum = 0.02  # an average over some hundred batches
    trained, plain = copy.deepcopy(module), copy.deepcopy(module)
    Evaluator(train, "float32", seed=0).measure_statistics(module, None, REPORTED)
    found, running = running_statistics(module), running_statistics(trained)
    for mean, var, running_mean, running_var in zip(found[::2], found[1::2], running[::2], running[1::2], strict=True):
        assert ((mean - running_mean).abs() < 0.05 * running_var.sqrt()).all()
        torch.testing.assert_close(var, running_var, rtol=0.05, atol=0.0)
    with fresh_statistics(plain), torch.no_grad():
        plain(train.plain(torch.arange(len(train)))[0])
    there, here, off = (evaluate(m, train, "float32").accuracy for m in (trained, module, plain))
    assert here == pytest.approx(there, abs=0.005)
    assert there > 0.8
    assert off != pytest.approx(there, abs=0.005), "statistics of plain images are others"


def test_weights_are_evaluated_with_their_own_statistics_and_the_model_is_left_as_it_was():
    train, model = padded(300), FlatModel(convolutions())
    evaluator = Evaluator(train, "float32", seed=2)
    others = model.parameters.detach() * 1.3
    before = model.state.detach().clone()
    splits = [padded(50, seed=4), padded(30, seed=5)]
    judged = evaluator.of_weights(model, others, splits, None, t=1)
    assert torch.equal(model.state.detach(), before)
    model.parameters.data.copy_(others)
    evaluator.measure_statistics(model.module, None, COMPARED, t=1)
    for found, split in zip(judged, splits, strict=True):
        expected = evaluate(model.module, split, "float32")
        assert (found.loss, found.accuracy) == (expected.loss, expected.accuracy)
    own = evaluator.of_weights(model, None, splits, None, t=1)
    assert [j.loss for j in own] == [j.loss for j in judged]


def test_networks_without_batch_norm_are_left_alone():
    texts = Texts(torch.randint(97, (12, 6)), torch.randint(97, (12, 6)))
    module = build_model("transformer", 0, 97, depth=1, width=1, image_size=6)
    before = copy.deepcopy(module.state_dict())
    Evaluator(texts, "float32", seed=0).measure_statistics(module, None)
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())


def test_layers_that_keep_no_statistics_are_not_touched():
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2, track_running_stats=False), nn.Flatten(), nn.LazyLinear(10))
    module(torch.zeros(2, 1, 8, 8))
    Evaluator(padded(50), "float32", seed=0).measure_statistics(module, None)
    assert running_statistics(module) == []
    with fresh_statistics(module), frozen_batch_norm(module):
        assert module[1].track_running_stats is False
    assert module[1].track_running_stats is False
