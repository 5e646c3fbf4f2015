"""Check the files of a data set against the published counts, sizes and checksums, before training.

torchvision verifies CIFAR's files whenever it opens them, but not MNIST's once they are on disk.
"""

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.errors import UsageError

WAY_OUT = "remove it, so that it is unpacked or downloaded again, or name another folder with --data-dir"


@dataclass(frozen=True)
class RawFile:
    """One file in MNIST's idx format: name, shape of its array of unsigned bytes, MD5."""

    name: str
    shape: tuple[int, ...]
    md5: str

    @property
    def bytes(self) -> int:
        """Size of the file: magic number and dimensions of 4 bytes each, then the array."""
        return 4 + 4 * len(self.shape) + math.prod(self.shape)


def _mnist(*md5: str) -> tuple[RawFile, ...]:
    """The four files of MNIST or a data set of the same form: of the training part, then of the test part."""
    shapes = {
        "train-images-idx3-ubyte": (60_000, 28, 28),
        "train-labels-idx1-ubyte": (60_000,),
        "t10k-images-idx3-ubyte": (10_000, 28, 28),
        "t10k-labels-idx1-ubyte": (10_000,),
    }
    return tuple(RawFile(name, shape, digest) for (name, shape), digest in zip(shapes.items(), md5, strict=True))


# MD5 of the unpacked files. MNIST's: of the archives whose checksums torchvision lists. Fashion-MNIST's: as listed by several
# projects, one of which lists MNIST's too.
RAW_FILES = {
    "mnist": _mnist(
        "6bbc9ace898e44ae57da46a324031adb",
        "a25bea736e30d166cdddb491f175f624",
        "2646ac647ad5339dbf082846283269ea",
        "27ae3e4e09519cfbb04c329615203637",
    ),
    "fashion-mnist": _mnist(
        "f4a8712d7a061bf5bd6d2ca38dc4d50a",
        "9018921c3c673c538a1fc5bad174d6f9",
        "8181f5470baa50b63fa0f6fddb340f0a",
        "15d484375f8d13e6eb1aabb0c3f46965",
    ),
}


def check_read(name: str, kind: type, where: Path, train: bool, images: np.ndarray, labels: np.ndarray) -> None:
    """Raise UsageError where images (n, h, w, ...) and labels (n,) of one part differ from the published ones or in number.

    kind: the torchvision class that read them below `where`. Data sets that RAW_FILES does not list are checked for counts
    only. The arrays are compared, not the files, since torchvision may read from several places.
    """
    known = list(zip(RAW_FILES.get(name, ())[0 if train else 2 :], (images, labels), strict=False))
    for file, array in known:  # counts first: a wrong one says more than a checksum
        path = _read_from(where / kind.__name__, train, file)
        if array.shape != file.shape:
            raise UsageError(f"{path} holds {_shape(array.shape)} and not {_shape(file.shape)}: {WAY_OUT}")
    for file, array in known:
        path = _read_from(where / kind.__name__, train, file)
        if (digest := _idx_md5(array)) != file.md5:
            raise UsageError(f"{path} is not the published file: its MD5 is {digest}, not {file.md5}; {WAY_OUT}")
    if len(images) != len(labels):
        part = "training" if train else "test"
        raise UsageError(f"{where} has {len(images):,} {part} images and {len(labels):,} labels of them: {WAY_OUT}")


def damage(name: str, kind: type, where: Path) -> str:
    """One sentence about the first damaged file on disk; empty where there is none.

    Called after torchvision has failed to read them.
    """
    for file in RAW_FILES.get(name, ()):
        path = where / kind.__name__ / "raw" / file.name
        if path.is_file() and (size := path.stat().st_size) != file.bytes:
            return f"{path} has {size:,} bytes and not {file.bytes:,}"
        if path.is_file() and (digest := _md5(path)) != file.md5:
            return f"{path} is not the published file: its MD5 is {digest}, not {file.md5}"
    known = [*getattr(kind, "train_list", ()), *getattr(kind, "test_list", ())]
    if meta := getattr(kind, "meta", None):
        known.append((meta["filename"], meta["md5"]))
    for file_name, md5 in known:
        path = where / getattr(kind, "base_folder", "") / file_name
        if path.is_file() and (digest := _md5(path)) != md5:
            return f"{path} ({path.stat().st_size:,} bytes) is not the published file: its MD5 is {digest}, not {md5}"
    return ""


def _read_from(folder: Path, train: bool, file: RawFile) -> Path:
    """The file torchvision reads a part from: it prefers the files of its early releases to the raw ones."""
    made = [folder / "processed" / name for name in ("training.pt", "test.pt")]
    return made[0 if train else 1] if all(path.is_file() for path in made) else folder / "raw" / file.name


def _md5(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _idx_md5(array: np.ndarray) -> str:
    """MD5 of an array as an idx file of unsigned bytes: magic number and sizes, then the bytes."""
    digest = hashlib.md5(np.array([0x800 + array.ndim, *array.shape], dtype=">u4").tobytes(), usedforsecurity=False)
    digest.update(np.ascontiguousarray(array, dtype=np.uint8).data)
    return digest.hexdigest()


def _shape(shape: tuple[int, ...]) -> str:
    return f"{shape[0]:,} images of {' x '.join(map(str, shape[1:]))} pixels" if len(shape) > 1 else f"{shape[0]:,} labels"
