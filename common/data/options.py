"""Options of the data."""

from dataclasses import dataclass
from typing import Annotated, Literal

from common.data.registry import SOURCES
from common.errors import UsageError
from common.options import PathText, Range


@dataclass(frozen=True)
class DataOptions:
    """Data: data set, splits and augmentation."""

    dataset: Literal[*SOURCES, "imagefolder"] = "cifar10"  # type: ignore[valid-type]
    """data set; digits ships with scikit-learn, topics (a text) with Python, imagefolder reads DATA_DIR/train/CLASS/* and
    DATA_DIR/test/CLASS/* (EXIF orientation applied, transparency over mid-grey), torchvision downloads the others once"""
    data_dir: PathText = "auto"
    """folder of the data sets (auto: $EOA_DATA, else data/)"""
    val_fraction: Annotated[float, Range(above=0, below=1, usual="0.1")] = 0.1
    """share of the training images held out; all choices rest on them (EOA's reference scripts: on the test set)"""
    train_images: Annotated[int, Range(0)] = 0
    """number of training images, a stratified subset; 0 for all"""
    fitness_images: Annotated[int, Range(0)] = 2000
    """evaluate a worker on at most this many held-out images each round; 0 for all"""
    image_size: Annotated[int, Range(0, 10**4)] = 0
    """side in pixels of the squares that images are resized to, by random resized crops; 0 keeps their size and pads and crops
    (EOA: 224 in EOA-ViT)"""
    crop_scale: Annotated[float, Range(above=0, most=1)] = 0.05
    """with --image-size: smallest crop, as a share of the image's area"""
    flip: bool = True
    """mirror training images at random, where a mirror image is of the same class (EOA: as here; no flip in EOA-ViT)"""
    crop: Annotated[int, Range(0)] = 0
    """side in pixels of random training crops without padding, evaluation on the central crop; 0 pads and crops instead"""
    pixels: Literal["normalised", "unit"] = "normalised"
    """normalised by the data set's mean and standard deviation (with --image-size: 1/2 each), or in [0, 1] (EASGD: unit)"""

    def refuse(self, given: set[str]) -> None:
        """Refuse options that do not fit the data set or exclude each other. Raises UsageError."""
        if self.dataset == "imagefolder" and not self.image_size:
            raise UsageError("--dataset imagefolder needs --image-size: its images have no common size; 224 is usual")
        if "flip" in given and self.flip and self.dataset in SOURCES and not SOURCES[self.dataset].flip:
            raise UsageError(f"--flip: mirror images of {SOURCES[self.dataset].title} are not of the same class; leave it out")
        if self.crop and self.image_size:
            raise UsageError(f"--crop {self.crop} and --image-size {self.image_size} exclude each other: leave one of them out")
        if (self.crop or self.image_size) and is_text(self.dataset):
            raise UsageError(f"--crop and --image-size are for images, and {self.dataset} is text: leave them out")
        if self.pixels == "unit" and (self.image_size or is_text(self.dataset)):
            sized = f"--image-size {self.image_size}, with which they lie in [-1, 1]"
            beside = sized if self.image_size else f"--dataset {self.dataset}, a text"
            raise UsageError(f"--pixels unit cannot be combined with {beside}: give --pixels normalised")


def is_text(dataset: str) -> bool:
    """Whether a data set is a text."""
    return dataset in SOURCES and SOURCES[dataset].is_text
