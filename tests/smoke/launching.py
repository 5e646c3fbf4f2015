"""Start the scripts as a user does, with time limits: a job that hangs is a failure, and leaves no processes behind."""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parents[2]
CIFAR10, CIFAR100, VIT = "EOA-SAM/EOASAM.py", "EOA-SAM/EOASAM-cifar100.py", "EOA-ViT/EOAViT.py"
TINY = ("--preset", "smoke", "--rounds", 3, "--round-steps", 4, "--batch-size", 48)  # 48 divides by 1, 2, 3, 4 and 8
MARK = "ECOSPHERE_TEST_JOB"  # every process of a job carries it in its environment, so that none is overlooked
FOREIGN = ("OMPI_", "PMI_", "PMIX_", "SLURM_", "HOROVOD_", "ECOSPHERE_", "EOA_")  # variables that tests have to set themselves
NO_NETWORK = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")


@dataclass(frozen=True)
class Done:
    """A job that has ended.

    after_trouble: seconds from the first sign of trouble (a rank is gone, a traceback is printed) to the end of the job.
    survivors: processes of the job that were still there when the launcher had ended.
    """

    code: int
    out: str
    err: str
    seconds: float
    after_trouble: float
    survivors: int

    @property
    def ours(self) -> list[str]:
        """Lines of our own on either stream that announce an error, without the label horovodrun puts before them."""
        lines = [line.split(">:", 1)[-1] for line in (self.out + self.err).splitlines()]
        return [line for line in lines if line.startswith("error")]

    def __str__(self) -> str:
        return (
            f"exit code {self.code} after {self.seconds:.1f} s\n--- stdout\n{self.out[-3000:]}\n--- stderr\n{self.err[-3000:]}"
        )


def start_command(ranks: int, launcher: str) -> list[str]:
    """The words before the script. launcher: python, mpirun or horovodrun; python at one rank and mpirun at more if empty."""
    launcher = launcher or ("python" if ranks == 1 else "mpirun")
    if launcher == "python":
        return [sys.executable]
    beside = str(Path(sys.executable).parent)  # the environment's own launcher, whether it is activated or not
    found = shutil.which(launcher, path=f"{beside}:{os.environ['PATH']}")
    if found is None:
        pytest.skip(f"{launcher} is not installed")
    options = ["--oversubscribe", "--bind-to", "none"] if launcher == "mpirun" else []
    return [found, *options, "-np", str(ranks), sys.executable]


def run(
    script: str | Path,
    *options: object,
    ranks: int = 1,
    launcher: str = "",
    limit: float = 120,
    watch: bool = False,
    code: int | None = 0,
    **variables: str,
) -> Done:
    """Run a script of the project to its end and check its exit code.

    launcher: see `start_command`. variables: environment variables to add. watch: look for the first sign of trouble.
    limit: seconds after which the job is killed and the test fails. code: None for any.
    """
    with tempfile.TemporaryFile("w+", encoding="utf-8") as out, tempfile.TemporaryFile("w+", encoding="utf-8") as err:
        began = time.monotonic()
        process, mark = _start(script, options, ranks, launcher, variables, out, err)
        trouble = _wait(process, mark, err, began + limit, watch)
        ended = time.monotonic()
        hung = process.poll() is None
        survivors = _end_all(process, mark)
        texts = [_read(out), _read(err)]
    seconds = ended - began
    done = Done(process.returncode, *texts, seconds, ended - (trouble or ended), 0 if hung else survivors)
    told = f"{' '.join(process.args)}: {done}"
    assert not hung, f"no end after {limit} s: {told}"
    assert code is None or done.code == code, f"wanted exit code {code}: {told}"
    assert not done.survivors, f"{done.survivors} processes were left behind: {told}"
    return done


def kill_when(script: str | Path, *options: object, until: Callable[[], bool], ranks: int = 1, limit: float = 120) -> None:
    """Start a job and, as soon as `until()` holds, kill -9 all of its processes; it may also have ended before."""
    process, mark = _start(script, options, ranks, "", {}, subprocess.DEVNULL, subprocess.DEVNULL)
    deadline = time.monotonic() + limit
    while not until() and process.poll() is None:
        assert time.monotonic() < deadline, f"nothing to kill after {limit} s: {' '.join(process.args)}"
        time.sleep(0.005)
    _end_all(process, mark)


def check_refused(done: Done, named: str, out: Path) -> None:
    """The run ended with exit code 2 and one line that names what is wrong, before anything was written."""
    assert done.code == 2, done
    assert len(done.ours) == 1, done
    assert done.ours[0].startswith("error: "), done
    assert named in done.ours[0], done
    assert "Traceback" not in done.err, done
    assert not out.exists(), done


def clean_environment(**variables: str) -> dict[str, str]:
    """That of a user's shell: no variables of MPI, Horovod, Slurm or this project from the tests' own process."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(FOREIGN)}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"  # horovodrun looks for mpirun there
    environment |= variables
    if os.geteuid() == 0:
        environment |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    return environment


def _start(script, options, ranks, launcher, variables, out, err) -> tuple[subprocess.Popen, str]:
    """Start a job; returns its launcher, and the mark of its processes."""
    command, mark = [*start_command(ranks, launcher), str(script), *map(str, options)], uuid.uuid4().hex
    streams = {"stdin": subprocess.DEVNULL, "stdout": out, "stderr": err}
    environment = clean_environment(**{MARK: mark}, **variables)
    return subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True, **streams), mark


def _wait(process: subprocess.Popen, mark: str, err, deadline: float, watch: bool) -> float | None:
    """Until the launcher ends or time is up; returns the time of the first sign of trouble."""
    trouble, seen = None, set()
    while time.monotonic() < deadline:
        if not watch or trouble:
            try:
                process.wait(min(1.0, max(0.0, deadline - time.monotonic())))
                break
            except subprocess.TimeoutExpired:
                continue
        present = {p.pid for p in _members(mark) if _variable(p, "OMPI_COMM_WORLD_RANK")}
        if seen - present or "Traceback" in _read(err):
            trouble = time.monotonic()
        seen |= present
        if process.poll() is not None:
            break
        time.sleep(0.2)
    return trouble


def _members(mark: str) -> list[psutil.Process]:
    """All processes of a job that are alive."""
    return [p for p in psutil.process_iter() if _variable(p, MARK) == mark]


def _variable(process: psutil.Process, name: str) -> str | None:
    try:
        return process.environ().get(name)
    except (psutil.Error, OSError):
        return None


def _end_all(process: subprocess.Popen, mark: str) -> int:
    """Count and kill the processes of a job that are still alive a moment after its end."""
    finished = process.poll() is not None
    left = _members(mark)
    if finished and left:
        _, left = psutil.wait_procs(left, timeout=3)
    for member in left:
        with contextlib.suppress(psutil.Error):
            member.kill()
    process.wait(10)
    psutil.wait_procs(left, timeout=5)
    return len(left)


def _read(stream) -> str:
    # A file object of its own: the job writes through the same description, whose position must stay at the end.
    with open(f"/proc/self/fd/{stream.fileno()}", encoding="utf-8", errors="replace") as file:
        return file.read()


def run_each(jobs: list) -> list:
    """Several calls, two at a time: starting python keeps one core busy and a small machine has two."""
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(lambda job: job(), jobs))
