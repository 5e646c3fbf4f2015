"""Start and exit of the processes of a parallel job. Standard library only, so it can run before MPI is loaded.

A script ends with `launch.run(main)`. A `UsageError` then prints one line on rank 0 and exits with code 2 on every rank. Any
other exception aborts the job with its traceback, rank and population: the other ranks would otherwise wait for ever in their
next collective.
"""

import sys
import time
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

from common.errors import Diverged, UsageError
from common.parallel.environment import check_environment, launcher_rank, launcher_size

PATIENCE = 5.0  # seconds that a joint exit waits for the other ranks before it aborts

place = {"population": "not assigned yet"}  # printed with a traceback


def tolerate_terminal() -> None:
    """Print characters that standard output cannot encode as `?` instead of failing."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")


def say(text: str) -> None:
    """Print one line on rank 0 only, and flush."""
    if launcher_rank() == 0:
        print(text, flush=True)


def run(main: Callable[[], Any]) -> NoReturn:
    """Run a script's `main` and exit on all ranks together.

    Exit codes: 0 success, 1 failure (also `Diverged`), 2 bad usage, 130 interrupted. Every rank calls this.
    """
    tolerate_terminal()
    try:
        check_environment()
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
        leave(130, "interrupted; --resume with the same --out continues after the last complete round")
    except BaseException:
        _abort()
    sys.exit(0)


def leave(code: int, message: str = "") -> NoReturn:
    """Exit with `code` together with the other ranks, after rank 0 has printed `message`.

    The ranks wait for rank 0, because a launcher stops the job as soon as one rank exits with an error. If the other ranks
    did not fail within `PATIENCE` seconds, the job is aborted.
    """
    if message and launcher_rank() == 0:
        print(f"error: {message}", file=sys.stderr, flush=True)
    size = launcher_size() or 1
    if size == 1:
        sys.exit(code)
    from common.parallel.mpi import MPI

    if MPI.COMM_WORLD.Get_size() != size:
        # Launcher of another MPI: the ranks are not connected, so the others only give rank 0 time to print.
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
        from common.parallel.mpi import MPI

        MPI.COMM_WORLD.Abort(1)
    sys.exit(1)
