"""Data sets by name, with their metadata."""

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Split:
    """Images of shape (n, h, w, channels) uint8 and labels of shape (n,) int64; of a text, windows of shape (n, length) int64
    and as labels the next character at each position, same shape.
    """

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: np.ndarray) -> "Split":
        """The images at these indices, in this order."""
        return Split(self.images[indices], self.labels[indices])


@dataclass(frozen=True)
class Source:
    """Metadata of a data set.

    classes: of a text, the size of its alphabet. mean, std: per channel, of pixels in [0, 1], over the training images. pad,
    flip, cutout: its usual augmentation: pixels of padding for the random crop, whether mirror images keep their class, side of
    the square that is cut out (0: none). torchvision: name of its torchvision class, which takes root, train and download ('':
    `load` reads it without torchvision). digest: SHA-256 of the data, set when read, where they differ between installations.
    notes: lines to print for the user.
    """

    title: str
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    pad: int
    flip: bool
    cutout: int
    torchvision: str = ""
    digest: str = ""
    notes: tuple[str, ...] = field(default=(), compare=False)

    @property
    def channels(self) -> int:
        """Colour channels of an image; 0 for a text."""
        return len(self.mean)

    @property
    def is_text(self) -> bool:
        """Whether it is a text, not images."""
        return not self.mean


SOURCES = {
    "digits": Source("digits", 10, (0.3053,), (0.3760,), pad=1, flip=False, cutout=0),
    "mnist": Source("MNIST", 10, (0.1307,), (0.3081,), 2, False, 0, "MNIST"),
    "fashion-mnist": Source("Fashion-MNIST", 10, (0.2860,), (0.3530,), 2, True, 0, "FashionMNIST"),
    "cifar10": Source("CIFAR-10", 10, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616), 4, True, 16, "CIFAR10"),
    "cifar100": Source("CIFAR-100", 100, (0.5071, 0.4866, 0.4409), (0.2673, 0.2564, 0.2762), 4, True, 16, "CIFAR100"),
    "topics": Source("Python topics", 97, (), (), pad=0, flip=False, cutout=0),
}


def brief(error: Exception) -> str:
    """Message of an error on one line, at most 100 characters; its type where there is none."""
    return " ".join(str(error).split())[:100] or type(error).__name__
