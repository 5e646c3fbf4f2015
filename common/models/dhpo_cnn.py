"""MNIST network of the reference project for distributed hyper-parameter search: 906 parameters."""

import math

from torch import Tensor, nn

from common.errors import UsageError


class SearchCNN(nn.Module):
    """Conv 5x5 to 2 channels, pool, ReLU; conv 5x5 to 4, pool, ReLU; dropout; a linear head. No padding, no batch norm.

    Channels are multiplied by `width`; the published network has width 1, on 1 x 28 x 28 inputs.
    Pooling rounds odd sides up (`ceil_mode`), so no pixels are lost; this has no effect at multiples of 4.
    Input: (batch, channels, h, w), at least 16 x 16 pixels. Output: (batch, classes) logits. Raises UsageError otherwise.
    """

    def __init__(self, channels: int, classes: int, image_size: int = 28, width: int = 1, dropout: float = 0.0) -> None:
        super().__init__()
        side = math.ceil((math.ceil((image_size - 4) / 2) - 4) / 2)
        if width < 1 or image_size < 16:
            raise UsageError(
                f"the search project's network needs a width of at least 1 and images of at least 16 pixels, not {width} and "
                f"{image_size}: --model cnn takes smaller ones"
            )
        self.layers = nn.Sequential(
            nn.Conv2d(channels, 2 * width, 5),
            nn.MaxPool2d(2, ceil_mode=True),
            nn.ReLU(inplace=True),
            nn.Conv2d(2 * width, 4 * width, 5),
            nn.MaxPool2d(2, ceil_mode=True),
            nn.ReLU(inplace=True),
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.Linear(4 * width * side**2, classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Logits of a batch of images."""
        return self.layers(x)
