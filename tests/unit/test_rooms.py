"""Layers of the package: each imports only from those above it, without cycles, and rules load without starting MPI."""

import ast
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

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
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
