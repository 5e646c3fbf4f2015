"""What the preflight says of a machine, from made-up values."""

import os
import sys
from pathlib import Path

import pytest

from common.errors import UsageError
from common.parallel import environment
from common.parallel.machine import Quota

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

import preflight
from preflight import MISSING, NOTE, OK

MB = 10**6


@pytest.fixture(autouse=True)
def wheel(monkeypatch):
    """As if Open MPI were installed as a wheel."""
    monkeypatch.setattr(preflight, "version", lambda package: "4.1.8")


def test_cores_that_are_granted_stand_beside_those_that_are_visible():
    assert preflight.cores_row(4, 4, []) == ("cores", "4", OK, "")
    assert preflight.cores_row(4, 4, [Quota(4.0, (0, 1), "/g")]).state == OK
    half = preflight.cores_row(4, 1, [Quota(2.0, (0, 1), "/g"), Quota(0.5, (0, 2), "/g/h")])
    assert (half.value, half.state) == ("0.5 of 4 granted by /g/h", NOTE)
    assert "1 thread;" in half.advice
    assert "2 threads;" in preflight.cores_row(4, 2, [Quota(2.5, (0, 1), "/g")]).advice


@pytest.mark.parametrize(("free", "state"), [(0, MISSING), (8 * MB, MISSING), (9 * MB, OK), (10**12, OK)])
def test_a_temporary_folder_has_to_hold_a_session_of_open_mpi(free, state, monkeypatch):
    row = preflight.temporary_row(Path("/t"), free)
    assert row.state == state
    assert ("mpirun hangs" in row.advice) == (state == MISSING)
    monkeypatch.setattr(preflight, "version", lambda package: None)  # another MPI, of which nothing is known
    assert preflight.temporary_row(Path("/t"), free).state == (NOTE if state == MISSING else OK)


def test_a_temporary_folder_has_to_be_there_and_to_leave_room_for_sockets(tmp_path):
    states = [preflight.temporary_row(Path("/" + "x" * (length - 1)), 10**10).state for length in (75, 76)]
    assert states == [OK, NOTE]
    assert preflight.temporary_row(tmp_path).state == OK
    row = preflight.temporary_row(tmp_path / "nowhere")
    assert (row.state, row.value) == (MISSING, str(tmp_path / "nowhere"))


@pytest.mark.parametrize(
    ("variables", "folder"),
    [({}, "/tmp"), ({"TMPDIR": ""}, "/tmp"), ({"TMP": "/a", "TEMP": "/b"}, "/b"), ({"TMPDIR": "/c", "TMP": "/a"}, "/c")],
)
def test_the_temporary_folder_is_that_of_open_mpi(variables, folder):
    assert preflight.temporary_folder(variables) == Path(folder)


def test_mpirun_is_not_tried_where_it_would_hang(monkeypatch):
    monkeypatch.setattr(preflight, "temporary_row", lambda: preflight.Row("TMPDIR", "/t", MISSING))
    monkeypatch.setattr(preflight.shutil, "which", lambda *_, **__: "/bin/mpirun")
    monkeypatch.setattr(preflight, "probe", lambda *_, **__: pytest.fail("it was tried"))
    assert preflight.launcher_row("Open MPI v4.1.8").advice == "not tried: see TMPDIR"


@pytest.mark.parametrize(
    ("free", "state", "room"),
    [
        *((0, NOTE, "for 0 ranks"), (4 * MB, NOTE, "for 0 ranks"), (5 * MB, NOTE, "for 1 rank of")),
        *((33 * MB, NOTE, "for 7 ranks"), (34 * MB, OK, ""), (10**12, OK, "")),
    ],
)
def test_shared_memory_has_to_hold_a_segment_for_each_of_eight_ranks(free, state, room):
    row = preflight.shared_memory_row(free)
    assert row.state == state
    assert f"room {room}" in row.advice if room else not row.advice


def test_what_is_set_for_mpi_is_listed(tmp_path):
    (tmp_path / ".openmpi").mkdir()
    (tmp_path / ".openmpi/mca-params.conf").write_text("# comment\n\n  btl = tcp,self\n", encoding="utf-8")
    variables = {"OMPI_MCA_pml": "ob1", "HOROVOD_CYCLE_TIME": "3", "OMPI_ALLOW_RUN_AS_ROOT": "1", "PATH": "/bin"}
    rows = preflight.settings_rows(variables, tmp_path)
    assert [(row.value, row.state) for row in rows] == [
        ("HOROVOD_CYCLE_TIME=3", NOTE),
        ("OMPI_MCA_pml=ob1", NOTE),
        (f"{tmp_path}/.openmpi/mca-params.conf: btl = tcp,self", NOTE),
    ]
    assert preflight.settings_rows({}, tmp_path / "nobody") == []


@pytest.mark.parametrize(("name", "value"), [("HOROVOD_CYCLE_TIME", "abc"), ("HOROVOD_CONTROLLER", "gloo")])
def test_what_the_scripts_refuse_is_missing_here(name, value, tmp_path, monkeypatch):
    (row,) = preflight.settings_rows({name: value}, tmp_path)
    assert (row.value, row.state) == (f"{name}={value}", MISSING)
    monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=rf"^{name}='{value}' "):
        environment.check_environment()


@pytest.mark.parametrize(("threads", "state"), [("4,2", NOTE), ("", None), ("0", MISSING), ("abc", MISSING)])
def test_threads_are_read_as_the_scripts_read_them(threads, state, tmp_path):
    rows = preflight.settings_rows({"OMP_NUM_THREADS": threads}, tmp_path)
    assert [row.state for row in rows] == ([] if state is None else [state])


BUILT = '{"version": "0.28.1", "mpi": true, "gloo": false, "cuda": false, "nccl": false, "loaded": ["/x/libmpi.so"]}'


@pytest.mark.parametrize(("distutils", "state"), [(object(), OK), (None, NOTE)])
def test_horovodrun_needs_distutils_which_setuptools_brings(distutils, state, monkeypatch):
    monkeypatch.setattr(preflight, "probe", lambda code: (BUILT, ""))
    monkeypatch.setattr(preflight, "find_spec", lambda name: distutils)
    row = preflight.horovod_row()
    assert row.state == state
    assert ("pip install setuptools" in row.advice) == (state == NOTE)


def test_without_horovod_the_scripts_start_with_mpirun(monkeypatch):
    monkeypatch.setattr(preflight, "version", lambda package: None)
    row = preflight.horovod_row()
    assert (row.value, row.state) == ("not installed", NOTE)
    assert "MPI averages the gradients" in row.advice


def test_the_whole_table_of_this_machine():
    names = [row.name for row in preflight.machine_rows()]
    assert names[:5] == ["cores", "memory", "disk", "TMPDIR", "/dev/shm"]
    assert preflight.cores_row(len(os.sched_getaffinity(0)), 1, []).state == OK
