"""How a process leaves: exit codes, one line for the user's mistakes, a traceback with its place for everything else."""

import os
import signal

import pytest

from common import faults, launch
from common.errors import Diverged, UsageError


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch):
    for name in (*launch.RANK_VARIABLES, *launch.SIZE_VARIABLES, *launch.LOCAL_SIZE_VARIABLES, "ECOSPHERE_FAULT"):
        monkeypatch.delenv(name, raising=False)


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


@pytest.mark.parametrize("name", launch.RANK_VARIABLES)
def test_only_rank_zero_speaks_under_every_launcher(name, capsys, monkeypatch):
    for rank, expected in (("0", "hello\n"), ("2", "")):
        monkeypatch.setenv(name, rank)
        assert launch.launcher_rank() == int(rank)
        launch.say("hello")
        assert capsys.readouterr().out == expected


def test_the_environment_keeps_what_the_user_set(monkeypatch):
    monkeypatch.setenv("HOROVOD_STALL_SHUTDOWN_TIME_SECONDS", "7")
    launch.prepare_environment()
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
def test_ranks_yield_where_their_threads_and_horovods_outnumber_the_cores(
    local_size, cores, threads, horovod, expected, monkeypatch
):
    assert launch.outnumbered(local_size, cores, threads, horovod) is expected
    for name in ("OMPI_MCA_mpi_yield_when_idle", "HOROVOD_CYCLE_TIME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMPI_COMM_WORLD_LOCAL_SIZE", str(local_size))
    monkeypatch.setenv("OMP_NUM_THREADS", str(threads))
    monkeypatch.setattr(launch, "available_cores", lambda: cores)
    monkeypatch.setattr(launch, "_has_distribution", lambda name: horovod and name == "horovod")
    launch.prepare_environment()
    assert ("OMPI_MCA_mpi_yield_when_idle" in os.environ) is expected
    assert ("HOROVOD_CYCLE_TIME" in os.environ) is expected


def test_the_cores_are_shared_out_where_no_number_of_threads_is_asked_for(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert [launch.threads_per_rank(n, 8) for n in (1, 2, 3, 8, 16)] == [8, 4, 2, 1, 1]
