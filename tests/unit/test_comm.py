"""The verbs in a group of one: every one a no-op, and the mean over finite ranks of a single rank."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from common.parallel.comm import finite_mean_


def test_the_mean_over_one_finite_rank_is_its_own_values_bit_for_bit_whatever_the_flag_says(one):
    values = torch.randn(9, generator=torch.Generator().manual_seed(0))
    for left_by_an_earlier_round in (7.0, float("nan")):
        buffer = torch.cat([values, torch.tensor([left_by_an_earlier_round])])
        assert finite_mean_(one, buffer, "test") == 1
        assert torch.equal(buffer, torch.cat([values, torch.ones(1)]))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_one_rank_with_a_number_that_is_not_finite_gives_zeros_and_nobody(one, bad):
    buffer = torch.tensor([1.0, bad, 3.0, 7.0])
    assert finite_mean_(one, buffer, "test") == 0
    assert torch.equal(buffer, torch.zeros(4))


@given(st.floats(-9, 9, width=32), st.integers(0, 5))
def test_a_weighted_mean_of_one_rank_is_its_values_whatever_the_weight(one, value, weight):
    buffer = torch.tensor([value, 7.0])
    assert finite_mean_(one, buffer, "test", weight) == weight
    assert buffer[0].item() == pytest.approx(value if weight else 0.0, rel=1e-6)


def test_verbs_in_a_group_of_one_change_nothing_and_send_nothing(one):
    buffer, array = torch.arange(4.0), np.arange(4, dtype=np.float32)
    one.sum_(buffer, "test")
    one.broadcast_(buffer, 0)
    one.gather_slices_(array, [(0, 4)])
    assert buffer.tolist() == array.tolist() == [0, 1, 2, 3]
    assert one.gather_rows(np.array([1.5, -np.inf])).tolist() == [[1.5, -np.inf]]
    assert (one.bcast_object("x"), one.gather_records({"a": 1})) == ("x", [{"a": 1}])
    assert (one.traffic.inside, one.traffic.across) == (0, 0)
