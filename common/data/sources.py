"""Data sets as arrays in memory. torchvision downloads and checks them; scikit-learn's digits and texts need no download.

To add a data set, use a folder of images (`imagefolder`), or add one line to `registry.SOURCES`.
"""

import contextlib
import io
from pathlib import Path

import numpy as np

from common.data.files import WAY_OUT, check_read, damage
from common.data.registry import SOURCES, Source, Split, brief
from common.errors import UsageError
from common.parallel.topology import Topology
from common.vision import import_torchvision

KEPT_LARGER = 8 / 7  # stored side over training side of a folder's images, as for crops of 224 from 256 pixels
NO_FILES = "or use --dataset digits, which needs no files"


def load(name: str, directory: Path, topology: Topology, image_size: int) -> tuple[Source, Split | None, Split | None]:
    """Metadata of a data set; on the first rank of every node also its training and test splits, None elsewhere.

    That rank alone downloads missing files, reads and checks them, which takes seconds of processor time. Collective over the
    world. image_size: side that a folder's images are resized to in training; they are stored a little larger. Raises
    UsageError, on all ranks, where the data are unavailable, a file is damaged, or nodes have different data.
    """
    stored = round(KEPT_LARGER * image_size)
    with topology.world.raise_together():
        read = _read(name, directory.absolute(), stored) if topology.node.rank == 0 else (None, None, None)
    source = topology.world.bcast_object(read[0])
    with topology.world.raise_together():
        if read[0] not in (None, source):
            raise UsageError(f"{source.title} is not the same on all nodes: give them the same files, and the same Python")
    return source, read[1], read[2]


def _read(name: str, directory: Path, size: int) -> tuple[Source, Split, Split]:
    if name == "imagefolder":
        from common.data.folder import load_folder

        return load_folder(directory, size)
    if name == "topics":
        from common.data.texts import load_topics

        return load_topics()
    train, test = _digits() if name == "digits" else (_open(name, directory, train=part) for part in (True, False))
    for part in (train, test):
        _check_labels(SOURCES[name], part)
    return SOURCES[name], train, test


def _check_labels(source: Source, part: Split) -> None:
    """Refuse labels out of range, and a part with a single class. Raises UsageError."""
    found = np.unique(part.labels)
    if len(found) < 2 or found[0] < 0 or found[-1] >= source.classes:
        values = f"{len(found)} from {found[0]} to {found[-1]}" if len(found) else "none"
        raise UsageError(
            f"{source.title} has labels of {source.classes} classes, 0 to {source.classes - 1}, but one of its parts has "
            f"{values}: use other files"
        )


def _digits() -> tuple[Split, Split]:
    """1797 handwritten digits of 8 x 8 pixels; a stratified 20 % (seed 0) is the test split."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)[..., None]
    train, test = train_test_split(np.arange(len(images)), test_size=0.2, stratify=digits.target, random_state=0)
    everything = Split(images, digits.target.astype(np.int64))
    return everything.take(train), everything.take(test)


def _open(name: str, where: Path, train: bool) -> Split:
    """One split by torchvision, whose first call downloads the files of both; checked by `common.data.files`."""
    kind = getattr(import_torchvision().datasets, SOURCES[name].torchvision)
    there_before = where.exists()
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            data = kind(root=where, train=train, download=train)
            images, labels = np.asarray(data.data), np.asarray(data.targets, dtype=np.int64)
    except Exception as error:  # a damaged file may raise any type
        if not there_before:
            _remove_empty(where)
        why = damage(name, kind, where)
        if why:
            raise UsageError(f"{SOURCES[name].title} is damaged: {why}; {WAY_OUT}, {NO_FILES}") from None
        raise UsageError(
            f"{SOURCES[name].title} is not (complete) in {where} and could not be downloaded ({brief(error)}): "
            f"name its folder with --data-dir or EOA_DATA, {NO_FILES}"
        ) from None
    check_read(name, kind, where, train, images, labels)
    return Split(images if images.ndim == 4 else images[..., None], labels)


def _remove_empty(folder: Path) -> None:
    """Remove folders that were created for a failed download."""
    for path in [*sorted(folder.rglob("*"), reverse=True), folder]:
        with contextlib.suppress(OSError):  # a file, a folder that is not empty, or missing
            path.rmdir()
