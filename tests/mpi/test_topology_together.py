"""Communicators and ranks, the same for all: splits, counterparts, devices, and errors that belong to all ranks."""

import pytest
from worlds import LAYOUTS, RANK, SIZE, build, each_layout, everyones, population_of

from common.errors import UsageError
from common.parallel.topology import world_size


@each_layout
@pytest.mark.parametrize("scope", ["population", "world"])
def test_the_world_is_split_into_populations_in_rank_order(sizes, scope):
    topology = build(sizes, scope)
    home = population_of(sizes)
    assert topology.sizes == sizes
    assert topology.index == home[RANK]
    assert topology.population.size == topology.spec.workers == sizes[home[RANK]]
    assert topology.population.rank == home[:RANK].count(home[RANK])
    assert topology.gradients is (topology.world if scope == "world" else topology.population)
    assert topology.world.traffic is topology.population.traffic is topology.traffic


@each_layout
def test_counterparts_have_my_index_in_their_population(sizes):
    topology = build(sizes)
    where = everyones((topology.index, topology.population.rank))
    for k in range(len(sizes)):
        if topology.population.rank < sizes[k]:
            assert where[topology.counterpart(k)] == (k, topology.population.rank)


def test_all_ranks_see_a_world_of_the_launchers_size():
    assert world_size() == SIZE
    assert build(LAYOUTS[0]).node.size == SIZE  # these tests run on one machine
    assert build(LAYOUTS[0]).threads >= 1


def raise_on(ranks):
    """A block in which these ranks find something wrong."""
    with build(LAYOUTS[0]).world.raise_together():
        if RANK in ranks:
            raise UsageError(f"from rank {RANK}")


@pytest.mark.parametrize("guilty", [{0}, {SIZE // 2}, {SIZE - 1}, set(range(SIZE // 2, SIZE))], ids=str)
def test_an_error_is_raised_on_all_ranks_and_of_several_that_of_the_lowest(guilty):
    with pytest.raises(UsageError, match=f"^from rank {min(guilty)}$"):
        raise_on(guilty)


def test_without_an_error_everybody_goes_on():
    raise_on(())
    assert everyones(RANK) == list(range(SIZE))
