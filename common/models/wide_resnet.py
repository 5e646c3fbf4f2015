"""Wide ResNet with pre-activation blocks. Zagoruyko & Komodakis 2016, "Wide Residual Networks", table 1."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.errors import UsageError

INITIALISATIONS: dict[str, Literal["fan_out", "fan_in"]] = {"fan-out": "fan_out", "fan-in": "fan_in"}  # torch's names


class Block(nn.Module):
    """BN-ReLU-conv3x3, twice, plus the input (projected by a 1x1 convolution where the shape changes)."""

    def __init__(self, inputs: int, outputs: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.dropout = dropout
        same = inputs == outputs and stride == 1
        self.project = None if same else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, inputs, h, w) -> (batch, outputs, h / stride, w / stride)."""
        active = F.relu(self.norm1(x), inplace=True)
        shortcut = x if self.project is None else self.project(active)
        y = F.relu(self.norm2(self.conv1(active)), inplace=True)
        if self.dropout:
            y = F.dropout(y, self.dropout, self.training)
        return self.conv2(y) + shortcut


class WideResNet(nn.Module):
    """WRN-depth-width: three groups of (depth - 4) / 6 blocks with 16, 32 and 64 times `width` channels.

    EOA's code does not count the first block of a group, which changes the shape: its "16-8" is depth 22, width 8 here.
    initialisation: He et al. 2015 by `fan-out`, or by `fan-in` with a zero head, as in EOA's code.
    Input: (batch, channels, h, w), at least 4 x 4 pixels. Output: (batch, classes) logits. Raises UsageError where
    depth is not 6 n + 4 or width < 1, ValueError for another initialisation.
    """

    def __init__(self, channels: int, classes: int, depth: int, width: int, dropout: float, initialisation: str) -> None:
        super().__init__()
        if initialisation not in INITIALISATIONS:
            raise ValueError(f"unknown initialisation '{initialisation}': choose from {', '.join(INITIALISATIONS)}")
        blocks, rest = divmod(depth - 4, 6)
        if rest or blocks < 1 or width < 1:
            raise UsageError(f"a Wide ResNet has depth 6 n + 4 (10, 16, 22, 28, ...) and width >= 1, not {depth} and {width}")
        self.stem = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
        layers, inputs = [], 16
        for outputs, stride in ((16 * width, 1), (32 * width, 2), (64 * width, 2)):
            for i in range(blocks):
                layers.append(Block(inputs, outputs, stride if i == 0 else 1, dropout))
                inputs = outputs
        self.blocks = nn.Sequential(*layers)
        self.norm = nn.BatchNorm2d(inputs)
        self.head = nn.Linear(inputs, classes)
        for layer in self.modules():
            _initialise(layer, initialisation)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of a batch of images."""
        x = F.relu(self.norm(self.blocks(self.stem(x))), inplace=True)
        return self.head(x.mean(dim=(2, 3)))


@torch.no_grad()
def _initialise(layer: nn.Module, initialisation: str) -> None:
    """Normal with variance 2 / fan for convolutions, zero bias for the head; batch norm starts as the identity."""
    if isinstance(layer, nn.Conv2d):
        nn.init.kaiming_normal_(layer.weight, mode=INITIALISATIONS[initialisation], nonlinearity="relu")
    elif isinstance(layer, nn.Linear):
        nn.init.zeros_(layer.bias)
        if initialisation == "fan-in":
            nn.init.zeros_(layer.weight)
