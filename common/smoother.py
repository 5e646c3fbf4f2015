"""Smoothed weights and their fitness: what populations that forage (`common.forage`) are compared by."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from common.comm import Group
from common.data import DataSet
from common.flat import FlatModel
from common.loop import Judged, autocast, evaluate

SMOOTHING = 0.8  # of the weights that are judged, per step
CALIBRATION = 128  # training images over a group that batch-norm statistics are taken from


class Smoother:
    """Exponential average of the weights during a round, and its fitness.

    Call `restart` before a round and `add` after every step.
    """

    def __init__(self, model: FlatModel) -> None:
        self.model = model
        self.average = model.parameters.detach().clone()

    def restart(self) -> None:
        """Begin a round at the present weights."""
        self.average.copy_(self.model.parameters.detach())

    @torch.no_grad()
    def add(self) -> None:
        """average <- 0.8 average + 0.2 weights."""
        self.average.lerp_(self.model.parameters.detach(), 1 - SMOOTHING)

    def judge(self, data: DataSet, precision: str, population: Group) -> Judged:
        """Loss and accuracy of the smoothed weights on the fitness images, shared out among the population, whose workers
        hold the same ones. Batch-norm statistics are taken anew on a few training images and averaged over the population.
        Collective over the population; the model is left as it was.
        """
        began = time.perf_counter()
        model = self.model
        before = model.state.detach().clone()
        model.parameters.data.copy_(self.average)
        calibrate(model, data, precision, population)
        judged = evaluate(model.module, data.fitness, precision, population)
        model.state.detach().copy_(before)
        return Judged(judged.loss, judged.accuracy, time.perf_counter() - began, fitness=-judged.loss)


@torch.no_grad()
def calibrate(model: FlatModel, data: DataSet, precision: str, group: Group) -> None:
    """Batch-norm statistics of the present weights, from a few training images, averaged over a group that holds the same ones.

    For weights that no rank has trained with: averages, centres. Collective over the group; nothing to do without batch norm.
    """
    if not any(True for _ in batch_norms(model.module)):
        return
    share = max(8, CALIBRATION // group.size)
    first = group.rank * share % max(1, len(data.train) - share)
    indices = torch.arange(first, first + min(share, len(data.train)), device=model.device)
    with fresh_statistics(model.module), autocast(model.device, precision):
        model.module(data.train.plain(indices)[0])
    group.sum_(model.buffers, "statistics").div_(group.size)


@contextmanager
def measured_statistics(module: nn.Module, images: Tensor, precision: str) -> Iterator[None]:
    """Batch-norm statistics of the present weights on these images; afterwards those from before."""
    if not any(True for _ in batch_norms(module)):
        yield
        return
    before, was_training = [buffer.clone() for buffer in module.buffers()], module.training
    with torch.no_grad(), fresh_statistics(module), autocast(images.device, precision):
        module(images)
    try:
        yield
    finally:
        for buffer, value in zip(module.buffers(), before, strict=True):
            buffer.copy_(value)
        module.train(was_training)


def batch_norms(module: nn.Module) -> Iterator[_BatchNorm]:
    """The layers that keep running statistics."""
    return (m for m in module.modules() if isinstance(m, _BatchNorm))


@contextmanager
def fresh_statistics(module: nn.Module) -> Iterator[None]:
    """Training mode in which running statistics become those of the one batch that is seen, whatever they were."""
    layers = list(batch_norms(module))
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.momentum = 1.0
        for statistic in (layer.running_mean, layer.running_var):
            if statistic is not None:
                statistic.zero_()  # torch weighs the old ones by 0, which keeps a NaN
    module.train()
    try:
        yield
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
