"""Batch-norm layers of a network: freeze their running statistics, or measure them anew."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def batch_norms(module: nn.Module) -> list[_BatchNorm]:
    """The layers that keep running statistics."""
    return [m for m in module.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]


def running_statistics(module: nn.Module) -> list[Tensor]:
    """Running mean and variance of every layer, in the module's order; the tensors themselves, shape (channels,) each."""
    pairs = ((layer.running_mean, layer.running_var) for layer in batch_norms(module))
    return [statistic for pair in pairs for statistic in pair if statistic is not None]


@contextmanager
def frozen_batch_norm(module: nn.Module) -> Iterator[None]:
    """Batch-norm layers normalise by the batch, as in training, but leave their running statistics alone.

    SAM's second pass runs at perturbed weights; the statistics are to be those of the weights themselves.
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
    """Training mode in which running statistics are the plain mean over the batches seen inside the block.

    Per layer: the mean over batches of the batch mean and of the unbiased batch variance (torch's momentum `None`). What was
    there before is forgotten, also where it is not finite. Layers count their batches as before, and the module returns to
    the mode it was in.
    """
    layers, was_training = batch_norms(module), module.training
    before = [(layer.momentum, None if (n := layer.num_batches_tracked) is None else n.clone()) for layer in layers]
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
            if layer.num_batches_tracked is not None and batches is not None:
                layer.num_batches_tracked.copy_(batches)
