"""Data of a run: the training, validation, fitness and test splits, and their batches."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from common.data.augment import Augmenter, CroppingAugmenter, ResizingAugmenter, in_unit_range
from common.data.options import DataOptions
from common.data.registry import Source, Split
from common.data.sources import load
from common.data.texts import Texts
from common.errors import UsageError
from common.parallel.topology import Topology
from common.paths import data_directory
from common.seeding import Purpose, stream

STRATA = 10  # parts of a text by which its splits are stratified


@dataclass(frozen=True)
class ImageDataset:
    """One split on the training device: an augmenter over its images, and labels of shape (n,)."""

    augmenter: Augmenter
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: Tensor) -> "ImageDataset":
        """The images at these indices, in this order."""
        return ImageDataset(self.augmenter.of(indices), self.labels[indices])

    @property
    def size(self) -> int:
        """Side of the output images in pixels."""
        return self.augmenter.size

    def draw(self, seed: int, t: int, worker: int = 0) -> Tensor:
        """Augmentation parameters of each image in round t, for `augmented`."""
        return self.augmenter.draw(seed, t, worker)

    def plain(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Images without augmentation, and their labels."""
        return self.augmenter.plain(indices), self.labels[indices]

    def augmented(self, indices: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
        """Augmented images and their labels; draws: result of `draw`."""
        return self.augmenter.augmented(indices, draws), self.labels[indices]


@dataclass(frozen=True)
class DataSet:
    """All splits of one run; the same on every rank.

    train: for gradients. validation: held out of the training images; all choices rest on it. fitness: fixed stratified part of
    it on which every worker is evaluated after each round. test: reported once at the end; no choice depends on it.
    """

    source: Source
    train: ImageDataset | Texts
    validation: ImageDataset | Texts
    fitness: ImageDataset | Texts
    test: ImageDataset | Texts

    def batches(
        self, seed: int, t: int, batch_size: int, rank: int, ranks: int, steps: int, worker: int = 0
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """This rank's part of round t: `steps` augmented batches of batch_size / ranks images.

        The global batch of step s is the s-th block of `batch_size` images of the world-wide permutation of (seed, t), whatever
        the number of ranks; the remainder is dropped. worker: part of the address of permutation and augmentation, where every
        worker goes through all images.
        """
        order = permutation(seed, t, len(self.train), worker)
        mine = order[: steps * batch_size].reshape(steps, ranks, batch_size // ranks)[:, rank]
        yield from self._augmented(mine, self.train.draw(seed, t, worker))

    def own_batches(
        self, seed: int, t: int, size: int, worker: int, workers: int, steps: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Round t of a worker with its own shard (`shard`): `steps` augmented batches of `size` images.

        The shard is reshuffled every round; the remainder is dropped. All workers make the same number of steps.
        """
        own = shard(seed, len(self.train), worker, workers)
        mine = own[permutation(seed, t, len(own), worker)][: steps * size].reshape(steps, size)
        yield from self._augmented(mine, self.train.draw(seed, t))

    def _augmented(self, batches: np.ndarray, draws: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of the images with these indices, shape (steps, size)."""
        for indices in torch.from_numpy(np.ascontiguousarray(batches)).to(self.train.labels.device):
            yield self.train.augmented(indices, draws)


def open_data(options: DataOptions, topology: Topology, seed: int) -> DataSet:
    """Load a data set and split it; the split depends on `seed` alone. Collective over the world.

    Raises UsageError where the data are unusable, or smaller than the options ask for.
    """
    source, train, test = load(options.dataset, data_directory(options.data_dir), topology, options.image_size)
    source = replace(source, flip=source.flip and options.flip)
    with topology.world.raise_together():
        mine = None
        if topology.world.rank == 0 and train:
            side = min(train.images.shape[1:3])
            if options.crop > side:
                raise UsageError(f"--crop {options.crop} is more than the {side} pixels of {source.title}'s images")
            strata = np.arange(len(train)) * STRATA // len(train) if source.is_text else train.labels
            kept, held_out, chosen = split(strata, options.val_fraction, options.fitness_images, seed, source.title)
            mine = fewer(strata, kept, options.train_images, seed), held_out, chosen
    kept, held_out, chosen = topology.world.bcast_object(mine)

    def on_device(part: Split | None) -> ImageDataset | Texts:
        """Broadcast the split from the first rank of a node to all its ranks."""
        shared = (topology.node.bcast_array(a) for a in ((part.images, part.labels) if part else (None, None)))
        images, labels = (torch.from_numpy(a).to(topology.device) for a in shared)
        return Texts(images, labels) if source.is_text else ImageDataset(_augmenter(images, source, options), labels)

    return DataSet(
        source=source,
        train=on_device(train and train.take(kept)),
        validation=on_device(train and train.take(held_out)),
        fitness=on_device(train and train.take(chosen)),
        test=on_device(test),
    )


def _augmenter(images: Tensor, source: Source, options: DataOptions) -> Augmenter:
    """What crops, resizes and normalises the images, as the options say."""
    if options.image_size:
        return ResizingAugmenter(images, source, options.image_size, options.crop_scale)
    kind = in_unit_range(source) if options.pixels == "unit" else source
    return CroppingAugmenter(images, kind, options.crop) if options.crop else Augmenter(images, kind)


def split(
    labels: np.ndarray, fraction: float, fitness_images: int, seed: int, title: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Indices for training, for validation, and of the validation images for the fitness of a round; stratified by label.

    The first two are disjoint and cover all images. fitness_images: size of the third, 0 for all of the second.
    Raises UsageError unless 0 < fraction < 1 leaves both parts at least one image of each class.
    """
    from sklearn.model_selection import train_test_split  # takes a second to import, and only rank 0 splits

    counts = np.unique(labels, return_counts=True)[1]
    classes, least = len(counts), counts.min()
    held = round(fraction * len(labels)) if 0 < fraction < 1 else 0
    # scikit-learn rounds the images of each class, so the rarest class has to round to at least one image on either side.
    if not (classes <= held <= len(labels) - classes and 0.5 <= fraction * least <= least - 0.5):
        low = max(classes / len(labels), 0.5 / least)
        raise UsageError(
            f"--val-fraction {fraction:g} is not usable: {title} has {len(labels)} training images of {classes} classes "
            f"(the rarest has {least}), so it has to lie between {low:.4f} and {1 - low:.4f} (fitness is measured on "
            "held-out images; 0.1 is usual)"
        )
    draw = stream(seed, Purpose.SPLIT)
    states = [int(s) for s in draw.integers(2**32, size=2)]
    kept, held_out = train_test_split(np.arange(len(labels)), test_size=held, stratify=labels, random_state=states[0])
    judges = max(fitness_images, classes)
    rarest = np.unique(labels[held_out], return_counts=True)[1].min()
    if fitness_images == 0 or judges > len(held_out) - classes or rarest < 2:
        return kept, held_out, held_out
    judged, _ = train_test_split(held_out, train_size=judges, stratify=labels[held_out], random_state=states[1])
    return kept, held_out, judged


def fewer(labels: np.ndarray, kept: np.ndarray, wanted: int, seed: int) -> np.ndarray:
    """`wanted` of the indices `kept`, stratified by label; all of them if 0 or no fewer are wanted. Raises UsageError."""
    if not wanted or wanted >= len(kept):
        return kept
    classes = len(np.unique(labels))
    if wanted < classes:
        raise UsageError(f"--train-images {wanted} is too few for {classes} classes: take at least {classes}, or 0 for all")
    from sklearn.model_selection import train_test_split

    state = int(stream(seed, Purpose.SUBSET).integers(2**32))
    return train_test_split(kept, train_size=wanted, stratify=labels[kept], random_state=state)[0]


def permutation(seed: int, t: int, n: int, worker: int = 0) -> np.ndarray:
    """Order of n training images in round t: world-wide, or of one worker where each goes through all of them."""
    return stream(seed, Purpose.SHUFFLE, t, worker=worker).permutation(n)


def shard(seed: int, n: int, worker: int, workers: int) -> np.ndarray:
    """Indices of one worker's shard of the training images for a whole run, shape (n // workers,).

    Drawn by the seed. Shards are disjoint; the n % workers images left over belong to no shard.
    """
    size = n // workers
    return stream(seed, Purpose.SHARD).permutation(n)[worker * size : (worker + 1) * size]
