"""tests/mpi/conftest.py: a test that fails on one rank ends the job with that rank's report; no rank hangs."""

import shutil

import pytest
from launching import ROOT, run

PLAIN = """
def test_fails_on_rank_1():
    assert WORLD.rank != 1, "rank 1 is wrong"
    WORLD.Barrier()
"""
DRAWN = """
@given(st.integers())
def test_fails_on_rank_1_for_some_numbers(number):
    assert WORLD.rank != 1 or number < 1, "rank 1 is wrong"
    WORLD.Barrier()
"""
HEAD = """
from hypothesis import given, strategies as st
from common.parallel.mpi import MPI
WORLD = MPI.COMM_WORLD
"""


@pytest.mark.parametrize("test", [DRAWN, pytest.param(PLAIN, marks=pytest.mark.slow)], ids=["drawn", "plain"])
def test_a_failure_on_one_rank_ends_the_job_with_its_report(tmp_path, test):
    shutil.copy(ROOT / "tests" / "mpi" / "conftest.py", tmp_path)
    (tmp_path / "test_it.py").write_text(HEAD + test)
    done = run("-m", "pytest", "-p", "no:cacheprovider", "--rootdir", tmp_path, tmp_path, ranks=2, limit=60, code=None)
    assert done.code != 0, done
    assert "=== rank 1 of 2 failed ===" in done.err
    assert "rank 1 is wrong" in done.err
    assert "test session starts" in done.out
    assert done.out.count("test session starts") == 1  # only rank 0 prints
