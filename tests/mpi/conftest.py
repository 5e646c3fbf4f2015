"""Tests of message passing: `mpirun --oversubscribe --bind-to none -np N python -m pytest tests/mpi`, valid for every N.

Rank 0 prints. A failure on any rank prints that rank's report and ends the whole job, because the others would wait for ever
in their next collective; so does a test that takes too long. All ranks draw the same hypothesis examples.
"""

import faulthandler
import functools
import os
import shutil
import sys
import tempfile
import time
import traceback
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.errors import HypothesisException

from common.parallel.mpi import MPI

WORLD = MPI.COMM_WORLD
LIMIT = 120.0  # seconds for one test: a hang is a failure
stderr = sys.__stderr__  # the real one is opened in `pytest_configure`

settings.register_profile(
    "mpi",
    derandomize=True,  # the same examples on every rank
    database=None,
    deadline=None,
    max_examples=8,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),  # some of them look at the clock, and the ranks have to agree
)
settings.load_profile("mpi")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config):
    global stderr
    stderr = os.fdopen(os.dup(2), "w")  # before pytest captures it
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # the models are tiny, and threads that spin would only take cores away
    if WORLD.rank:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  (for as long as pytest lives)


def end_job(report):
    """Print one rank's report and abort all ranks; if several fail, the lowest reports first."""
    time.sleep(0.1 * WORLD.rank)
    print(f"\n=== rank {WORLD.rank} of {WORLD.size} failed ===\n{report}", file=stderr, flush=True)
    WORLD.Abort(1)


def pytest_runtest_logreport(report):
    if report.failed and WORLD.size > 1:
        end_job(f"{report.nodeid} ({report.when})\n{report.longreprtext}")


def pytest_collectreport(report):
    if report.failed and WORLD.size > 1:
        end_job(report.longreprtext)


def pytest_internalerror(excrepr):
    if WORLD.size > 1:
        end_job(excrepr)


def pytest_collection_modifyitems(items):
    # Hypothesis runs a failing example again, which on one rank alone would wait for the others: end the job before.
    for item in items:
        handle = getattr(item.obj, "hypothesis", None)
        if handle and WORLD.size > 1 and not hasattr(handle.inner_test, "ends_job"):
            handle.inner_test = _ending_job(handle.inner_test)


def _ending_job(test):
    @functools.wraps(test)
    def wrapper(*args, **kwargs):
        try:
            return test(*args, **kwargs)
        except HypothesisException:
            raise
        except (Exception, pytest.fail.Exception):
            end_job(f"with {kwargs}\n{traceback.format_exc()}")

    wrapper.ends_job = True
    return wrapper


@pytest.fixture(autouse=True)
def together():
    """All ranks begin a test together, and end it within the limit."""
    faulthandler.dump_traceback_later(LIMIT, exit=True, file=stderr)
    WORLD.Barrier()
    yield
    faulthandler.cancel_dump_traceback_later()


@pytest.fixture
def shared_dir():
    """One empty directory, the same on all ranks; gone after the test."""
    path = Path(WORLD.bcast(tempfile.mkdtemp() if WORLD.rank == 0 else None))
    yield path
    WORLD.Barrier()
    if WORLD.rank == 0:
        shutil.rmtree(path)
