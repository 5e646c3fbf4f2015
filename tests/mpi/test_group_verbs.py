"""Operations of one communicator against numpy over the numbers of all ranks, with MPI and with Horovod."""

import numpy as np
import pytest
import torch
from worlds import LAYOUTS, RANK, SIZE, build, each_engine, each_layout, everyones, needs_two, numbers, population_of

from common.ecosphere.exchange import slice_bounds
from common.parallel.comm import finite_mean_

GROUPS = [("world", [SIZE]), *(("population", sizes) for sizes in LAYOUTS if sizes != [SIZE])]
each_group = pytest.mark.parametrize(
    ("scope", "sizes"), GROUPS, ids=lambda v: v if isinstance(v, str) else "+".join(map(str, v))
)
LENGTHS = (1, 7, 5000, 70001)  # short and long buffers take different algorithms inside MPI


def members(topology, scope):
    """World ranks of the group that gradients are averaged over."""
    of = population_of(topology.sizes)
    return [r for r in range(SIZE) if scope == "world" or of[r] == of[RANK]]


@each_group
@each_engine
def test_a_sum_is_numpys_with_the_same_bits_on_every_rank_at_once_or_started_and_waited_for(scope, sizes, engine):
    topology = build(sizes, scope, engine)
    ranks = members(topology, scope)
    for length in LENGTHS:
        buffer, other = numbers(length, RANK), numbers(length, RANK)
        assert topology.gradients.sum_(buffer, f"sum{length}") is buffer
        exact = np.sum([numbers(length, r).numpy() for r in ranks], axis=0, dtype=np.float64)
        np.testing.assert_allclose(buffer.numpy(), exact, rtol=1e-6, atol=1e-6 * SIZE)  # float32, any order of addition
        bits = everyones(buffer.numpy().tobytes())
        assert {bits[r] for r in ranks} == {bits[RANK]}
        wait = topology.gradients.start_sum_(other, f"started{length}")
        meanwhile = torch.ones(100).sum()
        wait()
        assert meanwhile == 100
        torch.testing.assert_close(other, buffer, rtol=1e-6, atol=1e-6 * SIZE)
    assert topology.traffic.inside == (2 * 4 * sum(LENGTHS) if len(ranks) > 1 else 0)
    assert topology.traffic.across == 0
    whole, factor = torch.arange(1000.0), sum(r + 1 for r in ranks)
    assert torch.equal(topology.gradients.sum_(whole * (RANK + 1), "whole"), whole * factor), "whole numbers are added exactly"


@each_layout
def test_horovod_runs_exactly_where_a_group_has_somebody_to_talk_to(sizes):
    pytest.importorskip("horovod")
    topology = build(sizes, "population", "horovod")
    assert (topology.gradients.horovod is not None) == (topology.population.size > 1)
    assert topology.world.horovod is None
    if topology.gradients.horovod:
        assert topology.gradients.horovod.size() == topology.population.size == topology.spec.workers
        assert topology.gradients.horovod.rank() == topology.population.rank


@each_layout
def test_a_broadcast_gives_everybody_the_roots_numbers(sizes):
    topology = build(sizes)
    group = topology.population
    for root in range(group.size):
        buffer = numbers(33, 1, RANK)
        topology.traffic.inside = 0
        group.broadcast_(buffer, root)
        assert torch.equal(buffer, numbers(33, 1, topology.offsets[topology.index] + root))
        assert topology.traffic.inside == (4 * 33 if group.rank == root and group.size > 1 else 0)


@pytest.mark.parametrize("length", [0, 1, 5, 64, 1001])
def test_slices_come_together_from_the_first_ranks(length):
    world = build(LAYOUTS[0]).world
    for slices in range(1, SIZE + 1):
        bounds = slice_bounds(length, slices)
        array = np.full(length, np.nan, dtype=np.float32)
        if slices > RANK:
            start, stop = bounds[RANK]
            array[start:stop] = 10 * RANK + np.arange(stop - start)
        world.gather_slices_(array, bounds)
        wanted = [10 * r + np.arange(stop - start) for r, (start, stop) in enumerate(bounds)]
        np.testing.assert_array_equal(array, np.concatenate(wanted).astype(np.float32))


@pytest.mark.parametrize("closed", [True, pytest.param(False, marks=needs_two)])
def test_a_swap_brings_the_left_neighbours_numbers_round_a_ring_or_along_a_line(closed):
    topology = build(LAYOUTS[0])
    mine, theirs = np.full(17, RANK, np.float32), np.full(17, -1, np.float32)
    right = (RANK + 1) % SIZE if closed or RANK + 1 < SIZE else None
    left = (RANK - 1) % SIZE if closed or RANK else None
    topology.world.swap(mine, theirs, to=right, source=left)
    assert set(theirs) == {-1.0 if left is None else float(left)}
    assert topology.traffic.across == (0 if right is None else mine.nbytes)


def test_rows_records_and_values_reach_whom_they_are_for():
    world = build(LAYOUTS[0]).world
    table = world.gather_rows(np.array([RANK + 1 / 3, -np.inf, np.pi * RANK]))
    assert table.dtype == np.float64
    np.testing.assert_array_equal(table, [[r + 1 / 3, -np.inf, np.pi * r] for r in range(SIZE)])  # not rounded
    assert world.bcast_object({"from": RANK}) == {"from": 0}
    records = world.gather_records((RANK, "x"))
    assert records == ([(r, "x") for r in range(SIZE)] if RANK == 0 else None)


@each_engine
@each_group
def test_a_finite_mean_leaves_out_ranks_with_a_number_that_is_not_finite(scope, sizes, engine):
    topology = build(sizes, scope, engine)
    ranks = members(topology, scope)
    for lost in (ranks[:1], ranks):  # the first of every group, which is all of a group of one; and all of every group
        for poison in (float("nan"), float("inf"), float("-inf")):
            buffer = torch.cat([numbers(9, 2, RANK), torch.tensor([-5.0])])
            if RANK in lost:
                buffer[RANK % 9] = poison
            assert finite_mean_(topology.gradients, buffer, "mean") == buffer[-1] == len(ranks) - len(lost)
            healthy = [numbers(9, 2, r).numpy() for r in ranks if r not in lost]
            wanted = np.mean(healthy, axis=0, dtype=np.float64) if healthy else np.zeros(9)
            np.testing.assert_allclose(buffer[:-1].numpy(), wanted, rtol=1e-6, atol=1e-6 if healthy else 0)


@each_group
def test_the_best_of_a_group_is_the_lowest_value_and_the_lowest_rank_that_has_it(scope, sizes):
    topology = build(sizes, scope)
    group, ranks = topology.gradients, members(topology, scope)
    nothing = [np.nan, np.inf]
    cases = [[1.5] * SIZE, [float(-r) for r in range(SIZE)], [2.0, -1.0, *nothing, -1.0, 1e-300, -1e300, 0.0], nothing * 4]
    for values in cases:
        mine = [np.inf if np.isnan(values[r % len(values)]) else values[r % len(values)] for r in ranks]
        found = group.minloc(values[RANK % len(values)])
        assert found == min(zip(mine, range(len(mine)), strict=True))
    assert topology.traffic.inside == 0, "sixteen bytes are not counted"


@each_group
def test_flat_buffers_of_a_group_are_gathered_in_rank_order(scope, sizes):
    topology = build(sizes, scope)
    ranks = members(topology, scope)
    for length in LENGTHS:
        found = topology.gradients.gather_flat(numbers(length, RANK))
        assert torch.equal(found, torch.stack([numbers(length, r) for r in ranks]))
    assert topology.traffic.inside == (4 * sum(LENGTHS) if len(ranks) > 1 else 0)


@each_group
def test_an_array_of_rank_0_is_shared_as_it_is(scope, sizes):
    topology = build(sizes, scope)
    group, first = topology.gradients, members(topology, scope)[0]
    for make in (lambda r: np.full((3, 2, 4), r, dtype=np.uint8).transpose(2, 0, 1), lambda r: np.arange(r, r + 5), np.zeros):
        found = group.bcast_array(make(RANK) if group.rank == 0 else None)
        assert found.dtype == make(first).dtype
        assert found.flags.c_contiguous
        np.testing.assert_array_equal(found, make(first))
