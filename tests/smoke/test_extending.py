"""The extensions of docs/extending.md, added verbatim to a copy of the project and used."""

import re
import shutil

import pytest
from launching import CIFAR10, NO_NETWORK, ROOT, TINY, check_refused, run
from run_records import run_to_end

BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "docs/extending.md").read_text(), re.DOTALL)


def block(beginning):
    """The documentation's one block of code that begins so."""
    (found,) = [b for b in BLOCKS if b.startswith(beginning)]
    return found


def put(path, after, text):
    """Put text behind the first occurrence of another."""
    content = path.read_text()
    assert after in content
    path.write_text(content.replace(after, after + text, 1))


@pytest.fixture
def copy(tmp_path):
    """A copy of the project's code with a species, a weight optimizer, a data set and a network more."""
    for folder in ("common", "EOA-SAM"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    imports = "import numpy as np\n\nfrom common.ecosphere.species.moves import Memory, View\n\n\n"
    (tmp_path / "common/ecosphere/species/timid.py").write_text(imports + block("def propose("))
    species = tmp_path / "common/ecosphere/species/__init__.py"
    put(species, "import propose_particles\n", "from common.ecosphere.species.timid import propose\n")
    put(species, "SPECIES = {\n", block('"timid"'))
    function, line = block("def _rmsprop(").split('BASES["rmsprop"]')
    bases = tmp_path / "common/optim/bases.py"
    bases.write_text(bases.read_text().replace("def _sgd(", f"{function}\ndef _sgd(", 1) + f'BASES["rmsprop"]{line}')
    put(tmp_path / "common/data/registry.py", "SOURCES = {\n", block('"kmnist"'))
    put(tmp_path / "common/models/__init__.py", "MODELS: dict[str, Callable[[Shape], nn.Module]] = {\n", block('"linear"'))
    return tmp_path


def test_what_the_documentation_adds_works_at_once(copy, tmp_path):
    options = ("--populations", "timid:1:sam+rmsprop,gwo:1:rmsprop", "--model", "linear")
    _, record = run_to_end(tmp_path / "run", 3, copy / CIFAR10, *TINY, *options, ranks=2, PYTHONPATH=str(copy))
    summary = record.summary
    assert [(p["species"], p["optimizer"]) for p in summary["populations"]] == [("timid", "sam+rmsprop"), ("gwo", "rmsprop")]
    assert summary["parameters"] == 64 * 10 + 10


def test_a_data_set_that_was_added_is_asked_of_torchvision(copy, tmp_path):
    options = ("--dataset", "kmnist", "--data-dir", tmp_path / "data", "--out", tmp_path / "run")
    done = run(copy / CIFAR10, *TINY, *options, code=2, PYTHONPATH=str(copy), **NO_NETWORK)
    check_refused(done, "Kuzushiji-MNIST is not (complete)", tmp_path / "run")
