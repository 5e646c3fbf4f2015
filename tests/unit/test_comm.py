"""The verbs in a group of one: every one a no-op, and the mean over finite ranks of a single rank."""

import numpy as np
import pytest
import torch

from common.parallel.comm import Group, Traffic, finite_mean_
from common.parallel.mpi import MPI


@pytest.fixture
def one():
    return Group(MPI.COMM_SELF, Traffic())


def test_the_mean_over_one_finite_rank_is_its_own_values_bit_for_bit(one):
    values = torch.randn(9, generator=torch.Generator().manual_seed(0))
    buffer = torch.cat([values, torch.tensor([7.0])])
    assert finite_mean_(one, buffer, "test") == 1
    assert torch.equal(buffer[:-1], values)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_one_rank_with_a_number_that_is_not_finite_gives_zeros_and_nobody(one, bad):
    buffer = torch.tensor([1.0, bad, 3.0, 7.0])
    assert finite_mean_(one, buffer, "test") == 0
    assert torch.equal(buffer, torch.zeros(4))


def test_the_flag_left_by_an_earlier_round_is_no_value(one):
    buffer = torch.tensor([1.0, 2.0, float("nan")])
    assert finite_mean_(one, buffer, "test") == 1
    assert buffer.tolist() == [1.0, 2.0, 1.0]


def test_verbs_in_a_group_of_one_change_nothing_and_send_nothing(one):
    buffer, array = torch.arange(4.0), np.arange(4, dtype=np.float32)
    one.sum_(buffer, "test")
    one.broadcast_(buffer, 0)
    one.gather_slices_(array, [(0, 4)])
    assert buffer.tolist() == array.tolist() == [0, 1, 2, 3]
    assert one.gather_rows(np.array([1.5, -np.inf])).tolist() == [[1.5, -np.inf]]
    assert (one.bcast_object("x"), one.gather_records({"a": 1})) == ("x", [{"a": 1}])
    assert (one.traffic.inside, one.traffic.across) == (0, 0)
