"""Text as windows of characters for next-character prediction. No download: the text comes with Python.

    topics    the language reference as `help()` prints it (`pydoc_data`), every paragraph once

It differs between releases of Python: runs are comparable where `data_sha256` in their config.json is the same.
"""

import hashlib
import re
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from common.data.registry import SOURCES, Source, Split

WINDOW = 128  # characters of an example
TEST_SHARE = 0.1  # of every topic, at its end
ALPHABET = "\n" + "".join(map(chr, range(32, 127)))  # all other characters map to one further symbol


@dataclass(frozen=True)
class Texts:
    """One split on the training device: windows, shape (n, WINDOW), and the next character at each position; int64."""

    symbols: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def size(self) -> int:
        """Characters of a window."""
        return self.symbols.shape[1]

    def take(self, indices: Tensor) -> "Texts":
        """The windows at these indices, in this order."""
        return Texts(self.symbols[indices], self.labels[indices])

    def draw(self, seed: int, t: int, worker: int = 0) -> Tensor:
        """Empty: text is not augmented."""
        return torch.empty(0)

    def plain(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Windows and the next character at each position."""
        return self.symbols[indices], self.labels[indices]

    def augmented(self, indices: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
        """The same as `plain`."""
        return self.plain(indices)


def load_topics() -> tuple[Source, Split, Split]:
    """The language reference of this Python: the last 10 % of every topic for testing, the rest for training."""
    from pydoc_data.topics import topics

    train, test = (encode(text) for text in divide(without_repetitions(topics)))
    source = replace(SOURCES["topics"], digest=hashlib.sha256(train.tobytes() + test.tobytes()).hexdigest())
    return source, windows(train), windows(test)


def without_repetitions(topics: dict[str, str]) -> list[str]:
    """Texts of the topics, by name, without paragraphs seen before (up to white space): some topics contain others."""
    seen: set[str] = set()
    kept = []
    for name in sorted(topics):
        paragraphs = {" ".join(p.split()): p for p in re.split(r"\n\s*\n", topics[name])}
        fresh = [p for words, p in paragraphs.items() if words and words not in seen]
        seen |= set(paragraphs)
        kept.append("\n\n".join(fresh))
    return [text for text in kept if text]


def divide(topics: list[str]) -> tuple[str, str]:
    """The first 90 % of every topic, and the rest; each as one text."""
    parts = [(text[:cut], text[cut:]) for text in topics for cut in [round((1 - TEST_SHARE) * len(text))]]
    first, last = ("\n\n".join(pieces) for pieces in zip(*parts, strict=True))
    return first, last


def encode(text: str) -> np.ndarray:
    """Indices of the characters in the alphabet, shape (len(text),), uint8."""
    number = {character: i for i, character in enumerate(ALPHABET)}
    return np.array([number.get(character, len(ALPHABET)) for character in text], dtype=np.uint8)


def windows(stream: np.ndarray) -> Split:
    """Consecutive windows, and as labels the same shifted by one character; the remainder is dropped."""
    n = (len(stream) - 1) // WINDOW
    first, second = (stream[i : i + n * WINDOW].reshape(n, WINDOW).astype(np.int64) for i in (0, 1))
    return Split(first, second)
