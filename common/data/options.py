"""Options of the data."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

from common.data.registry import SOURCES
from common.errors import UsageError
from common.options import PathText, Range

if TYPE_CHECKING:
    Dataset: TypeAlias = str
else:
    Dataset = Literal[*SOURCES, "imagefolder"]  # what is registered can be named


@dataclass(frozen=True)
class DataOptions:
    """Data: which, how much of it, and what is done to images."""

    dataset: Dataset = "cifar10"
    """what to train on; digits ships with scikit-learn, topics (a text) with Python, imagefolder reads DATA_DIR/train/CLASS/*
    and DATA_DIR/test/CLASS/* (turned by EXIF, transparency over mid-grey), the others are downloaded once by torchvision"""
    data_dir: PathText = "auto"
    """folder of the data sets (auto: $EOA_DATA, else data/)"""
    val_fraction: Annotated[float, Range(above=0, below=1, usual="0.1")] = 0.1
    """share of the training images held out, which all choices rest on (EOA's reference scripts: on the test set)"""
    train_images: Annotated[int, Range(0)] = 0
    """train on so many images only, a stratified part; 0 for all"""
    fitness_images: Annotated[int, Range(0)] = 2000
    """at most so many held-out images judge a worker each round; 0 for all"""
    image_size: Annotated[int, Range(0, 10**4)] = 0
    """resize images to squares of so many pixels, by random resized crops; 0 keeps their size and pads and crops
    (EOA: 224 in EOA-ViT)"""
    crop_scale: Annotated[float, Range(above=0, most=1)] = 0.05
    """with --image-size: least share of an image that a crop covers"""
    flip: bool = True
    """mirror training images at random, where a mirror image is of the same class (EOA: as here; no flip in EOA-ViT)"""
    crop: Annotated[int, Range(0)] = 0
    """train on random crops of so many pixels and judge the central one, without padding; 0 pads and crops instead"""
    pixels: Literal["normalised", "unit"] = "normalised"
    """normalised by mean and deviation of the data set (with --image-size: 1/2 each), or in [0, 1] (EASGD: unit)"""

    def refuse(self, given: set[str]) -> None:
        """What does not go together with the data set. Raises UsageError."""
        if self.dataset == "imagefolder" and not self.image_size:
            raise UsageError("--dataset imagefolder needs --image-size: its images have no size in common; 224 is usual")
        if "flip" in given and self.flip and self.dataset in SOURCES and not SOURCES[self.dataset].flip:
            raise UsageError(f"--flip: mirror images of {SOURCES[self.dataset].title} are not of the same class; leave it out")


def is_text(dataset: str) -> bool:
    """Whether a data set is made of characters."""
    return dataset in SOURCES and SOURCES[dataset].is_text
