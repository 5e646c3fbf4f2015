"""Elastic averaging among ranks: the synchronous forms against their matrices, the server's protocol, the window."""

import math

import numpy as np
import pytest
import torch
from worlds import RANK, SIZE, build, each_engine, everyones, needs_two

from benchmarks import elastic_theory as stability
from common.coupling.elastic import CenterVariable, Downpour, Elastic
from common.coupling.server import ServedCenter, Server, WindowCenter, slices_of
from common.coupling.synchronous import SynchronousElastic, couple

each_server = pytest.mark.parametrize("servers", range(1, max(2, min(4, SIZE))))


def world_of(engine="mpi"):
    return build([SIZE], "world", engine)


def places(length=1):
    """Where every rank and the centre begin, shape (SIZE + 1, length), float32."""
    return torch.from_numpy(np.random.default_rng(7).normal(size=(SIZE + 1, length)).astype(np.float32))


def coupled(start, alpha, period=1, engine="mpi", **how):
    """(topology, weights, coupling) of this rank; weights and centre are where they begin."""
    topology, x = world_of(engine), start[RANK].clone()
    coupling = SynchronousElastic(x, topology.gradients, alpha, period, **how)
    coupling.centre.copy_(start[SIZE])
    return topology, x, coupling


def play(coupling, x, steps, eta, h=1.0):
    for t in range(steps):
        coupling.begin(t, x)
        gradient = h * x
        x.sub_(gradient, alpha=eta)
        coupling.end(t, x, gradient)


def serve(centre, servers, workers, report=print, **rule):
    """Be the server of this rank's slice of a centre until the workers have stopped; returns what the slice has become."""
    master = CenterVariable(centre[slices_of(len(centre), servers)[RANK]].clone(), **rule)
    Server(world_of().world, master, list(workers), report).serve()
    return master.centre


@each_engine
@pytest.mark.parametrize("beta", [0.9, 0.3])
def test_synchronous_easgd_follows_its_matrix(engine, beta):
    start, eta, alpha = places(), 0.2, beta / SIZE
    _, x, coupling = coupled(start, alpha, engine=engine)
    play(coupling, x, 9, eta)
    expected = np.linalg.matrix_power(stability.synchronous_easgd(eta, alpha, SIZE), 9) @ start[:, 0].numpy()
    assert float(x) == pytest.approx(expected[RANK], abs=1e-5)
    assert float(coupling.centre) == pytest.approx(expected[SIZE], abs=1e-5)


@each_engine
def test_gauss_seidel_follows_its_matrix(engine):
    start, eta, alpha = places(), 0.2, 0.7 / SIZE
    _, x, coupling = coupled(start, alpha, engine=engine, gauss_seidel=True)
    play(coupling, x, 9, eta)
    pair = [float(start[:SIZE].mean()), float(start[SIZE])]
    expected = np.linalg.matrix_power(stability.gauss_seidel_easgd(eta, alpha, 0.7), 9) @ pair
    assert np.mean(everyones(float(x))) == pytest.approx(expected[0], abs=1e-5)
    assert float(coupling.centre) == pytest.approx(expected[1], abs=1e-5)


@each_engine
def test_every_rank_holds_the_same_bits_of_the_centre_and_identical_workers_stay_so(engine):
    topology, x, coupling = coupled(places(1000), 0.8 / SIZE, 3, engine)
    play(coupling, x, 12, 0.1, h=1 + RANK)
    assert len(set(everyones(coupling.centre.numpy().tobytes()))) == 1
    same = places(1000)[0].clone()
    play(SynchronousElastic(same, topology.gradients, 0.8 / SIZE, 2), same, 8, 0.1)  # I4
    assert len(set(everyones(same.numpy().tobytes()))) == 1


def test_with_beta_one_the_centre_becomes_the_mean_of_the_workers():
    """I5; and periodic model averaging and synchronous DOWNPOUR as special cases of the Gauss-Seidel form (I8)."""
    start = places(5)
    _, x, jacobi = coupled(start, 1 / SIZE)
    play(jacobi, x, 1, 0.1)
    torch.testing.assert_close(jacobi.centre, start[:SIZE].mean(0))
    _, x, averaging = coupled(start, 1.0, gauss_seidel=True, beta=1.0)
    play(averaging, x, 1, 0.0)
    torch.testing.assert_close(x, start[:SIZE].mean(0))
    _, x, downpour = coupled(start, 1.0, gauss_seidel=True, beta=float(SIZE))
    play(downpour, x, 1, 0.0)
    torch.testing.assert_close(x, start[SIZE] + (start[:SIZE] - start[SIZE]).sum(0), atol=1e-5, rtol=1e-5)


@needs_two
@each_engine
def test_a_worker_that_is_lost_counts_as_standing_at_the_centre(engine):
    start, alpha = places(5), 0.9 / SIZE
    _, x, coupling = coupled(start, alpha, engine=engine)
    if RANK == SIZE - 1:
        x[2] = torch.nan
    play(coupling, x, 1, 0.0)
    others = start[: SIZE - 1]
    torch.testing.assert_close(coupling.centre, start[SIZE] + alpha * (others - start[SIZE]).sum(0), atol=1e-6, rtol=1e-5)
    if RANK < SIZE - 1:
        torch.testing.assert_close(x, start[RANK] - alpha * (start[RANK] - start[SIZE]))
    else:
        assert not torch.isfinite(x).all()


def test_between_two_exchanges_a_worker_is_on_its_own_and_sends_nothing():
    topology, x, coupling = coupled(places(10), 0.5 / SIZE, 4)
    play(coupling, x, 8, 0.1)
    floats = 10 + 1  # an exchange: the weights, and how many are finite
    assert topology.traffic.inside == (2 * 4 * floats if SIZE > 1 else 0)
    _, y, apart = coupled(places(10), 0.0, 4)
    play(apart, y, 8, 0.1)
    torch.testing.assert_close(y, places(10)[RANK] * 0.9**8)


@needs_two
@each_server
@pytest.mark.parametrize(("length", "period"), [(1, 1), (7, 4), (20_011, 2)])
def test_a_server_conserves_the_sum_of_everybody_whatever_the_order_and_hears_all_reports(servers, length, period):
    """I1, with workers that make different numbers of steps, and end at different times; 2 N floats an exchange."""
    topology, start = world_of(), places(length)
    mine, part, reports = start[RANK].clone(), None, []
    if servers > RANK:
        part = serve(start[SIZE], servers, range(servers, SIZE), lambda r, line: reports.append((r, line)))
    else:
        centre = ServedCenter(topology.world, length, servers)
        play(Elastic(mine, centre, 0.9 / SIZE, period), mine, 10 + 3 * RANK, 0.0)
        for k in range(3):
            centre.report({"rank": RANK, "k": k})
        centre.close()
    ends = everyones((mine, part))
    total = sum(x for x, _ in ends[servers:]) + torch.cat([c for _, c in ends[:servers]])
    torch.testing.assert_close(total, start[servers:].sum(0), atol=1e-4, rtol=1e-4)
    exchanges = sum(math.ceil((10 + 3 * r) / period) for r in range(servers, SIZE))
    assert sum(everyones(topology.traffic.inside)) == 4 * 2 * length * exchanges
    if RANK == 0:
        assert sorted((r, line["k"]) for r, line in reports) == [(r, k) for r in range(servers, SIZE) for k in range(3)]
    elif servers <= RANK:
        assert not reports


@needs_two
@each_server
def test_with_one_worker_the_server_gives_the_bits_of_a_centre_in_its_own_process(servers):
    topology, start = world_of(), places(503)
    x, averaged = start[SIZE].clone(), torch.empty(503)
    if servers > RANK:
        serve(x, servers, [servers], averaging=0.01)
    if servers != RANK:
        return
    centre = ServedCenter(topology.world, 503, servers)
    play(Downpour(x, centre, 3), x, 11, 0.1)
    centre.pull(averaged, evaluated=True)
    centre.close()
    y, master = start[SIZE].clone(), CenterVariable(start[SIZE].clone(), averaging=0.01)
    play(Downpour(y, master, 3), y, 11, 0.1)
    assert torch.equal(x, y)
    assert torch.equal(averaged, master.evaluated)


@needs_two
def test_a_window_conserves_the_sum_as_a_server_does():
    topology, start = world_of(), places(5000)
    centre = WindowCenter(topology.world, start[SIZE])
    x, reports = start[RANK].clone(), []
    if RANK == 0:
        Server(topology.world, None, list(range(1, SIZE)), lambda r, line: reports.append(r)).serve()
    else:
        play(Elastic(x, centre, 0.9 / SIZE, 2), x, 10 + RANK, 0.0)
        centre.report(RANK)
        centre.close()
    topology.world.barrier()
    ends = everyones(x)
    if RANK == 0:
        np.testing.assert_allclose(sum(ends[1:]) + centre.memory, start[1:].sum(0).numpy(), atol=1e-4)
        assert sorted(reports) == list(range(1, SIZE))
    centre.free()


@pytest.mark.parametrize("kind", ["average", "easgd", "easgd-gs"])
def test_what_a_population_shares_by_name(kind):
    topology, start = world_of(), places(4)
    x = start[RANK].clone()
    coupling = couple(kind, x, topology.gradients, 2)
    coupling.centre.copy_(start[SIZE])
    play(coupling, x, 1, 0.0)
    mean = start[:SIZE].mean(0)
    centre = {"average": mean, "easgd": start[SIZE], "easgd-gs": 0.1 * start[SIZE] + 0.9 * mean}[kind]
    alpha = 1.0 if kind == "average" else 0.9 / SIZE
    torch.testing.assert_close(x, start[RANK] - alpha * (start[RANK] - centre), atol=1e-6, rtol=1e-5)
    coupling.restart(x)
    assert torch.equal(coupling.tensors()["centre"], x)


def test_slices_cover_the_centre():
    for length, servers in ((10, 3), (7, 7), (5, 1), (2, 4)):
        parts = [range(length)[part] for part in slices_of(length, servers)]
        assert [len(part) for part in parts][:-1] == [length // servers] * (servers - 1)
        assert [i for part in parts for i in part] == list(range(length))
