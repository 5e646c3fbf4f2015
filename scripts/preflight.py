"""Table of what this machine and environment provide for the scripts. Run by scripts/setup.sh, also with --check.

Exit code 1 if something essential is missing. Needs only Python itself: every library is probed in a separate process with a
time limit, so that a broken or hanging one becomes a row.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from common.parallel import machine  # noqa: E402  (the standard library is all that they need)
from common.parallel.environment import wrong_setting  # noqa: E402

SETUP = "run scripts/setup.sh, then source .venv/bin/activate"
ROOT_VARIABLES = ("OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM")
OK, NOTE, MISSING = "ok", "note", "MISSING"
MB = 1e6
# Of TMPDIR, for each job: Open MPI 4.1 keeps 8.3 MB there whatever the number of ranks, and mpirun hangs without.
SESSION = 9 * MB
SEGMENT = 4.2 * MB  # of /dev/shm, for each rank: Open MPI's btl_vader_segment_size; without it messages go over TCP
RANKS = 8  # that /dev/shm should have room for
LONGEST_TMPDIR = 75  # characters: a socket's path has 107, and Python's worker processes take 32 for theirs
SETTINGS = ("OMPI_MCA_", "PMIX_MCA_", "PRTE_MCA_", "MPI4PY_RC_", "HOROVOD_")
PARAMETER_FILES = (".openmpi/mca-params.conf", ".pmix/mca-params.conf", ".prte/mca-params.conf")  # below the home
KEPT = "kept as it is: take it out if jobs hang or are slow"


class Row(NamedTuple):
    """One line of the table; `advice` says what to do, or what a value means."""

    name: str
    value: str
    state: str = OK
    advice: str = ""


# Each probe prints one JSON object. mpi4py is told not to start MPI: without a launcher that may abort the process.
TORCH = """
import json, torch
gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
half = bool(gpus) and torch.cuda.is_bf16_supported(including_emulation=False)
print(json.dumps(dict(version=torch.__version__, cuda=torch.version.cuda, gpus=gpus, bfloat16=half)))
"""
MPI = """
import json, mpi4py
mpi4py.rc.initialize = mpi4py.rc.finalize = False
from mpi4py import MPI
print(json.dumps(dict(version=mpi4py.__version__, library=MPI.Get_library_version())))
"""
# Horovod and mpi4py have to share one MPI library, or communicators cannot be handed from one to the other.
HOROVOD = """
import json, re, mpi4py
mpi4py.rc.initialize = mpi4py.rc.finalize = False
from mpi4py import MPI
import horovod, horovod.torch as hvd
loaded = sorted(set(re.findall(r"/\\S*/libmpi\\S*\\.so\\S*", open("/proc/self/maps").read())))
print(json.dumps(dict(version=horovod.__version__, mpi=bool(hvd.mpi_built()), gloo=bool(hvd.gloo_built()),
                      cuda=bool(hvd.cuda_built()), nccl=bool(hvd.nccl_built()), loaded=loaded)))
"""
# No output is success, since the output of two processes may interleave.
LAUNCH = "from mpi4py import MPI; MPI.COMM_WORLD.size == 2 or print('alone')"


def probe(code: str, *launcher: str, seconds: float = 60) -> tuple[str, str]:
    """Run Python code in a separate process: (its output, "") or ("", reason of the failure)."""
    # Open MPI needs two variables to run as root, one (of Open MPI 4, and of 5) to start two processes on one core; the
    # wheel's Open MPI finds its files only by OPAL_PREFIX (common.parallel.environment does the same).
    environment = os.environ | dict.fromkeys(ROOT_VARIABLES, "1")
    environment |= {"OMPI_MCA_rmaps_base_oversubscribe": "1", "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe"}
    if version("openmpi"):
        environment["OPAL_PREFIX"] = sys.prefix
    command = [*launcher, sys.executable, "-c", code]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, env=environment, encoding="utf-8")
    except subprocess.TimeoutExpired:
        return "", f"no answer in {seconds:.0f} s"
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip(" -")]
        return "", lines[-1].strip() if lines else f"exit code {done.returncode}"
    return done.stdout, ""


def version(package: str) -> str | None:
    """Installed version of a package, found without importing it."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def broken(name: str, why: str) -> Row:
    """An installed library that fails to load."""
    return Row(name, why[:90], MISSING, "run scripts/setup.sh --rebuild, or remove .venv and set up again")


def python_row() -> Row:
    """The interpreter, which has to be .venv's."""
    value = f"{platform.python_version()} ({sys.prefix})"
    if Path(sys.prefix) == ROOT / ".venv":
        return Row("Python", value)
    return Row("Python", value, NOTE, "not this project's .venv: source .venv/bin/activate")


def torch_rows() -> list[Row]:
    """Torch, the devices it sees, bfloat16, torchvision."""
    if version("torch") is None:
        return [Row("torch", "not installed", MISSING, SETUP)]
    output, why = probe(TORCH)
    if why:
        return [broken("torch", why)]
    found = json.loads(output)
    if found["gpus"]:
        devices = Row("devices", ", ".join(f"{found['gpus'].count(n)} x {n}" for n in dict.fromkeys(found["gpus"])))
    elif found["cuda"]:
        devices = Row("devices", "CPU", NOTE, f"torch is a build for CUDA {found['cuda']}, but no GPU is visible")
    else:
        devices = Row("devices", "CPU")
    vision = version("torchvision")  # without importing it, which needs package common where torch is a CPU build
    torchvision = Row("torchvision", vision) if vision else Row("torchvision", "not installed", MISSING, SETUP)
    return [Row("torch", found["version"]), devices, bfloat16_row(found["bfloat16"]), torchvision]


def bfloat16_row(gpu: bool) -> Row:
    """Whether --precision bfloat16 has instructions of its own."""
    if gpu:
        return Row("bfloat16", "on the GPU")
    flags = {word for line in machine.lines_of(Path("/proc/cpuinfo")) for word in line.split()}
    if known := sorted(flags & {"avx512_bf16", "amx_bf16", "bf16"}):
        return Row("bfloat16", f"processor: {', '.join(known)}")
    return Row("bfloat16", "not in this processor", NOTE, "emulated and slow: use --precision float32")


def mpi_rows() -> list[Row]:
    """mpi4py, the MPI library behind it, and its launcher."""
    if version("mpi4py") is None:
        return [Row("MPI", "mpi4py is not installed", MISSING, SETUP)]
    output, why = probe(MPI)
    if why:
        return [broken("MPI", why)]
    found = json.loads(output)
    library = re.split(r", package|\n", found["library"].strip("\0"))[0]
    return [Row("MPI", " ".join(library.split())), Row("mpi4py", found["version"]), launcher_row(library)]


def launcher_row(library: str) -> Row:
    """Start two processes under mpirun in one world; not tried where mpirun would hang."""
    active = os.environ.get("VIRTUAL_ENV") == sys.prefix
    path = shutil.which("mpirun", path=os.pathsep.join([f"{sys.prefix}/bin"] * (not active) + [os.environ["PATH"]]))
    if path is None:
        return Row("mpirun", "not on PATH", NOTE, "only plain python and the cluster's own launcher (srun) will do")
    if "Open MPI" in library and temporary_row().state == MISSING:
        return Row("mpirun", path, NOTE, "not tried: see TMPDIR")
    output, why = probe(LAUNCH, path, "-np", "2", seconds=30)
    if why:
        return Row("mpirun", why[:90], NOTE, f"{path} started no two processes here; normal on some login nodes")
    if output:
        return Row("mpirun", path, MISSING, "belongs to another MPI than mpi4py: run scripts/setup.sh --system-mpi")
    if "Open MPI" in library and os.geteuid() == 0 and not all(os.environ.get(name) for name in ROOT_VARIABLES):
        return Row("mpirun", path, NOTE, "you are root: export " + " ".join(f"{name}=1" for name in ROOT_VARIABLES))
    return Row("mpirun", path)


def horovod_row() -> Row:
    """Horovod's controllers and operations; without it MPI collectives take its place.

    Horovod 0.28.1 was built and run with Python 3.11 and 3.13. Its horovodrun imports distutils, which Python 3.12 removed and
    setuptools provides.
    """
    if version("horovod") is None:
        return Row("Horovod", "not installed", NOTE, "MPI averages the gradients; no horovodrun: start with mpirun")
    output, why = probe(HOROVOD)
    if why:
        return broken("Horovod", why)
    found = json.loads(output)
    controllers = " and ".join(name for name, built in (("MPI", found["mpi"]), ("Gloo", found["gloo"])) if built)
    operations = "NCCL" if found["nccl"] else "through the host" if found["cuda"] else "none"
    value = f"{found['version']}, controllers {controllers or 'none'}, GPU operations {operations}"
    if not found["mpi"]:
        return Row("Horovod", value, MISSING, "populations need its MPI controller: run scripts/setup.sh --rebuild")
    if len(found["loaded"]) > 1:
        return Row("Horovod", value, MISSING, f"two MPI libraries in one process: {', '.join(found['loaded'])}")
    if find_spec("distutils") is None:
        advice = "horovodrun needs setuptools from Python 3.12 on (pip install setuptools); mpirun works without"
        return Row("Horovod", value, NOTE, advice)
    return Row("Horovod", value)


def cores_row(visible: int, granted: int, quotas: list[machine.Quota]) -> Row:
    """Cores this process may run on, and how much of them a cgroup quota grants."""
    quota = min(quotas, default=None)
    if quota is None or quota.cores >= visible:
        return Row("cores", str(visible))
    value = f"{quota.cores:g} of {visible} granted by {quota.folder}"
    advice = f"all ranks here share out {granted} thread{'s'[: granted > 1]}"
    return Row("cores", value, NOTE, f"{advice}; more than {granted} rank{'s'[: granted > 1]} wait for each other")


def temporary_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """Where Open MPI and Python keep temporary files."""
    return Path(next((path for name in ("TMPDIR", "TEMP", "TMP") if (path := environment.get(name))), "/tmp"))


def temporary_row(folder: Path | None = None, free: int | None = None) -> Row:
    """Whether jobs can start in TMPDIR. folder, free (bytes): by default those of this machine."""
    folder = folder or temporary_folder()
    needed = MISSING if version("openmpi") else NOTE  # the needs of other MPIs are unknown
    if free is None:
        if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
            return Row("TMPDIR", str(folder), needed, "is no folder that you may write to: set TMPDIR to one")
        free = shutil.disk_usage(folder).free
    value = f"{folder}, {size(free)} free"
    if free < SESSION:
        advice = f"every job needs {SESSION / MB:.0f} MB there, and mpirun hangs on a full one: "
        return Row("TMPDIR", value, needed, advice + "free some, or set TMPDIR to another")
    if len(str(folder)) > LONGEST_TMPDIR:
        advice = f"more than {LONGEST_TMPDIR} characters: sockets of Python's worker processes do not fit "
        return Row("TMPDIR", value, NOTE, advice + "(benchmarks/throughput.py)")
    return Row("TMPDIR", value)


def shared_memory_row(free: int | None = None) -> Row:
    """Whether /dev/shm has room for `RANKS` ranks. free: bytes, by default those of this machine."""
    if free is None:
        try:
            free = shutil.disk_usage("/dev/shm").free
        except OSError:
            return Row("/dev/shm", "none", NOTE, "the ranks of a node talk over TCP, slower")
    value, room = f"{size(free)} free", int(free // SEGMENT)
    if room >= RANKS:
        return Row("/dev/shm", value)
    advice = f"room for {room} rank{'s'[: room != 1]} of {SEGMENT / MB:.1f} MB; "
    advice += "others may end with a bus error or talk over TCP, slower: make it larger (docker run --shm-size)"
    return Row("/dev/shm", value, NOTE, advice)


def settings_rows(environment: Mapping[str, str] = os.environ, home: Path | None = None) -> list[Row]:
    """Settings of OpenMP, MPI, mpi4py and Horovod, in variables and files; they override the scripts' choices."""
    threads = environment.get("OMP_NUM_THREADS")
    try:
        wanted = machine.threads_wanted(threads)
        rows = [] if wanted is None else [Row("threads", f"OMP_NUM_THREADS={threads}", NOTE, f"every rank has {wanted}")]
    except ValueError:
        rows = [Row("threads", f"OMP_NUM_THREADS={threads}", MISSING, "is refused: a whole number of at least 1, or unset it")]
    for name, value in sorted(environment.items()):
        if name.startswith(SETTINGS):
            state, advice = NOTE, "MPI is started as the scripts need it" if name.startswith("MPI4PY_RC_") else KEPT
            if wrong := wrong_setting(name, value):
                state, advice = MISSING, f"is refused: {wrong}"
            rows.append(Row("set for MPI", f"{name}={value}", state, advice))
    for path in (Path(home or os.path.expanduser("~")) / name for name in PARAMETER_FILES):
        lines = (line.strip() for line in machine.lines_of(path))
        rows += [Row("set for MPI", f"{path}: {line}", NOTE, KEPT) for line in lines if line and not line.startswith("#")]
    return rows


def size(number: float) -> str:
    """Bytes as GB or MB."""
    return f"{number / 2**30:.1f} GB" if number >= 2**30 else f"{number / MB:.0f} MB"


def machine_rows() -> list[Row]:
    """Cores this process may use, memory, disk, temporary files, settings."""
    quotas = machine.quotas()
    rows = [cores_row(len(machine.visible_cores()), machine.available_cores(), quotas)]
    try:
        kilobytes = dict(re.findall(r"(\w+):\s+(\d+)", " ".join(machine.lines_of(Path("/proc/meminfo")))))
        total, free = (int(kilobytes[name]) / 2**20 for name in ("MemTotal", "MemAvailable"))
        short = free < 4
        advice = "a rank takes about 0.5 GB: start few" * short
        rows.append(Row("memory", f"{free:.1f} of {total:.1f} GB free", NOTE if short else OK, advice))
    except KeyError:
        rows.append(Row("memory", "unknown", NOTE))
    free = shutil.disk_usage(ROOT).free / 2**30
    short = free < 2
    rows.append(Row("disk", f"{free:.1f} GB free", NOTE if short else OK, "data sets and runs take up to 2 GB" * short))
    return [*rows, temporary_row(), shared_memory_row(), *settings_rows()]


def show(rows: list[Row]) -> None:
    """A coloured table on a terminal, aligned columns elsewhere."""
    if sys.stdout.isatty() and version("rich"):
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(title="preflight", title_justify="left", box=None, pad_edge=False)
        for heading in ("", "", "found", "what to do"):
            table.add_column(heading, overflow="fold")
        colours = {OK: "green", NOTE: "yellow", MISSING: "bold red"}
        for row in rows:
            table.add_row(row.name, Text(row.state, colours[row.state]), Text(row.value), Text(row.advice))
        Console().print(table)
        return
    name = max(len(row.name) for row in rows)
    value = max((len(row.value) for row in rows if row.advice), default=0)
    for row in rows:
        print(f"{row.name:<{name}}  {row.state:<7}  {row.value:<{value}}  {row.advice}".rstrip())


def main() -> int:
    """Print the table. Returns 1 if something essential is missing."""
    with ThreadPoolExecutor() as pool:  # the probes run in parallel processes
        torch, mpi, horovod = pool.submit(torch_rows), pool.submit(mpi_rows), pool.submit(horovod_row)
    rows = [python_row(), *torch.result(), *mpi.result(), horovod.result(), *machine_rows()]
    show(rows)
    return int(any(row.state == MISSING for row in rows))


if __name__ == "__main__":
    sys.exit(main())
