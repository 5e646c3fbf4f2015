"""Batch-norm statistics measured by a group: equal to those of a single rank, and unaffected by a rank that is not finite."""

import pytest
import torch
from test_training_together import digits
from torch import nn
from worlds import LAYOUTS, RANK, SIZE, build, each_layout, everyones, needs_two, numbers

from common.evaluate import COMPARED, REPORTED, Evaluator
from common.models.batch_norm import running_statistics
from common.parallel.comm import finite_mean_


def network() -> nn.Module:
    """Two layers with batch norm; the same initial weights on every rank."""
    torch.manual_seed(1)
    layers = [nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 3, 3), nn.BatchNorm2d(3)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(3 * 16, 10))


def measured(module, group, images, t=2):
    Evaluator(digits().train, "float32", seed=3).measure_statistics(module, group, images, t)
    return torch.cat([s.flatten() for s in running_statistics(module)])


@pytest.mark.parametrize("images", [COMPARED, REPORTED, 40])
@each_layout
def test_any_number_of_ranks_measures_what_one_measures(sizes, images):
    topology = build(sizes)
    alone = measured(network(), None, images)
    for group in (topology.world, topology.population):
        together = measured(network(), group, images)
        torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)
        bits = everyones(together)
        assert all((bits[r] == bits[RANK]).all() for r in range(SIZE)) or group is topology.population


@needs_two
@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_a_rank_that_is_lost_leaves_the_statistics_of_the_others_finite(poison):
    topology = build(LAYOUTS[0])
    healthy, module = measured(network(), topology.world, COMPARED), network()
    if topology.world.rank == SIZE - 1:
        with torch.no_grad():
            module[0].weight.fill_(poison)
    found = measured(module, topology.world, COMPARED)
    assert torch.isfinite(found).all()
    torch.testing.assert_close(found, healthy, rtol=0.5, atol=0.5)  # of fewer images
    with torch.no_grad():
        module[0].weight.fill_(poison)
    assert measured(module, topology.world, COMPARED).isnan().all(), "where all are lost, nothing is made up"


@each_layout
def test_a_weighted_mean_is_numpys_over_the_finite_ranks(sizes):
    topology = build(sizes)
    group = topology.population
    weight = (RANK * 2) % 5
    buffer = torch.cat([numbers(9, 4, RANK), torch.tensor([-1.0])])
    if RANK == 0:
        buffer[3] = float("nan")
    rows = group.comm.allgather((RANK, weight))
    counted = [(numbers(9, 4, r).double(), w) for r, w in rows if r != 0]
    total = sum(w for _, w in counted)
    assert finite_mean_(group, buffer, "weighted", weight) == total
    wanted = sum(v * w for v, w in counted) / total if total else torch.zeros(9)
    torch.testing.assert_close(buffer[:-1].double(), torch.as_tensor(wanted, dtype=torch.float64), rtol=1e-5, atol=1e-6)
