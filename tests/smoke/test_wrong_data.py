"""Damaged and exchanged data files, and pictures that cannot be read, end a run before anything is written, in one line."""

import shutil
import struct
import zlib
from functools import partial

import generated_data
import pytest
from generated_data import HUNDREDS, TENS, write_pictures
from launching import TINY, VIT, check_refused, run, run_each
from PIL import Image, PngImagePlugin
from run_records import run_to_end

from common.data.sources import _read
from common.errors import UsageError
from common.vision import import_torchvision


@pytest.fixture(scope="module")
def cifar(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cifar")
    generated_data.write_cifar(folder, train=500, test=20)
    return folder


@pytest.fixture
def copy(cifar, tmp_path, monkeypatch):
    """Generated files that torchvision takes for the real ones, and no network to repair them from."""
    datasets = import_torchvision().datasets
    for kind in (datasets.CIFAR10, datasets.CIFAR100):
        for table in ("train_list", "test_list", "meta"):
            monkeypatch.setattr(kind, table, getattr(kind, table))  # put back in the end
    generated_data.accept(cifar)

    def no_network(*args, **options):
        raise RuntimeError("no network")

    monkeypatch.setattr(datasets.cifar, "download_and_extract_archive", no_network)
    return shutil.copytree(cifar, tmp_path / "data")


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize("damage", [flip, cut])
@pytest.mark.parametrize(
    ("dataset", "file"),
    [
        *(("cifar10", f"{TENS}/{name}") for name in ("data_batch_1", "data_batch_5", "test_batch", "batches.meta")),
        *(("cifar100", f"{HUNDREDS}/{name}") for name in ("train", "test", "meta")),
    ],
)
def test_torchvision_looks_at_every_file_of_cifar_and_the_damaged_one_is_named(copy, dataset, file, damage):
    assert len(_read(dataset, copy, 0)[1]) == 500
    damage(copy / file)
    with pytest.raises(UsageError, match=rf"{copy / file} \([\d,]+ bytes\) is not the published file: its MD5 is"):
        _read(dataset, copy, 0)


@pytest.mark.parametrize(
    ("dataset", "folder", "one", "other"),
    [("cifar10", TENS, "data_batch_1", "test_batch"), ("cifar100", HUNDREDS, "train", "test")],
)
def test_cifars_training_and_test_files_exchanged(copy, dataset, folder, one, other):
    (copy / folder / one).rename(copy / "aside")
    (copy / folder / other).rename(copy / folder / one)
    (copy / "aside").rename(copy / folder / other)
    with pytest.raises(UsageError, match=rf"{one} .* is not the published file"):
        _read(dataset, copy, 0)


def write_mnist(where, sizes):
    """Files of MNIST's form that hold zeros; they take no space."""
    folder = where / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for part, (images, labels) in sizes.items():
        for name, header, size in (
            (f"{part}-images-idx3-ubyte", struct.pack(">IIII", 0x803, images, 28, 28), images * 784),
            (f"{part}-labels-idx1-ubyte", struct.pack(">II", 0x801, labels), labels),
        ):
            (folder / name).write_bytes(header)
            with open(folder / name, "r+b") as file:
                file.truncate(len(header) + size)
    return where


def bomb():
    """A picture of 30,000 x 30,000 pixels, as it says."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 30_000, 30_000, 1, 0, 0, 0, 0)
    chunks = (header, b"IDAT" + zlib.compress(b"\0"), b"IEND")
    return b"\x89PNG\r\n\x1a\n" + b"".join(struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in chunks)


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    """Data folders that must not be trained on: (options, what the line names) by what is wrong."""
    root = tmp_path_factory.mktemp("broken")
    text = PngImagePlugin.PngInfo()
    text.add_text("comment", "x" * 3_000_000, zip=True)
    (write_pictures(root / "bomb") / "train/dogs/3.png").write_bytes(bomb())
    Image.new("RGB", (16, 16)).save(write_pictures(root / "text") / "test/cats/0.png", pnginfo=text)
    write_mnist(root / "swapped", {"train": (10_000, 10_000), "t10k": (60_000, 60_000)})
    write_mnist(root / "unequal", {"train": (60_000, 59_999), "t10k": (10_000, 10_000)})
    pictures = ("--dataset", "imagefolder", "--image-size", 16)
    mnist = ("--dataset", "mnist")
    return root, {
        "bomb": (pictures, "train/dogs/3.png"),
        "text": (pictures, "test/cats/0.png"),
        "swapped": (mnist, "holds 10,000 images of 28 x 28 pixels and not 60,000"),
        "unequal": (mnist, "holds 59,999 labels and not 60,000"),
    }


@pytest.mark.parametrize(("ranks", "names"), [(1, ("bomb", "unequal")), (2, ("text", "swapped"))])
def test_each_is_one_line_and_exit_code_2(broken, tmp_path, ranks, names):
    (root, cases), out, jobs = broken, tmp_path / "run", []
    for name in names:
        options = (*cases[name][0], "--data-dir", root / name, "--out", out)
        jobs.append(partial(run, VIT, *TINY, *options, ranks=ranks, code=None, limit=90))
    for name, done in zip(names, run_each(jobs), strict=True):
        check_refused(done, cases[name][1], out)
        assert "Warning" not in done.err, done


def test_what_a_folder_holds_besides_is_told_once(tmp_path):
    folder = write_pictures(tmp_path / "data")
    (folder / "train/.ipynb_checkpoints").mkdir()
    (folder / "train/cats/._0.png").write_bytes(b"\0\5\x16\7")
    options = ("--dataset", "imagefolder", "--image-size", 16, "--data-dir", folder, "--batch-size", 4, "--round-steps", 2)
    done, record = run_to_end(tmp_path / "run", 3, VIT, *TINY, *options, ranks=2)
    assert record.summary["classes"] == 2
    assert done.out.count("hidden files and folders, which are neither images nor classes: 2 (") == 1
