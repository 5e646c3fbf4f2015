"""CIFAR-shaped files of random pixels, and a way to run a script on them.

    python generated_cifar.py FOLDER SCRIPT [OPTIONS]

torchvision compares CIFAR's files with checksums of its own, which generated files cannot have. `write` notes theirs beside
them; this program puts those in torchvision's tables and then runs the script unchanged.
"""

import hashlib
import json
import pickle
import runpy
import sys
from pathlib import Path

import numpy as np

CHECKSUMS = "generated.json"


def write(folder: Path, train: int, test: int) -> None:
    """CIFAR-10 and CIFAR-100 of so many images (a multiple of 500 for training), in the layout of the real files."""
    rng = np.random.default_rng(0)
    tens, hundreds = folder / "cifar-10-batches-py", folder / "cifar-100-python"
    for i in range(5):
        _dump(tens / f"data_batch_{i + 1}", {"data": _pixels(rng, train // 5), "labels": _labels(train // 5, 10)})
    _dump(tens / "test_batch", {"data": _pixels(rng, test), "labels": _labels(test, 10)})
    _dump(tens / "batches.meta", {"label_names": [str(i) for i in range(10)]})
    for name, n in (("train", train), ("test", test)):
        _dump(hundreds / name, {"data": _pixels(rng, n), "fine_labels": _labels(n, 100)})
    _dump(hundreds / "meta", {"fine_label_names": [str(i) for i in range(100)]})
    sums = {p.name: hashlib.md5(p.read_bytes()).hexdigest() for p in (*tens.iterdir(), *hundreds.iterdir())}
    (folder / CHECKSUMS).write_text(json.dumps(sums))


def _pixels(rng: np.random.Generator, n: int) -> np.ndarray:
    return rng.integers(0, 256, (n, 3072), dtype=np.uint8)


def _labels(n: int, classes: int) -> list[int]:
    return [i % classes for i in range(n)]


def _dump(path: Path, content: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(content))


def accept(folder: Path) -> None:
    """Let torchvision take the generated files' checksums for the real ones."""
    from common.vision import import_torchvision

    sums = json.loads((folder / CHECKSUMS).read_text())
    datasets = import_torchvision().datasets
    for kind in (datasets.CIFAR10, datasets.CIFAR100):
        kind.train_list = [[name, sums[name]] for name, _ in kind.train_list]
        kind.test_list = [[name, sums[name]] for name, _ in kind.test_list]
        kind.meta = {**kind.meta, "md5": sums[kind.meta["filename"]]}


if __name__ == "__main__":
    folder, script, *options = sys.argv[1:]
    accept(Path(folder))
    sys.argv = [script, *options]
    sys.path[0] = str(Path(script).parent)
    runpy.run_path(script, run_name="__main__")
