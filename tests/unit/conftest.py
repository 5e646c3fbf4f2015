"""What the unit tests share: one process, one thread, reproducible examples, and a world of one rank."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: the tensors here are tiny and the machine is shared

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "unit",
    derandomize=True,  # the same examples on every machine and every run
    deadline=None,  # shared machines stall
    max_examples=60,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("unit")


@pytest.fixture(scope="session")
def alone():
    """The topology of a single process."""
    from common.parallel.populations import PopulationSpec
    from common.parallel.topology import build_topology

    return build_topology([PopulationSpec("gwo", 1, "sgd")])


@pytest.fixture
def one():
    """A group of this process alone, with counters of its own."""
    from common.parallel.comm import Group, Traffic
    from common.parallel.mpi import MPI

    return Group(MPI.COMM_SELF, Traffic())
