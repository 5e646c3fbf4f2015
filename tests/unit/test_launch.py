"""How a process starts and exits: launchers, foreign variables, exit codes, one line for the user's mistakes, a traceback
with its place for everything else.
"""

import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest

from common.errors import Diverged, UsageError
from common.parallel import environment, faults, launch


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch):
    foreign = ("OMPI_COMM", "PMI_", "PMIX_", "SLURM_", "MPI4PY_", "HOROVOD_", "OMP_", "ECOSPHERE_")
    for name in [name for name in os.environ if name.startswith((*foreign, *environment.LOCAL_SIZE_VARIABLES))]:
        monkeypatch.delenv(name)


def variables(text):
    """NAME=value ... as a dictionary; the last of a name counts."""
    return dict(word.split("=", 1) for word in text.split())


@pytest.fixture
def setenv(monkeypatch):
    """Sets variables written as NAME=value ..."""

    def set_all(text):
        for name, value in variables(text).items():
            monkeypatch.setenv(name, value)

    return set_all


def leave_with(error):
    def main():
        if error is not None:
            raise error

    with pytest.raises(SystemExit) as end:
        launch.run(main)
    return end.value.code or 0


def test_success_ends_with_zero(capsys):
    assert leave_with(None) == 0
    assert leave_with(SystemExit(0)) == 0
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(("error", "code"), [(UsageError("4 is not 5"), 2), (Diverged("lost", None), 1)])
def test_what_the_user_can_put_right_is_one_line_on_stderr(capsys, error, code):
    assert leave_with(error) == code
    assert capsys.readouterr() == ("", f"error: {error}\n")


def test_any_other_error_ends_with_one_its_traceback_rank_and_population(capsys, monkeypatch):
    monkeypatch.setitem(launch.place, "population", "3 (woa)")
    assert leave_with(ZeroDivisionError("of zero")) == 1
    _, printed = capsys.readouterr()
    for part in ("Traceback", "ZeroDivisionError: of zero", "rank 0", "population 3 (woa)"):
        assert part in printed


@pytest.mark.parametrize(("rank_name", "size_name", "least"), environment.LAUNCHERS)
def test_only_rank_zero_speaks_under_every_launcher(rank_name, size_name, least, capsys, monkeypatch):
    monkeypatch.setenv(size_name, "3")
    for rank, expected in (("0", "hello\n"), ("2", "")):
        monkeypatch.setenv(rank_name, rank)
        assert (environment.launcher_rank(), environment.launcher_size()) == (int(rank), 3)
        launch.say("hello")
        assert capsys.readouterr().out == expected


BATCH = "SLURM_JOB_ID=7 SLURM_JOBID=7 SLURM_NODELIST=n1 SLURM_NTASKS=8 SLURM_PROCID=0 SLURM_LOCALID=0"
SHELL = f"{BATCH} SLURM_STEP_ID=4294967290 SLURM_STEP_NUM_TASKS=1 SLURM_PTY_PORT=34889"  # an interactive step
STEP = f"{BATCH} SLURM_STEP_ID=0 SLURM_STEP_NUM_TASKS=8 SLURM_PROCID=5"
MPIRUN = "OMPI_COMM_WORLD_RANK=2 OMPI_COMM_WORLD_SIZE=4"


@pytest.mark.parametrize(
    ("given", "launched"),
    [
        ("", None),
        ("SLURM_JOB_ID=7 SLURM_NTASKS=8", None),  # salloc's shell on the login node
        ("SLURM_PROCID=0", None),
        (BATCH, None),  # python in an sbatch script
        (SHELL, None),  # srun --pty bash, and salloc where it starts an interactive step
        (f"{SHELL} SLURM_STEP_ID=0 PMI_RANK=0 PMI_SIZE=1 PMI_FD=13", None),  # the same with PMI-2
        (f"{SHELL} SLURM_STEP_ID=0 PMIX_RANK=0", None),  # and with PMIx
        (STEP, (5, 8)),  # srun -n 8 python
        (f"{STEP} PMI_RANK=5 PMI_SIZE=8", (5, 8)),
        (f"{STEP} PMIX_RANK=5", (5, 8)),
        (f"{SHELL} {MPIRUN}", (2, 4)),  # mpirun in such a shell
        (f"{STEP} {MPIRUN}", (2, 4)),
        (f"{SHELL} PMI_RANK=2 PMI_SIZE=4", (2, 4)),  # MPICH's mpiexec in it
        ("OMPI_COMM_WORLD_RANK=0 OMPI_COMM_WORLD_SIZE=1", (0, 1)),  # mpirun -np 1
        ("PMI_RANK=3 PMI_SIZE=4", (3, 4)),
        ("PMI_RANK=x PMI_SIZE=4", None),
        ("PMI_RANK=\u00b2 PMI_SIZE=4", None),  # a digit, but no number
        ("PMI_RANK=4 PMI_SIZE=4", None),
    ],
)
def test_what_counts_as_launched(given, launched, setenv):
    setenv(given)
    assert (environment.launcher_rank(), environment.launcher_size()) == (launched or (0, None))


@pytest.mark.parametrize("given", [SHELL, STEP, BATCH, f"{SHELL} PMIX_RANK=0", f"{SHELL} PMI_FD=13"])
def test_mpi_starts_outside_an_interactive_step(given, setenv):
    setenv(given)
    before = dict(os.environ)
    with environment.outside_slurm_step():
        assert ("SLURM_STEP_ID" in before and "SLURM_STEP_ID" not in os.environ) == (given == SHELL)
    assert dict(os.environ) == before


STARTED = "from common.parallel.mpi import MPI; print(MPI.Query_thread() == MPI.THREAD_MULTIPLE, MPI.COMM_WORLD.size)"


@pytest.mark.parametrize(
    "given",
    [
        "SLURM_PROCID=0",
        BATCH,
        SHELL,
        "MPI4PY_RC_THREAD_LEVEL=single",
        "MPI4PY_RC_INITIALIZE=0 MPI4PY_RC_FINALIZE=no MPI4PY_RC_THREADS=off",
    ],
    ids=["procid alone", "batch script", "interactive step", "thread level", "initialize"],
)
def test_mpi_starts_with_variables_of_others(given, setenv, monkeypatch):
    setenv(given)
    monkeypatch.delenv("OPAL_PREFIX", raising=False)
    done = subprocess.run([sys.executable, "-c", STARTED], capture_output=True, encoding="utf-8", timeout=60, check=False)
    *notes, started = done.stdout.splitlines()
    assert (done.returncode, started, done.stderr) == (0, "True 1", ""), done
    contradictions = [name for name in variables(given) if name.startswith("MPI4PY")]
    assert [note.split("=")[0] for note in notes] == [f"note: {name}" for name in contradictions]


def test_mpi4py_is_told_what_we_need_and_only_contradictions_are_named(monkeypatch, capsys):
    import mpi4py

    monkeypatch.setattr(mpi4py, "rc", SimpleNamespace())
    env = {"MPI4PY_RC_THREAD_LEVEL": "MULTIPLE", "MPI4PY_RC_INITIALIZE": "yes", "MPI4PY_RC_RECV_MPROBE": "0"}
    environment.prepare_mpi4py(env)
    assert env == {"MPI4PY_RC_RECV_MPROBE": "0"}
    assert vars(mpi4py.rc) == {"initialize": True, "finalize": True, "threads": True, "thread_level": "multiple"}
    assert capsys.readouterr().out == ""
    environment.prepare_mpi4py({"MPI4PY_RC_THREADS": "False", "MPI4PY_RC_THREAD_LEVEL": "funneled"})
    notes = [line.split(" is ")[0] for line in capsys.readouterr().out.splitlines()]
    assert notes == ["note: MPI4PY_RC_THREADS=False", "note: MPI4PY_RC_THREAD_LEVEL=funneled"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("OMP_NUM_THREADS", value) for value in ("0", "abc", "4,", "-1")),
        *((name, value) for name in environment.HOROVOD_NUMBERS for value in ("abc", "", "-1")),
        *((name, value) for name in environment.HOROVOD_CHOICES for value in ("abc", "")),
        ("HOROVOD_CONTROLLER", "gloo"),  # a segmentation fault otherwise
    ],
)
def test_variables_that_cannot_be_read_are_one_line_and_exit_code_2(name, value, monkeypatch, capsys):
    monkeypatch.setenv(name, value)
    assert leave_with(None) == 2
    out, printed = capsys.readouterr()
    assert out == ""
    assert printed.startswith(f"error: {name}='{value}' ")
    assert printed.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("OMP_NUM_THREADS", value) for value in (" 5 ,10", "", "4,2")),
        *(("HOROVOD_CYCLE_TIME", " 2.5"), ("HOROVOD_CONTROLLER", "MPI"), ("HOROVOD_CPU_OPERATIONS", "gloo")),
    ],
)
def test_variables_that_can_be_read_are_accepted(name, value, monkeypatch):
    monkeypatch.setenv(name, value)
    assert leave_with(None) == 0


def test_threads_follow_openmp(monkeypatch, alone):
    import torch

    from common.parallel.topology import set_threads

    before = torch.get_num_threads()
    try:
        monkeypatch.setenv("OMP_NUM_THREADS", " 3 ,2")
        assert set_threads(alone.node) == torch.get_num_threads() == 3
        monkeypatch.setenv("OMP_NUM_THREADS", "")
        monkeypatch.setattr("common.parallel.machine.quotas", lambda: [])
        monkeypatch.setattr("common.parallel.machine.visible_cores", lambda: [0, 1, 2, 3, 4])
        assert set_threads(alone.node) == torch.get_num_threads() == 5
        monkeypatch.setattr("common.parallel.machine.quotas", lambda: [environment.machine.Quota(2.5, (0, 1), "/x")])
        assert set_threads(alone.node) == 2
        monkeypatch.setenv("OMP_NUM_THREADS", "abc")
        with pytest.raises(UsageError, match="OMP_NUM_THREADS='abc'"):
            set_threads(alone.node)
    finally:
        torch.set_num_threads(before)


def test_the_environment_keeps_what_the_user_set(monkeypatch):
    monkeypatch.setenv("HOROVOD_STALL_SHUTDOWN_TIME_SECONDS", "7")
    environment.prepare_environment()
    assert os.environ["HOROVOD_STALL_SHUTDOWN_TIME_SECONDS"] == "7"


def test_a_fault_happens_only_where_and_when_it_was_asked_for(monkeypatch):
    assert not faults.trip("train", 0, 0)
    monkeypatch.setenv("ECOSPHERE_FAULT", "raise:1:train:2")
    for where in (("train", 0, 2), ("train", 1, 1), ("move", 1, 2)):
        assert not faults.trip(*where)
    with pytest.raises(RuntimeError, match=r"rank 1.*train.*round 2"):
        faults.trip("train", 1, 2)
    monkeypatch.setenv("ECOSPHERE_FAULT", "nan:1:train:2")
    assert faults.trip("train", 1, 2)
    for misspelt in ("bogus", "nan:1", "nan:1:evaluate:1", "nan:x:train:1", "raise:0:trian:1", "kill:0:train:-1"):
        monkeypatch.setenv("ECOSPHERE_FAULT", misspelt)
        with pytest.raises(UsageError, match="is no fault: write KIND:RANK:PHASE:ROUND"):
            faults.trip("train", 0, 0)
    killed = []
    monkeypatch.setattr(os, "kill", lambda *who: killed.append(who))
    monkeypatch.setenv("ECOSPHERE_FAULT", "kill:0:exchange:0")
    faults.trip("exchange", 0, 0)
    assert killed == [(os.getpid(), signal.SIGKILL)]


@pytest.mark.parametrize(
    ("local_size", "cores", "threads", "horovod", "expected"),
    [
        (2, 2, 1, True, True),  # as many ranks as cores: Horovod's threads are two too many
        (2, 2, 1, False, False),
        (1, 2, 2, True, True),
        (1, 2, 1, True, False),
        (8, 2, 1, False, True),
        (2, 8, 4, True, True),
        (2, 8, 3, True, False),
        (2, 8, 4, False, False),
    ],
)
def test_ranks_yield_where_all_threads_outnumber_the_cores(local_size, cores, threads, horovod, expected, setenv, monkeypatch):
    monkeypatch.delenv("OMPI_MCA_mpi_yield_when_idle", raising=False)
    setenv(f"OMPI_COMM_WORLD_LOCAL_SIZE={local_size} OMP_NUM_THREADS={threads}")
    monkeypatch.setattr(environment, "available_cores", lambda: cores)
    monkeypatch.setattr(environment, "_has_distribution", lambda name: horovod and name == "horovod")
    environment.prepare_environment()
    assert ("OMPI_MCA_mpi_yield_when_idle" in os.environ) is expected
    assert ("HOROVOD_CYCLE_TIME" in os.environ) is expected


@pytest.mark.parametrize(
    ("size", "local_size", "given", "expected"),
    [
        (None, None, None, "^ofi"),  # a single process
        (4, 4, None, "^ofi"),
        (4, 2, None, None),  # two nodes
        (4, None, None, None),  # a launcher that does not say how many ranks are here
        (4, 4, "self,tcp", "self,tcp"),  # asked for
    ],
)
def test_mpi_starts_without_libfabric_where_all_ranks_are_on_one_node(size, local_size, given, expected, monkeypatch):
    monkeypatch.setattr(environment, "launcher_size", lambda: size)
    if local_size:
        monkeypatch.setenv("OMPI_COMM_WORLD_LOCAL_SIZE", str(local_size))
    env = {"OMPI_MCA_btl": given} if given else {}
    with environment.on_one_node(env):
        assert env.get("OMPI_MCA_btl") == expected
    assert env == ({"OMPI_MCA_btl": given} if given else {})


def test_the_cores_are_shared_out_where_no_number_of_threads_is_asked_for():
    assert [environment.threads_per_rank(n, 8) for n in (1, 2, 3, 8, 16)] == [8, 4, 2, 1, 1]
