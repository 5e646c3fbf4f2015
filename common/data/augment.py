"""From uint8 images to a training batch: crop, flip, resize, normalise and cut out, on whole batches.

    Augmenter           pad and crop, flip, cut-out, at the images' own size (Wide ResNets)
    CroppingAugmenter   random crops smaller than the image, and flip (the EASGD paper)
    ResizingAugmenter   random resized crop and flip, at any size (fine-tuning of Vision Transformers)

The augmentation of an image is drawn by (seed, round, image index): it depends neither on the rank that trains on it nor on
the number of ranks.
"""

from copy import copy
from dataclasses import replace
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from common.data.registry import Source
from common.seeding import Purpose, stream

ATTEMPTS, WIDEST = 10, 4 / 3  # of random resized crops: torchvision's numbers


class Augmenter:
    """Turns rows of a uint8 tensor into normalised float32 batches, with or without augmentation.

    images: shape (n, h, w, channels), uint8, on the device that trains. Batches have shape (b, channels, h, w) in
    `channels_last` memory format.
    """

    def __init__(self, images: Tensor, source: Source) -> None:
        self.images, self.source = images, source
        self.size = images.shape[1]  # side of the output images
        self.scale = 1 / (255 * torch.tensor(source.std, device=images.device))
        self.shift = -torch.tensor(source.mean, device=images.device) / torch.tensor(source.std, device=images.device)

    def of(self, indices: Tensor) -> Self:
        """The same augmenter on a subset of the images."""
        fewer = copy(self)
        fewer.images = self.images[indices]
        return fewer

    def draw(self, seed: int, t: int, worker: int = 0) -> Tensor:
        """Augmentation parameters of round t for every image, shape (n, 6), int64: crop y and x, flip, cut-out, its y and x.

        worker: part of the address, where every worker goes through all images.
        """
        n, h, w, _ = self.images.shape
        pad, half = self.source.pad, self.source.cutout // 2
        low = [0, 0, 0, 0, -half, -half]
        high = [2 * pad + 1, 2 * pad + 1, 2 if self.source.flip else 1, 2, h - half, w - half]
        draws = stream(seed, Purpose.AUGMENT, t, worker=worker).integers(low, high, size=(n, 6))
        return torch.from_numpy(draws).to(self.images.device)

    def plain(self, indices: Tensor) -> Tensor:
        """A batch without augmentation, normalised."""
        return self._normalise(self.images[indices])

    def augmented(self, indices: Tensor, draws: Tensor) -> Tensor:
        """An augmented batch; draws: result of `draw`, shape (n, 6)."""
        choices, pad = draws[indices], self.source.pad
        padded = F.pad(self.images[indices], (0, 0, pad, pad, pad, pad))
        everything = torch.arange(len(padded), device=padded.device)
        batch = self._normalise(crops(padded, everything, choices, *self.images.shape[1:3]))
        return self._cut_out(batch, choices) if self.source.cutout else batch

    def _normalise(self, batch: Tensor) -> Tensor:
        return batch.to(torch.float32).mul_(self.scale).add_(self.shift).permute(0, 3, 1, 2)

    def _cut_out(self, batch: Tensor, choices: Tensor) -> Tensor:
        """Zero a square (the mean colour of normalised pixels) with probability 1/2; it may extend beyond the image."""
        _, _, h, w = batch.shape
        top, left = choices[:, 4, None], choices[:, 5, None]
        ys, xs = torch.arange(h, device=batch.device), torch.arange(w, device=batch.device)
        in_rows = (ys >= top) & (ys < top + self.source.cutout) & (choices[:, 3, None] == 1)
        in_columns = (xs >= left) & (xs < left + self.source.cutout)
        return batch.masked_fill_((in_rows[:, :, None] & in_columns[:, None, :])[:, None], 0.0)


class ResizingAugmenter(Augmenter):
    """Random resized crops (Szegedy et al. 2015) to squares of `size` pixels; without augmentation whole images, resized.

    Crops are drawn as by torchvision's RandomResizedCrop, see `crop_sizes`, at a uniform position, and resized by bilinear
    interpolation without antialiasing (images are stored little larger than `size`). Pixels in [0, 1] are normalised by
    mean = std = 1/2, as by the authors of the Vision Transformer.
    """

    def __init__(self, images: Tensor, source: Source, size: int, crop_scale: float) -> None:
        super().__init__(images, replace(source, mean=(0.5,) * source.channels, std=(0.5,) * source.channels))
        self.size, self.crop_scale = size, crop_scale

    def draw(self, seed: int, t: int, worker: int = 0) -> Tensor:
        """Augmentation parameters of round t for every image, shape (n, 5), int64: crop's top, left, rows, columns; flip."""
        n, h, w, _ = self.images.shape
        draws = stream(seed, Purpose.AUGMENT, t, worker=worker).random((n, 2 * ATTEMPTS + 3))
        rows, columns = crop_sizes(draws[:, :ATTEMPTS], draws[:, ATTEMPTS:-3], h, w, self.crop_scale)
        fits = rows > 0  # elsewhere the largest central crop with an aspect ratio in [3/4, 4/3]
        rows, columns = np.where(fits, rows, min(h, round(w * WIDEST))), np.where(fits, columns, min(w, round(h * WIDEST)))
        top = np.where(fits, np.floor((h - rows + 1) * draws[:, -3]), (h - rows) // 2)
        left = np.where(fits, np.floor((w - columns + 1) * draws[:, -2]), (w - columns) // 2)
        flip = (draws[:, -1] < 0.5) & self.source.flip
        return torch.from_numpy(np.stack([top, left, rows, columns, flip], axis=1).astype(np.int64)).to(self.images.device)

    def plain(self, indices: Tensor) -> Tensor:
        """A batch of whole images, resized and normalised."""
        batch = self._normalise(self.images[indices])
        if batch.shape[-1] == self.size == batch.shape[-2]:
            return batch
        return F.interpolate(batch, (self.size, self.size), mode="bilinear", antialias=True)

    def augmented(self, indices: Tensor, draws: Tensor) -> Tensor:
        """An augmented batch; draws: result of `draw`, shape (n, 5)."""
        top, left, rows, columns, flip = draws[indices].T[:, :, None]
        batch = self._normalise(self.images[indices])
        b, _, h, w = batch.shape
        y, x = self._places(top, rows), self._places(left, columns)
        x = torch.where(flip == 1, x.flip(1), x)
        shape = (b, self.size, self.size)
        grid = torch.stack([(2 * x / w - 1)[:, None, :].expand(shape), (2 * y / h - 1)[:, :, None].expand(shape)], dim=3)
        return F.grid_sample(batch, grid, padding_mode="border", align_corners=False)

    def _places(self, first: Tensor, length: Tensor) -> Tensor:
        """Input coordinates of the output pixels along one side; pixel k of an image reaches from k to k + 1.

        first, length: of the crop, shape (b, 1). Returns shape (b, size), clamped to the centres of the crop's first and last
        pixel, so that interpolation uses no pixel outside the crop.
        """
        steps = (torch.arange(self.size, device=first.device) + 0.5) / self.size
        return (first + length * steps).clamp(first + 0.5, first + length - 0.5)


def crop_sizes(areas: np.ndarray, ratios: np.ndarray, h: int, w: int, least: float) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of random crops of images of h x w pixels, each of shape (n,), whole numbers; 0 where no attempt fits.

    Per attempt the area is uniform in [least, 1] of the image and the aspect ratio (width / height) log-uniform in [3/4, 4/3],
    sides rounded to whole pixels; the first attempt that fits into the image is taken.
    areas, ratios: draws from U(0, 1), shape (n, attempts).
    """
    area = h * w * (least + (1 - least) * areas)
    ratio = WIDEST ** (2 * ratios - 1)
    rows, columns = np.rint(np.sqrt(area / ratio)), np.rint(np.sqrt(area * ratio))
    fits = (rows > 0) & (rows <= h) & (columns > 0) & (columns <= w)
    chosen = np.arange(len(areas)), fits.argmax(axis=1)
    return np.where(fits[chosen], rows[chosen], 0), np.where(fits[chosen], columns[chosen], 0)


class CroppingAugmenter(Augmenter):
    """Random crops of `size` pixels and flips, normalised by `source`; without augmentation the central crop."""

    def __init__(self, images: Tensor, source: Source, size: int) -> None:
        super().__init__(images, source)
        self.size = size

    def draw(self, seed: int, t: int, worker: int = 0) -> Tensor:
        """Augmentation parameters of round t for every image, shape (n, 3), int64: top and left of the crop, flip."""
        n, h, w, _ = self.images.shape
        high = [h - self.size + 1, w - self.size + 1, 2 if self.source.flip else 1]
        draws = stream(seed, Purpose.AUGMENT, t, worker=worker).integers(0, high, size=(n, 3))
        return torch.from_numpy(draws).to(self.images.device)

    def plain(self, indices: Tensor) -> Tensor:
        """A batch of central crops."""
        _, h, w, _ = self.images.shape
        top, left = (h - self.size) // 2, (w - self.size) // 2
        return self._normalise(self.images[indices][:, top : top + self.size, left : left + self.size])

    def augmented(self, indices: Tensor, draws: Tensor) -> Tensor:
        """An augmented batch; draws: result of `draw`, shape (n, 3)."""
        return self._normalise(crops(self.images, indices, draws[indices], self.size, self.size))


def crops(images: Tensor, indices: Tensor, choices: Tensor, h: int, w: int) -> Tensor:
    """Crops of h x w pixels of the images at these indices, shape (b, h, w, channels).

    choices: of each crop top, left, and whether it is mirrored (1), shape (b, 3 or more).
    """
    top, left, flip = choices[:, :3].T[:, :, None]
    columns = torch.arange(w, device=images.device)
    columns = left + torch.where(flip == 1, w - 1 - columns, columns)
    rows = top + torch.arange(h, device=images.device)
    return images[indices[:, None, None], rows[:, :, None], columns[:, None, :]]


def in_unit_range(source: Source) -> Source:
    """The same data set with pixels in [0, 1] instead of normalised ones (the EASGD paper)."""
    return replace(source, mean=(0.0,) * source.channels, std=(1.0,) * source.channels)
