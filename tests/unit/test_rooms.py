"""The package: its layers import only from those above them, rules load without MPI, a copy can be installed; public names."""

import ast
import os
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import ecosphere

ROOT = Path(__file__).resolve().parents[2]
GROUND = ("errors", "seeding", "paths", "commit")
ROOMS = (  # from the ground up
    *("ground", "parallel", "options", "vision", "models", "data", "evaluate", "optim", "ecosphere", "coupling", "training"),
    "search",
)
# Update equations and rules: usable without MPI.
PURE = (
    *("common.ecosphere.species", "common.ecosphere.standings", "common.ecosphere.rates", "common.ecosphere.forage"),
    *("common.coupling.elastic", "common.coupling.swarm_rules"),
    *("common.optim.bases", "common.optim.registry", "common.optim.sam", "common.optim.salsa", "common.optim.weight_optimizer"),
    *("common.models", "common.models.flat", "common.models.batch_norm", "common.search.strategies", "common.search.space"),
)


def run(*command, **options):
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, **{"cwd": ROOT, **options})


def module_of(path):
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    return name.removesuffix(".__init__")


def room_of(module):
    name = module.split(".")[1]
    return ROOMS.index("ground" if name in GROUND else name)


def imports_of(path):
    """Modules of the package that a file imports, also inside functions, but not for type checking alone."""
    found, tree = set(), ast.parse(path.read_text(encoding="utf-8"))
    tree.body = [n for n in tree.body if not (isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING")]
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "common":
            for alias in node.names:
                below = f"{node.module}.{alias.name}"
                found.add(below if (ROOT / f"{below.replace('.', '/')}.py").exists() else node.module)
    return found - {"common"}


GRAPH = {module_of(p): imports_of(p) for p in sorted((ROOT / "common").rglob("*.py")) if module_of(p) != "common"}


def test_no_room_imports_from_one_below_it():
    upwards = [(m, i) for m, imports in GRAPH.items() for i in imports if room_of(i) > room_of(m)]
    assert not upwards


def test_there_are_no_circles():
    TopologicalSorter(GRAPH).prepare()  # raises CycleError, with the circle


def test_the_package_imports_no_script_and_torchvision_once():
    texts = {p: p.read_text(encoding="utf-8") for p in (ROOT / "common").rglob("*.py")}
    importing = [p.name for p, text in texts.items() if re.search(r"^ *(import|from) torchvision\b", text, re.MULTILINE)]
    assert importing == ["vision.py"]
    outside = ("experiments", "report", "benchmarks", "results")
    assert not [p for p, text in texts.items() if any(f"from {name}" in text for name in outside)]


def test_rules_load_without_starting_mpi():
    imports = f"import sys, {', '.join(PURE)}; from ecosphere import Rules, Salsa, Space"
    code = f"{imports}; sys.exit('mpi4py' in sys.modules or 'horovod' in sys.modules)"
    assert run(sys.executable, "-c", code).returncode == 0


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
