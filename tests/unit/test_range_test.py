"""The learning-rate range test: rates found on a curve, and detection of divergence."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.training.lr_finder import HIGHEST, LOWEST, Found, Watch, advice_of, option_of_rate, read_off


def curve(n=600, fall=-1.5, rise=1.0, decades=(-5, 3)):
    """Rates, and losses that fall by a logistic curve in log10 of the rate, centred at `fall`, and blow up from `rise` on."""
    rates = np.logspace(*decades, n)
    x = np.log10(rates)
    return rates, 2.3 - 2 / (1 + np.exp(-6 * (x - fall))) + np.exp(np.minimum(8 * (x - rise), 3))


@given(fall=st.floats(-3, -0.5), n=st.integers(200, 800))
def test_the_steepest_place_of_a_logistic_fall_is_its_middle(fall, n):
    rates, losses = curve(n, fall)
    found = read_off(rates, losses)
    assert np.log10(found.steepest) == pytest.approx(fall, abs=2 * 8 / n + 0.01)
    assert found.steepest < found.lowest


@given(factor=st.floats(0.1, 10), shift=st.floats(-3, 3), unit=st.sampled_from([1e-3, 1.0, 50.0]))
def test_losses_may_have_any_scale_and_rates_any_unit(factor, shift, unit):
    rates, losses = curve()
    plain, other = read_off(rates, losses), read_off(unit * rates, factor * losses + shift)
    assert other.steepest == pytest.approx(unit * plain.steepest)
    assert other.lowest == pytest.approx(unit * plain.lowest)


def test_the_blow_up_is_not_taken_for_a_fall():
    """Losses that jump up and come back: the steepest fall of all is behind the lowest place, and does not count."""
    rates, losses = curve()
    losses[-40:-20], losses[-20:] = 50.0, 5.0
    assert read_off(rates, losses).steepest == pytest.approx(10**-1.5, rel=0.1)


@pytest.mark.parametrize("losses", [np.linspace(1, 2, 50), np.ones(50), np.array([1.0, 0.5])])
def test_a_curve_that_does_not_fall_says_nothing(losses):
    assert read_off(np.logspace(-4, 0, len(losses)), losses) is None


def test_losses_have_run_away_where_their_average_is_four_times_its_lowest():
    watch = Watch()
    assert not any(watch.has_run_away(loss) for loss in [2.0, 1.0, 0.5] * 5)
    assert not watch.has_run_away(4.0), "one odd batch moves the average by a tenth of itself"
    assert any(watch.has_run_away(loss) for loss in [20.0, 20.0, 20.0])
    assert all(Watch().has_run_away(bad) for bad in (np.nan, np.inf))


def test_rates_that_are_tried_reach_from_far_below_to_far_above_and_are_quoted_by_their_own_option():
    assert LOWEST < 1 < HIGHEST
    assert option_of_rate("asam") == option_of_rate("schedulefree-sgd") == "--learning-rate"
    assert option_of_rate("sam+adamw") == "--adam-rate"


def test_the_advice_says_what_to_try():
    found = Found(0.0123, 0.5, np.zeros(3))
    assert "try --adam-rate 0.012" in advice_of(found, 200, 200, "--adam-rate")
    assert "give a lower --learning-rate" in advice_of(None, 3, 200, "--learning-rate")
    assert "did not fall at any of 3 rates" in advice_of(None, 3, 3, "--learning-rate"), "few steps were asked for"
    assert "did not fall at any of 150 rates" in advice_of(None, 150, 200, "--learning-rate")
