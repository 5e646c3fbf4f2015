"""Folders of images as arrays: `DIR/train/CLASS/*` and `DIR/test/CLASS/*` (or `val`), pictures of any size and kind.

A picture becomes 8 bits each of red, green and blue as one sees it: turned as its EXIF orientation says, transparent parts
over a mid-grey ground, 16 bits divided by 257; of several frames the first one. What has no range of its own (32-bit integers,
floating-point numbers) is refused, as is what cannot be decoded.
"""

import os
import warnings
from collections.abc import Iterable
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

GROUND = 128  # grey that transparent pixels are laid over: neither black nor white figures vanish on it
HIDDEN = {"thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "@eadir", "$recycle.bin"}  # beside names that begin with a dot
SIXTEEN_BITS = ("PNG", "PPM", "JPEG2000")  # formats in which more than 8 bits are 16, by Pillow's names
BITS_PER_SAMPLE, PHOTOMETRIC, WHITE_IS_ZERO = 258, 262, 0  # of TIFF: two tags, and what the second may say


@dataclass
class Aside:
    """What a folder holds besides images that are read: told once.

    hidden: files and folders that systems and editors leave behind. others: files of other kinds than images. moving: images
    of several frames.
    """

    hidden: set[str] = field(default_factory=set)
    others: set[str] = field(default_factory=set)
    moving: list[str] = field(default_factory=list)

    def notes(self) -> tuple[str, ...]:
        """A line for each kind that there is: how many, and the first by name."""
        told = (
            ("hidden files and folders, which are neither images nor classes", self.hidden),
            ("files left out, since their names are not those of images", self.others),
            ("images of several frames, of which the first is used", self.moving),
        )
        return tuple(f"{what}: {len(names):,} ({_first(names)})" for what, names in told if names)


def load_folder(where: Path, size: int) -> tuple[Source, Split, Split]:
    """Both splits of a folder; images scaled to cover a square of `size` pixels, of which the centre is kept.

    Raises UsageError where there are no images, not the same classes in both parts, fewer than two, or a picture that cannot
    be read.
    """
    train = where / "train"
    test = next((where / name for name in ("test", "val") if (where / name).is_dir()), where / "test")
    aside = Aside()
    classes, files, labels = _find(train, aside)
    others, test_files, test_labels = _find(test, aside)
    if classes != others:
        raise UsageError(f"{train} and {test} hold different classes: {_brief_list(classes)} and {_brief_list(others)}")
    if len(classes) < 2:
        raise UsageError(f"{train} has a single class, '{classes[0]}': there is nothing to tell apart; at least 2 are needed")
    if train.samefile(test):
        raise UsageError(f"{train} and {test} are the same folder: test images have to be others than those trained on")
    _check_memory(len(files) + len(test_files), size)
    splits = [
        Split(_decode_all(paths, size, aside), np.array(numbers, dtype=np.int64))
        for paths, numbers in ((files, labels), (test_files, test_labels))
    ]
    half = (0.5, 0.5, 0.5)
    source = Source(where.name, len(classes), half, half, pad=0, flip=True, cutout=0, notes=aside.notes())
    return source, splits[0], splits[1]


def _find(path: Path, aside: Aside) -> tuple[list[str], list[str], list[int]]:
    """Class names, image files and their classes' numbers of one folder of class folders, in torchvision's order."""
    datasets = import_torchvision().datasets.folder

    def is_image(file: str) -> bool:
        """Whether a file is read; what is not is noted."""
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
    """Whether a file or folder of this name is left behind by a system or an editor, and no class and no image."""
    return name.startswith(".") or name.lower() in HIDDEN


def _no_images(path: Path, why: str) -> str:
    return (
        f"{path} is no folder of class folders with images ({why}): --dataset imagefolder needs --data-dir DIR with "
        "DIR/train/CLASS/... and DIR/test/CLASS/..."
    )


def _check_memory(images: int, size: int) -> None:
    """Refuse images that would not fit into the memory that is free: what is allocated here is only claimed page by page."""
    needed, free = 3 * images * size**2, psutil.virtual_memory().available
    if needed > free:
        raise UsageError(
            f"{images:,} images of {size:,} x {size:,} pixels take {needed / 2**30:,.1f} GiB, and {free / 2**30:,.1f} GiB are "
            "free: choose a smaller --image-size"
        )


def _decode_all(files: list[str], size: int, aside: Aside) -> np.ndarray:
    """The images, shape (n, size, size, 3), uint8. Raises UsageError naming the first that cannot be read."""
    images = np.empty((len(files), size, size, 3), dtype=np.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of decoders: the picture is read, or refused below
        for i, file in enumerate(files):
            try:
                images[i] = _decode(file, size, aside)
            except UsageError:
                raise
            except Exception as error:  # decoders raise whatever comes to them: OSError, SyntaxError, struct.error, ...
                raise UsageError(f"cannot read the image {file} ({brief(error)}): mend or remove it") from None
    return images


def _decode(file: str, size: int, aside: Aside) -> np.ndarray:
    """One picture, shape (size, size, 3)."""
    from PIL import Image, ImageOps

    with Image.open(file) as picture:
        if getattr(picture, "is_animated", False):
            aside.moving.append(file)
        scale_transparent_level(picture)
        ImageOps.exif_transpose(picture, in_place=True)
        return np.asarray(ImageOps.fit(to_rgb(picture), (size, size), Image.Resampling.BILINEAR))


def scale_transparent_level(picture: "Image") -> None:
    """Scale the transparent level of a grey PNG of 2 or 4 bits as Pillow scales its pixels, before they are read."""
    level, tile = picture.info.get("transparency"), getattr(picture, "tile", [])
    bits = {"L;2": 2, "L;4": 4}.get(str(tile[0][3]) if tile else "")
    if bits and isinstance(level, int):
        picture.info["transparency"] = level * 255 // (2**bits - 1)


def to_rgb(picture: "Image") -> "Image":
    """A picture of any mode as 8-bit RGB.

    Raises UsageError naming its file where its numbers have no range that could be scaled to 8 bits, and what Pillow raises
    where it cannot convert colours.
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
    """Grey levels of more than 8 bits, scaled by the largest number that the format has for them and rounded; (h, w), uint8."""
    most, levels = _largest(picture), np.asarray(picture).astype(np.int64)
    grey = ((255 * levels + most // 2) // most).astype(np.uint8)
    if getattr(picture, "tag_v2", {}).get(PHOTOMETRIC) == WHITE_IS_ZERO:
        grey = 255 - grey  # Pillow turns such TIFFs around up to 8 bits only
    transparent = picture.info.get("transparency")  # the one level that PNG can make so
    return grey if transparent is None else np.where(levels == transparent, np.uint8(GROUND), grey)


def _largest(picture: "Image") -> int:
    """The largest number that a grey picture of more than 8 bits may hold, by its format. Raises UsageError."""
    kind = getattr(picture, "format", "")
    if picture.mode != "F" and kind in SIXTEEN_BITS:
        return 2**16 - 1
    if picture.mode.startswith("I;16") and kind == "TIFF":
        return 2 ** picture.tag_v2[BITS_PER_SAMPLE][0] - 1  # type: ignore[attr-defined]
    raise UsageError(
        f"{getattr(picture, 'filename', 'a picture')} holds signed or 32-bit integers or floating-point numbers, and which of "
        "them is white is not known: save it with 8 or 16 bits, or remove it"
    )


def _first(names: Iterable[str]) -> str:
    """The first name of several."""
    first, *more = sorted(names)
    return f"{first}{', ...' if more else ''}"


def _brief_list(names: list[str]) -> str:
    return f"{len(names)} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
