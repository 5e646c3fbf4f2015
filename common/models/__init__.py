"""Networks, by name. A new one is one file and one line here."""

from collections.abc import Callable

import torch
from torch import nn

from common.models.small_cnn import SmallCNN
from common.models.wide_resnet import WideResNet

MODELS: dict[str, Callable[..., nn.Module]] = {
    "wrn": lambda channels, classes, depth, width, dropout: WideResNet(channels, classes, depth, width, dropout),
    "cnn": lambda channels, classes, depth, width, dropout: SmallCNN(channels, classes, width),
}


def build_model(
    name: str, channels: int, classes: int, depth: int = 16, width: int = 8, dropout: float = 0.0, seed: int = 0
) -> nn.Module:
    """A network with initial weights that depend on `seed` alone; torch's global generator is left as it was.

    channels: of the images. depth, width, dropout: where the network has them (`wrn`; `cnn` has a width only).
    Raises ValueError for another name or an impossible depth.
    """
    if name not in MODELS:
        raise ValueError(f"unknown model '{name}': choose from {', '.join(MODELS)}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return MODELS[name](channels, classes, depth, width, dropout)


def model_title(name: str, depth: int, width: int) -> str:
    """The network's name as tables print it, e.g. WRN-16-8."""
    return f"WRN-{depth}-{width}" if name == "wrn" else f"CNN-{width}"
