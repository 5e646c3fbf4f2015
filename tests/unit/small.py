"""Small networks, and batches and pictures to train them on."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from common.data.augment import Augmenter
from common.data.dataset import ImageDataset
from common.data.registry import SOURCES


def perceptron(batch_norm=False):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6) if batch_norm else nn.Identity(), nn.Tanh(), nn.Linear(6, 3))


def batches(count, seed=1):
    """Inputs and labels for `perceptron`."""
    generator = torch.Generator().manual_seed(seed)
    return [(torch.randn(8, 5, generator=generator), torch.randint(3, (8,), generator=generator)) for _ in range(count)]


def closure_of(model, batch, spoil=False):
    """Forward and backward of a flat model; spoil: the gradient is not finite."""

    def closure():
        model.zero_gradient()
        loss = F.cross_entropy(model.module(batch[0]), batch[1])
        loss.backward()
        if spoil:
            model.gradient[1] = torch.nan
        return loss.detach()

    return closure


def plain_step(module, optimizer, batch):
    """The same in plain PyTorch, and a step."""
    optimizer.zero_grad()
    F.cross_entropy(module(batch[0]), batch[1]).backward()
    optimizer.step()


def convolutions(seed=0):
    torch.manual_seed(seed)
    layers = [nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(4 * 16, 10))


def pictures(n, source=SOURCES["digits"], seed=0):
    """Random images of 8 x 8 pixels with random labels, for `convolutions`."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (n, 8, 8, 1), dtype=np.uint8)
    return ImageDataset(Augmenter(torch.from_numpy(images), source), torch.from_numpy(rng.integers(0, 10, n)))
