"""The installed package: public names, and an import from outside the checkout."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import ecosphere

ROOT = Path(__file__).parents[2]
QUIET = {"capture_output": True, "text": True, "timeout": 120, "check": False}


def test_every_public_name_can_be_imported():
    for name in ecosphere.NAMES:
        assert getattr(ecosphere, name) is not None
    with pytest.raises(AttributeError, match=r"ecosphere has no Join: it has join, "):
        _ = ecosphere.Join


def test_the_line_search_and_the_space_start_no_mpi():
    code = "import sys; from ecosphere import Rules, Salsa, Space; sys.exit('mpi4py' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


@pytest.fixture
def installed(tmp_path):
    """A folder with what `pip install .` installs."""
    source = tmp_path / "source"
    source.mkdir()
    files = subprocess.run(
        ["git", "ls-files", "common", "ecosphere.py", "pyproject.toml"], cwd=ROOT, capture_output=True, text=True
    )
    for name in files.stdout.split():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes((ROOT / name).read_bytes())
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    done = subprocess.run(
        [*pip, "--target", tmp_path / "site", source], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return tmp_path / "site"


def test_an_installed_copy_is_imported_from_outside_the_checkout(installed, tmp_path):
    code = "import common, ecosphere; from ecosphere import join, Salsa, Search; print(common.__file__, ecosphere.__file__)"
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"PYTHONPATH": str(installed)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert all(Path(path).is_relative_to(installed) for path in done.stdout.split())
    assert {path.name for path in installed.iterdir() if path.suffix != ".dist-info"} <= {
        "common",
        "ecosphere.py",
        "__pycache__",
    }
