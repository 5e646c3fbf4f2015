"""Files of MNIST's form against what was published: counts, sizes and checksums, whichever file torchvision reads."""

import gzip
import hashlib
import os
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from common.data.files import RAW_FILES, RawFile
from common.data.registry import SOURCES
from common.data.sources import _read
from common.errors import UsageError
from common.vision import import_torchvision

NAMES = [file.name for file in RAW_FILES["mnist"]]
TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS = NAMES
SIZES = {"train": 60, "t10k": 20}


def md5(content):
    return hashlib.md5(content).hexdigest()


def idx(array):
    """A file of MNIST's format, written by the letter of its description."""
    magic = struct.pack(">BBBB", 0, 0, 8, array.ndim)
    return magic + b"".join(struct.pack(">I", n) for n in array.shape) + array.astype(np.uint8).tobytes()


@pytest.fixture
def raw(tmp_path, monkeypatch):
    """The folder of a small MNIST whose checksums are the published ones, without a network."""
    rng, folder = np.random.default_rng(0), tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    known = []
    for name in NAMES:
        n = SIZES[name.split("-")[0]]
        array = rng.integers(0, 256, (n, 28, 28)) if "images" in name else np.arange(n) % 10
        (folder / name).write_bytes(idx(array))
        known.append(RawFile(name, array.shape, md5(idx(array))))
    monkeypatch.setitem(RAW_FILES, "mnist", tuple(known))

    def no_network(*args, **options):
        raise RuntimeError("no network")

    monkeypatch.setattr(import_torchvision().datasets.mnist, "download_and_extract_archive", no_network)
    return folder


def refusal(raw):
    with pytest.raises(UsageError) as error:
        _read("mnist", raw.parents[1], 0)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_files_as_published_are_read(raw):
    source, train, test = _read("mnist", raw.parents[1], 0)
    assert (source.title, train.images.shape, test.images.shape) == ("MNIST", (60, 28, 28, 1), (20, 28, 28, 1))
    assert train.images.tobytes() == (raw / TRAIN_IMAGES).read_bytes()[16:]
    assert train.labels.tolist() == [i % 10 for i in range(60)]


def test_training_and_test_files_swapped(raw):
    """The labels go along, so nothing but the counts and the checksums tells."""
    for one, other in ((TRAIN_IMAGES, TEST_IMAGES), (TRAIN_LABELS, TEST_LABELS)):
        (raw / one).rename(raw / "aside")
        (raw / other).rename(raw / one)
        (raw / "aside").rename(raw / other)
    line = refusal(raw)
    assert f"{raw / TRAIN_IMAGES} holds 20 images of 28 x 28 pixels and not 60 images of 28 x 28 pixels" in line
    assert "--data-dir" in line


def test_labels_of_the_other_part(raw):
    (raw / TRAIN_LABELS).write_bytes((raw / TEST_LABELS).read_bytes())
    assert f"{raw / TRAIN_LABELS} holds 20 labels and not 60 labels" in refusal(raw)


CHANGES = {  # what is written instead, and what the line has to name besides the file
    "a bit": (lambda content: content[:-1] + bytes([content[-1] ^ 1]), "is not the published file: its MD5 is {md5}, not"),
    "shorter": (lambda content: content[:-1], "has {size:,} bytes and not {before:,}"),
    "longer": (lambda content: content + b"\0", "has {size:,} bytes and not {before:,}"),
    "empty": (lambda content: b"", "has {size:,} bytes and not {before:,}"),
    "compressed": (gzip.compress, "has {size:,} bytes and not {before:,}"),
    "other magic": (lambda content: b"\1\1\1\1" + content[4:], ""),
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("change", CHANGES)
def test_other_sizes_and_contents(raw, name, change):
    path = raw / name
    before = path.read_bytes()
    make, said = CHANGES[change]
    after = make(before)
    path.write_bytes(after)
    line = refusal(raw)
    assert f"{path} {said.format(size=len(after), before=len(before), md5=md5(after))}" in line
    assert ("--data-dir" if change == "a bit" else "--dataset digits") in line


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_file_is_asked_for_and_then_told(raw, name):
    (raw / name).unlink()
    assert "MNIST is not (complete)" in refusal(raw)


def test_files_that_early_releases_of_torchvision_made(raw):
    """They are read in the place of the raw ones, and compared with the same checksums."""
    made = raw.parent / "processed"
    made.mkdir()
    part = {"train": ("training.pt", 60), "t10k": ("test.pt", 20)}
    for name, (file, n) in part.items():
        images = np.frombuffer((raw / f"{name}-images-idx3-ubyte").read_bytes(), np.uint8, offset=16).reshape(n, 28, 28)
        torch.save((torch.tensor(images), torch.arange(n) % 10), made / file)
    _, train, _ = _read("mnist", raw.parents[1], 0)
    assert len(train) == 60
    (made / "training.pt").write_bytes((made / "test.pt").read_bytes())
    assert f"{made / 'training.pt'} holds 20 images" in refusal(raw)


def test_what_has_no_published_checksums_has_equal_counts_at_least(raw, monkeypatch):
    """A data set of one's own, by one line in SOURCES."""
    monkeypatch.delitem(RAW_FILES, "mnist")
    assert len(_read("mnist", raw.parents[1], 0)[1]) == 60
    (raw / TEST_LABELS).write_bytes(idx(np.arange(19) % 10))
    assert "has 20 test images and 19 labels of them" in refusal(raw)


@pytest.mark.parametrize("labels", [np.full(60, 3), np.arange(60), np.zeros(60)])
def test_labels_that_are_no_classes_or_all_the_same(raw, monkeypatch, labels):
    monkeypatch.delitem(RAW_FILES, "mnist")
    (raw / TRAIN_LABELS).write_bytes(idx(labels))
    assert "MNIST has labels of 10 classes, 0 to 9, but one of its parts has" in refusal(raw)


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_sizes_in_bytes_are_the_published_ones(name):
    assert [file.bytes for file in RAW_FILES[name]] == [47_040_016, 60_008, 7_840_016, 10_008]
    assert len({file.md5 for file in RAW_FILES[name]}) == 4


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_the_checksums_are_those_of_what_torchvision_unpacks(name):
    """The archives, whose checksums torchvision knows, hold the files that we know; where they have been downloaded."""
    kind = getattr(import_torchvision().datasets, SOURCES[name].torchvision)
    folder = Path(os.environ.get("EOA_DATA", "data")) / kind.__name__ / "raw"
    for (archive, checksum), file in zip(kind.resources, RAW_FILES[name], strict=True):
        if not (folder / archive).exists():
            pytest.skip(f"{archive} of {SOURCES[name].title} is not in {folder}")
        packed = (folder / archive).read_bytes()
        unpacked = gzip.decompress(packed)
        assert md5(packed) == checksum
        assert (archive, md5(unpacked), len(unpacked)) == (f"{file.name}.gz", file.md5, file.bytes)
