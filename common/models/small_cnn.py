"""A small convolutional network for small images: trains in seconds on a laptop; with batch norm, to test its handling."""

from torch import Tensor, nn

from common.errors import UsageError


class SmallCNN(nn.Module):
    """Two convolutions with batch norm and 2x2 pooling, then a linear head; 8 and 16 times `width` channels.

    Input: (batch, channels, h, w), at least 4 x 4 pixels. Output: (batch, classes) logits. Raises UsageError where width < 1.
    """

    def __init__(self, channels: int, classes: int, width: int = 2) -> None:
        super().__init__()
        if width < 1:
            raise UsageError(f"the small CNN has a width of at least 1, not {width}")
        first, second = 8 * width, 16 * width
        self.layers = nn.Sequential(
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

    def forward(self, x: Tensor) -> Tensor:
        """Logits of a batch of images."""
        return self.layers(x)
