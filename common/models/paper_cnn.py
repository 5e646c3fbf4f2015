"""CIFAR network of the EASGD paper (arXiv 1412.6651, section 5.1): no batch norm, 28 x 28 crops."""

import math

from torch import Tensor, nn

from common.errors import UsageError


class PaperCNN(nn.Module):
    """Conv 5x5, pool, conv 5x5, pool, conv 3x3, a hidden layer with dropout, a linear head; ReLU, no padding.

    8, 16 and 8 times `width` channels and 32 `width` hidden units. The paper's network has width 8: 351,946 parameters on
    3 x 28 x 28 inputs. The paper does not say whether dropout (1/2) precedes or follows the hidden layer; here it follows.
    Pooling rounds odd sides up (`ceil_mode`), so no pixels are lost; this has no effect at multiples of 4.
    Input: (batch, channels, h, w), at least 24 x 24 pixels. Output: (batch, classes) logits. Raises UsageError otherwise.
    """

    def __init__(self, channels: int, classes: int, image_size: int = 28, width: int = 8, dropout: float = 0.5) -> None:
        super().__init__()
        side = math.ceil((math.ceil((image_size - 4) / 2) - 4) / 2) - 2
        if width < 1 or image_size < 24:
            raise UsageError(
                f"the EASGD paper's network needs a width of at least 1 and images of at least 24 pixels, not {width} and "
                f"{image_size}: --model cnn takes smaller ones"
            )
        self.layers = nn.Sequential(
            nn.Conv2d(channels, 8 * width, 5),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2, ceil_mode=True),
            nn.Conv2d(8 * width, 16 * width, 5),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2, ceil_mode=True),
            nn.Conv2d(16 * width, 8 * width, 3),
            nn.ReLU(inplace=True),
            nn.Flatten(),
            nn.Linear(8 * width * side**2, 32 * width),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Linear(32 * width, classes),
        )
        for layer in self.layers:
            if isinstance(layer, (nn.Conv2d, nn.Linear)):
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of a batch of images."""
        return self.layers(x)
