"""Small convolutional networks: one for laptops, and those of two of the reference works.

Input: (batch, channels, h, w). Output: (batch, classes) logits.
"""

import math

from torch import Tensor, nn

from common.errors import UsageError


class Layers(nn.Module):
    """Layers in sequence."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of a batch of images."""
        return self.layers(x)


def small_cnn(channels: int, classes: int, width: int) -> Layers:
    """Two convolutions with batch norm and 2x2 pooling, then a linear head; 8 and 16 times `width` channels.

    Trains in seconds on a laptop. Images of at least 4 x 4 pixels. Raises UsageError where width < 1.
    """
    if width < 1:
        raise UsageError(f"the small CNN has a width of at least 1, not {width}")
    first, second = 8 * width, 16 * width
    return Layers(
        nn.Conv2d(channels, first, 3, padding=1, bias=False),
        nn.BatchNorm2d(first),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Conv2d(first, second, 3, padding=1, bias=False),
        nn.BatchNorm2d(second),
        nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(4 * second, classes),
    )


def easgd_cnn(channels: int, classes: int, image_size: int, width: int, dropout: float) -> Layers:
    """CIFAR network of the EASGD paper (arXiv 1412.6651, section 5.1): three convolutions and a hidden layer, no batch norm.

    8, 16 and 8 times `width` channels and 32 `width` hidden units. The paper's network has width 8: 351,946 parameters on
    3 x 28 x 28 inputs. The paper does not say whether dropout (1/2) precedes or follows the hidden layer; here it follows.
    Raises UsageError for images below 24 x 24 pixels and where width < 1.
    """
    side = _side_after_two("the EASGD paper's network", width, image_size, least=24) - 2
    layers = Layers(
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
    for name, parameter in layers.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(parameter)
    return layers


def dhpo_cnn(channels: int, classes: int, image_size: int, width: int, dropout: float) -> Layers:
    """MNIST network of the reference project for distributed hyper-parameter search: two convolutions, no batch norm.

    2 and 4 times `width` channels. The project's network has width 1: 906 parameters on 1 x 28 x 28 inputs.
    Raises UsageError for images below 16 x 16 pixels and where width < 1.
    """
    side = _side_after_two("the search project's network", width, image_size, least=16)
    return Layers(
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


def _side_after_two(network: str, width: int, image_size: int, least: int) -> int:
    """Side after two 5x5 convolutions without padding, each pooled by 2.

    Pooling rounds odd sides up (`ceil_mode`), so no pixels are lost; this has no effect at multiples of 4.
    """
    if width < 1 or image_size < least:
        raise UsageError(
            f"{network} needs a width of at least 1 and images of at least {least} pixels, not {width} and {image_size}: "
            "--model cnn takes smaller ones"
        )
    return math.ceil((math.ceil((image_size - 4) / 2) - 4) / 2)
