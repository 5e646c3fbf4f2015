"""Batch-norm layers of a network: freeze or re-estimate their running statistics."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def batch_norms(module: nn.Module) -> list[_BatchNorm]:
    """Layers with running statistics."""
    return [m for m in module.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]


def running_statistics(module: nn.Module) -> list[Tensor]:
    """Running mean and variance of every layer, in the module's order; not copies; shape (channels,) each."""
    return [layer.get_buffer(name) for layer in batch_norms(module) for name in ("running_mean", "running_var")]


@contextmanager
def frozen_batch_norm(module: nn.Module) -> Iterator[None]:
    """Block in which batch-norm layers in training mode do not update their running statistics.

    For SAM's second pass, which runs at perturbed weights.
    """
    layers = [layer for layer in batch_norms(module) if layer.track_running_stats]
    for layer in layers:
        layer.track_running_stats = False
    try:
        yield
    finally:
        for layer in layers:
            layer.track_running_stats = True


@contextmanager
def fresh_statistics(module: nn.Module) -> Iterator[None]:
    """Block in training mode that sets running statistics to the plain mean over its batches.

    Per layer: the mean over batches of the batch mean and of the unbiased batch variance (torch's momentum `None`). Earlier
    statistics are reset, including non-finite ones. `num_batches_tracked`, momentum and the module's mode are restored.
    """
    layers, was_training = batch_norms(module), module.training
    before = [(layer.momentum, layer.get_buffer("num_batches_tracked").clone()) for layer in layers]
    for layer in layers:
        layer.momentum = None
        layer.reset_running_stats()
    module.train()
    try:
        yield
    finally:
        module.train(was_training)
        for layer, (momentum, batches) in zip(layers, before, strict=True):
            layer.momentum = momentum
            layer.get_buffer("num_batches_tracked").copy_(batches)
