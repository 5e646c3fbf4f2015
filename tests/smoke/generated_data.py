"""Files of random pixels: pictures, and CIFAR-shaped ones with a way to run a script on them.

    python generated_data.py FOLDER SCRIPT [OPTIONS]

torchvision compares CIFAR's files with checksums of its own, which generated files cannot have. `write_cifar` notes theirs
beside them; this program puts those in torchvision's tables and then runs the script unchanged.
"""

import hashlib
import json
import pickle
import runpy
import sys
from pathlib import Path

import numpy as np
from PIL import Image

CHECKSUMS = "generated.json"
TENS, HUNDREDS = "cifar-10-batches-py", "cifar-100-python"


def write_cifar(folder: Path, train: int, test: int) -> None:
    """CIFAR-10 and CIFAR-100 of so many images (a multiple of 500 for training), in the layout of the real files."""
    rng = np.random.default_rng(0)
    parts = [(f"{TENS}/data_batch_{i}", train // 5, "labels", 10) for i in range(1, 6)]
    parts += [(f"{TENS}/test_batch", test, "labels", 10)]
    parts += [(f"{HUNDREDS}/train", train, "fine_labels", 100), (f"{HUNDREDS}/test", test, "fine_labels", 100)]
    files = {f"{TENS}/batches.meta": {"label_names": [str(i) for i in range(10)]}}
    files |= {f"{HUNDREDS}/meta": {"fine_label_names": [str(i) for i in range(100)]}}
    for name, n, key, classes in parts:
        files[name] = {"data": rng.integers(0, 256, (n, 3072), dtype=np.uint8), key: [i % classes for i in range(n)]}
    sums = {}
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(pickle.dumps(content))
        sums[path.name] = hashlib.md5(path.read_bytes()).hexdigest()
    (folder / CHECKSUMS).write_text(json.dumps(sums))


def write_pictures(folder: Path, n: int = 20) -> Path:
    """Noisy pictures, dark cats and bright dogs, of two sizes: n of each for training and testing."""
    rng = np.random.default_rng(0)
    for part in ("train", "test"):
        for k, name in enumerate(("cats", "dogs")):
            (folder / part / name).mkdir(parents=True)
            for i in range(n):
                pixels = rng.integers(0, 128, (*((20, 30), (40, 20))[i % 2], 3)) + 127 * k
                Image.fromarray(pixels.astype(np.uint8)).save(folder / part / name / f"{i}.png")
    return folder


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
