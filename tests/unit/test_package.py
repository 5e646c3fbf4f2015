"""The installed package: public names, and an import from outside the checkout."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import ecosphere

ROOT = Path(__file__).parents[2]


def run(*command, **options):
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, **{"cwd": ROOT, **options})


def test_every_public_name_can_be_imported():
    for name in ecosphere.NAMES:
        assert getattr(ecosphere, name) is not None
    with pytest.raises(AttributeError, match=r"ecosphere has no Join: it has join, "):
        _ = ecosphere.Join


def test_an_installed_copy_is_imported_from_outside_the_checkout(tmp_path):
    source, installed = tmp_path / "source", tmp_path / "site"
    for name in run("git", "ls-files", "common", "ecosphere.py", "pyproject.toml").stdout.split():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes((ROOT / name).read_bytes())
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    done = run(*pip, "--target", installed, source)
    assert done.returncode == 0, done.stderr
    code = "import common, ecosphere; from ecosphere import join, Salsa, Search; print(common.__file__, ecosphere.__file__)"
    done = run(sys.executable, "-c", code, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(installed)})
    assert done.returncode == 0, done.stderr
    assert all(Path(path).is_relative_to(installed) for path in done.stdout.split())
    left = {path.name for path in installed.iterdir() if path.suffix != ".dist-info"}
    assert left <= {"common", "ecosphere.py", "__pycache__"}
