"""Folders of images as arrays: `DIR/train/CLASS/*` and `DIR/test/CLASS/*` (or `val`), images of any size and format.

Images are converted to 8-bit RGB: EXIF orientation applied, transparency composited over mid-grey, 16 bits divided by 257, the
first of several frames. Formats without a defined range (32-bit integers, floating-point numbers) and images that cannot be
decoded are refused.
"""

import os
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import psutil

from common.data.registry import Source, Split, brief
from common.errors import UsageError
from common.vision import import_torchvision

if TYPE_CHECKING:
    from PIL.Image import Image

GROUND = 128  # grey background of transparent pixels: both black and white figures stay visible on it
HIDDEN = {"thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "@eadir", "$recycle.bin"}  # and names that begin with a dot
SIXTEEN_BITS = ("PNG", "PPM", "JPEG2000")  # Pillow's names of formats where more than 8 bits means 16
BITS_PER_SAMPLE, PHOTOMETRIC, WHITE_IS_ZERO = 258, 262, 0  # of TIFF: two tags, and a value of the second


@dataclass
class Aside:
    """Files of a folder to report to the user.

    hidden: files and folders left by systems and editors, skipped. others: files that are not images, skipped. moving: images
    of several frames.
    """

    hidden: set[str] = field(default_factory=set)
    others: set[str] = field(default_factory=set)
    moving: list[str] = field(default_factory=list)

    def notes(self) -> tuple[str, ...]:
        """One line per non-empty kind: the number of files, and the first by name."""
        told = (
            ("hidden files and folders, which are neither images nor classes", self.hidden),
            ("files left out, since their names are not those of images", self.others),
            ("images of several frames, of which the first is used", self.moving),
        )
        return tuple(f"{what}: {len(names):,} ({_some(sorted(names), 1)})" for what, names in told if names)


def load_folder(where: Path, size: int) -> tuple[Source, Split, Split]:
    """Both splits of a folder; images are scaled to cover a square of `size` pixels and center-cropped to it.

    Raises UsageError where there are no images, fewer than two classes, different classes in both parts, or an unreadable
    image.
    """
    train = where / "train"
    test = next((where / name for name in ("test", "val") if (where / name).is_dir()), where / "test")
    aside = Aside()
    classes, files, labels = _find(train, aside)
    others, test_files, test_labels = _find(test, aside)
    if classes != others:
        both = " and ".join(f"{len(names)} ({_some(names, 3)})" for names in (classes, others))
        raise UsageError(f"{train} and {test} hold different classes: {both}")
    if len(classes) < 2:
        raise UsageError(f"{train} has a single class, '{classes[0]}': at least 2 are needed")
    if train.samefile(test):
        raise UsageError(f"{train} and {test} are the same folder: test images must differ from training images")
    _check_memory(len(files) + len(test_files), size)
    first, second = (
        Split(_decode_all(paths, size, aside), np.array(numbers, dtype=np.int64))
        for paths, numbers in ((files, labels), (test_files, test_labels))
    )
    half = (0.5, 0.5, 0.5)
    source = Source(where.name, len(classes), half, half, pad=0, flip=True, cutout=0, notes=aside.notes())
    return source, first, second


def _find(path: Path, aside: Aside) -> tuple[list[str], list[str], list[int]]:
    """Class names, image files and labels of one folder of class folders, in torchvision's order."""
    datasets = import_torchvision().datasets.folder

    def is_image(file: str) -> bool:
        """Whether a file is read; others are recorded in `aside`."""
        parts = Path(file).relative_to(path).parts
        if (depth := next((i for i, part in enumerate(parts) if is_hidden(part)), None)) is not None:
            aside.hidden.add(str(path.joinpath(*parts[: depth + 1])))
            return False
        if not datasets.is_image_file(file):
            aside.others.add(file)
            return False
        return True

    try:
        entries = sorted(os.scandir(path), key=lambda entry: entry.name)
        aside.hidden.update(entry.path for entry in entries if is_hidden(entry.name))
        classes = [entry.name for entry in entries if entry.is_dir() and not is_hidden(entry.name)]
        numbers = {name: i for i, name in enumerate(classes)}
        samples = datasets.make_dataset(str(path), numbers, is_valid_file=is_image) if classes else []
    except FileNotFoundError as error:
        raise UsageError(_no_images(path, brief(error))) from None
    except OSError as error:
        raise UsageError(f"cannot read the folder {path} ({brief(error)}): make it readable, or name another one") from None
    if not samples:
        raise UsageError(_no_images(path, "it has no folder that could be a class"))
    files, labels = zip(*samples, strict=True)
    return classes, list(files), list(labels)


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name was left by a system or an editor, and is neither class nor image."""
    return name.startswith(".") or name.lower() in HIDDEN


def _no_images(path: Path, why: str) -> str:
    return (
        f"{path} is no folder of class folders with images ({why}): --dataset imagefolder needs --data-dir DIR with "
        "DIR/train/CLASS/... and DIR/test/CLASS/..."
    )


def _check_memory(images: int, size: int) -> None:
    """Refuse images that exceed free memory: the allocation itself would succeed, since pages are claimed on first use."""
    needed, free = 3 * images * size**2, psutil.virtual_memory().available
    if needed > free:
        raise UsageError(
            f"{images:,} images of {size:,} x {size:,} pixels take {needed / 2**30:,.1f} GiB, and {free / 2**30:,.1f} GiB are "
            "free: choose a smaller --image-size"
        )


def _decode_all(files: list[str], size: int, aside: Aside) -> np.ndarray:
    """Images, shape (n, size, size, 3), uint8. Raises UsageError naming the first unreadable one."""
    images = np.empty((len(files), size, size, 3), dtype=np.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of decoders: the image is read, or refused below
        for i, file in enumerate(files):
            try:
                images[i] = _decode(file, size, aside)
            except UsageError:
                raise
            except Exception as error:  # decoders raise many types: OSError, SyntaxError, struct.error, ...
                raise UsageError(f"cannot read the image {file} ({brief(error)}): repair or remove it") from None
    return images


def _decode(file: str, size: int, aside: Aside) -> np.ndarray:
    """One image, shape (size, size, 3)."""
    from PIL import Image, ImageOps

    with Image.open(file) as picture:
        if getattr(picture, "is_animated", False):
            aside.moving.append(file)
        scale_transparent_level(picture)
        ImageOps.exif_transpose(picture, in_place=True)
        return np.asarray(ImageOps.fit(to_rgb(picture), (size, size), Image.Resampling.BILINEAR))


def scale_transparent_level(picture: "Image") -> None:
    """Scale the transparent level of a 2- or 4-bit grey PNG to 8 bits, as Pillow does its pixels; call before reading them."""
    level, tile = picture.info.get("transparency"), getattr(picture, "tile", [])
    bits = {"L;2": 2, "L;4": 4}.get(str(tile[0][3]) if tile else "")
    if bits and isinstance(level, int):
        picture.info["transparency"] = level * 255 // (2**bits - 1)


def to_rgb(picture: "Image") -> "Image":
    """An image of any mode as 8-bit RGB.

    Raises UsageError naming its file where its format defines no range to scale to 8 bits, and Pillow's errors where it cannot
    convert colours.
    """
    from PIL import Image

    if picture.mode == "F" or picture.mode.startswith("I"):
        return Image.fromarray(_scaled(picture)).convert("RGB")
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    ground = Image.new("RGBA", picture.size, (GROUND, GROUND, GROUND, 255))
    ground.alpha_composite(picture.convert("LA").convert("RGBA") if picture.mode == "La" else picture.convert("RGBA"))
    return ground.convert("RGB")


def _scaled(picture: "Image") -> np.ndarray:
    """Grey levels of more than 8 bits, scaled by the format's largest value and rounded; shape (h, w), uint8."""
    most, levels = _largest(picture), np.asarray(picture).astype(np.int64)
    grey = ((255 * levels + most // 2) // most).astype(np.uint8)
    if getattr(picture, "tag_v2", {}).get(PHOTOMETRIC) == WHITE_IS_ZERO:
        grey = 255 - grey  # Pillow inverts such TIFFs up to 8 bits only
    transparent = picture.info.get("transparency")  # PNG: a single level
    return grey if transparent is None else np.where(levels == transparent, np.uint8(GROUND), grey)


def _largest(picture: "Image") -> int:
    """Largest value of a grey image of more than 8 bits, by its format. Raises UsageError where there is none."""
    kind = getattr(picture, "format", "")
    if picture.mode != "F" and kind in SIXTEEN_BITS:
        return 2**16 - 1
    if picture.mode.startswith("I;16") and kind == "TIFF":
        return 2 ** picture.tag_v2[BITS_PER_SAMPLE][0] - 1  # type: ignore[attr-defined]
    raise UsageError(
        f"{getattr(picture, 'filename', 'a picture')} holds signed or 32-bit integers or floating-point numbers, whose white "
        "level is unknown: save it with 8 or 16 bits, or remove it"
    )


def _some(names: list[str], most: int) -> str:
    """The first names, followed by ", ..." if there are more than `most`."""
    return ", ".join([*names[:most], *["..."] * (len(names) > most)])
