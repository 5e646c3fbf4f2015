"""Worlds for the tests: ways to split so many ranks into populations, known numbers by address, and steps."""

import importlib.util
from functools import cache

import numpy as np
import pytest
import torch
from torch import nn

from common.models.flat import FlatModel
from common.optim.protocols import Closure
from common.parallel.mpi import MPI
from common.parallel.populations import PopulationSpec
from common.parallel.topology import Topology, build_topology

WORLD = MPI.COMM_WORLD
RANK, SIZE = WORLD.rank, WORLD.size

_CHOSEN = {
    1: [[1]],
    2: [[1, 1], [2]],
    3: [[2, 1], [1, 1, 1], [3]],
    4: [[2, 2], [3, 1], [1, 1, 1, 1], [4]],
    8: [[4, 4], [5, 2, 1], [3, 1, 2, 2], [2, 1, 2, 1, 2]],
}
LAYOUTS = _CHOSEN.get(SIZE, [[SIZE - SIZE // 2, SIZE // 2], [1] * SIZE, [SIZE]])  # sizes of the populations of this world
SPLIT = [sizes for sizes in LAYOUTS if len(sizes) > 1]

HOROVOD = importlib.util.find_spec("horovod") is not None
ENGINES = ["mpi", pytest.param("horovod", marks=pytest.mark.skipif(not HOROVOD, reason="Horovod is not installed"))]

each_engine = pytest.mark.parametrize("engine", ENGINES)
needs_two = pytest.mark.skipif(SIZE < 2, reason="needs at least two ranks")
each_layout = pytest.mark.parametrize("sizes", LAYOUTS, ids=lambda s: "+".join(map(str, s)))
each_split = pytest.mark.parametrize("sizes", SPLIT, ids=lambda s: "+".join(map(str, s)))


def specs(sizes: list[int], optimizer: str = "sgd") -> list[PopulationSpec]:
    """Wolves and whales in turn."""
    return [PopulationSpec(("gwo", "woa")[k % 2], m, optimizer) for k, m in enumerate(sizes)]


def build(sizes: list[int], scope: str = "population", engine: str = "mpi") -> Topology:
    """A topology with its counters at zero; Horovod is stopped first, since it knows one communicator at a time."""
    topology = _with_mpi(tuple(sizes), scope) if engine == "mpi" else _with_horovod(sizes, scope)
    topology.traffic.inside = topology.traffic.across = 0
    return topology


@cache
def _with_mpi(sizes: tuple[int, ...], scope: str) -> Topology:
    return build_topology(specs(list(sizes)), scope, horovod=False)


def _with_horovod(sizes: list[int], scope: str) -> Topology:
    import horovod.torch as hvd

    WORLD.Barrier()
    if hvd.is_initialized():
        hvd.shutdown()
    WORLD.Barrier()
    return build_topology(specs(sizes), scope)


def alone() -> Topology:
    """A world of this rank only, as in a single process."""
    return build(LAYOUTS[0]).alone()


def numbers(length: int, *address: int) -> torch.Tensor:
    """Normal float32 numbers; the same for the same address."""
    return torch.from_numpy(np.random.default_rng(address).standard_normal(length, dtype=np.float32))


def closure_of(model: FlatModel, images: torch.Tensor, labels: torch.Tensor, **loss: float) -> Closure:
    """What a step calls: the loss of a batch, and its gradient in the model's buffer."""

    def closure() -> torch.Tensor:
        model.zero_gradient()
        total = nn.functional.cross_entropy(model.module(images), labels, **loss)
        total.backward()
        return total.detach()

    return closure


def fitness_of(t: int) -> np.ndarray:
    """Fitness of all workers in round t."""
    return np.random.default_rng([7, t]).random(SIZE)


def everyones(value) -> list:
    """The value of every rank, on every rank."""
    return WORLD.allgather(value.detach().numpy().copy() if isinstance(value, torch.Tensor) else value)


def population_of(sizes: list[int]) -> list[int]:
    """Number of every rank's population."""
    return [k for k, m in enumerate(sizes) for _ in range(m)]
