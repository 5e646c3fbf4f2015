"""Data sets by name, and what is known of each before it is read."""

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Split:
    """Images of shape (n, h, w, channels) uint8, and labels of shape (n,) int64; of a text windows of shape (n, length) int64,
    and what follows each of their places, likewise.

    strata: shape (n,), what a part of it should have in equal shares: the labels, unless given.
    """

    images: np.ndarray
    labels: np.ndarray
    strata: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def kinds(self) -> np.ndarray:
        """The strata, by default the labels."""
        return self.labels if self.strata is None else self.strata

    def take(self, indices: np.ndarray) -> "Split":
        """The images at these indices, in this order."""
        return Split(self.images[indices], self.labels[indices], None if self.strata is None else self.strata[indices])


@dataclass(frozen=True)
class Source:
    """What is known of a data set before it is read.

    mean, std: per channel, of pixels in [0, 1], over the training images. pad, flip, cutout: its usual augmentation: pixels
    of padding for the random crop, whether mirror images keep their class, side of the square that is cut out (0: none).
    torchvision: its class for the data set, one that takes root, train and download ('' for what `load` reads by itself).
    digest: SHA-256 of data that are not the same everywhere, once they are read. notes: what to tell the user of them, a line
    each. Of a text, classes are symbols.
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
        """Whether it is made of characters, not of pixels."""
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
    """What an error says, on one line and not at length."""
    return " ".join(str(error).split())[:100] or type(error).__name__
