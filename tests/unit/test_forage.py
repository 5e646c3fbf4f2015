"""Foraging: round lengths, the narrowing search, the moving centre, the landing; smoothed weights and their fitness."""

import json
import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small import convolutions, pictures

from common.ecosphere.exchange import Exchange, contributions
from common.ecosphere.forage import DECADE, IMPROVED, SPECIFIED, ForageRates, round_lengths, scout, spread_at, weights_of
from common.ecosphere.membership import Membership
from common.ecosphere.smoothing import SmoothedWeights
from common.ecosphere.species import SPECIES
from common.ecosphere.species.moves import Moment, Rules, View
from common.ecosphere.standings import Standings
from common.evaluate import Evaluator, evaluate
from common.models.flat import FlatModel
from common.parallel.populations import PopulationSpec
from common.seeding import Purpose, stream

SPECS = [PopulationSpec("gwo", 4, "sgd"), PopulationSpec("woa", 4, "sgd")]
LENGTHS = round_lengths(800, 40)


def standings(rates, losses, sizes=(4, 4)):
    return Standings(np.repeat(-np.asarray(losses, float), sizes), np.repeat(np.asarray(rates, float), sizes), list(sizes))


@given(st.integers(1, 5000), st.integers(1, 200))
def test_round_lengths_add_up_and_grow_from_the_shortest(steps, rounds):
    lengths = round_lengths(steps, rounds)
    assert sum(lengths) == steps
    assert min(lengths) >= min(6, steps) - 1
    assert len(lengths) <= rounds
    assert all(b >= a - 1 for a, b in pairwise(lengths))  # rounding may take one step back
    if rounds > 1 and steps > 20 * rounds:
        assert lengths[0] in (6, 7)


def test_the_spread_narrows_linearly_to_its_floor():
    assert [round(spread_at(t, 10, SPECIFIED), 12) for t in (0, 1, 4, 5, 9)] == [1.2, 0.96, 0.24, 0.1, 0.1]
    assert [round(spread_at(t, 10, IMPROVED), 12) for t in (0, 1, 2, 3, 9)] == [1.2, 0.6, 0.0, 0.0, 0.0]


@given(st.floats(0.1, 5), st.lists(st.floats(0.1, 5) | st.just(math.inf), max_size=5), st.floats(0.01, 1))
def test_weights_are_a_softmax_of_fitness_and_lost_populations_weigh_nothing(loss, others, temperature):
    losses = np.array([loss, *others])
    slow = np.exp((losses.min() - losses) / (temperature * losses.min()))
    found = weights_of(-losses, temperature)
    np.testing.assert_allclose(found, slow / slow.sum(), rtol=1e-9, atol=1e-300)
    assert not found[np.isinf(losses)].any()


@pytest.mark.parametrize("proposals", ["species", "spread"])
def test_a_population_has_one_rate_and_the_rates_span_the_search(proposals):
    rates = ForageRates(SPECS, 0.1, LENGTHS, 0, replace(SPECIFIED, proposals=proposals))
    assert logs_around(0.1, rates.start) == [-1.2, 1.2]
    for t in range(10):
        x = rates.next(t, standings([0.2, 0.05], [1.0, 1.0]), 0)
        assert np.ptp(x) == 0
        assert abs(logs_around(math.exp(rates.centre), x)[0]) == pytest.approx(spread_at(t + 1, len(LENGTHS), SPECIFIED))


def logs_around(centre, rates):
    return sorted({round(math.log(x / centre), 9) for x in rates})


def answer(rates, t, shown, population=0):
    """The population's rates after round t."""
    move = rates.rollback_rates if rates.is_trial(t) or not any(shown.alive) else rates.next
    return move(t, shown, population)


def play(rates, losses_at, rounds):
    """The rule's rates of `rounds` rounds against losses that depend on the rates alone, shape (rounds, n)."""
    history = []
    for t in range(rounds):
        x = rates._rates(t)
        history.append(x)
        answer(rates, t, standings(x, losses_at(x), [s.workers for s in rates.specs]))
    return np.array(history)


@pytest.mark.parametrize("settings", [SPECIFIED, IMPROVED])
@given(saved=st.integers(0, 9), seed=st.integers(0, 99))
def test_every_rank_computes_the_same_whatever_its_population_and_when_it_was_saved_bit_for_bit(settings, saved, seed):
    one, two = (ForageRates(SPECS, 0.1, LENGTHS, seed, settings) for _ in range(2))
    for t in range(30):
        if t == saved:
            two.load_state(json.loads(json.dumps(one.state())))
        shown = standings([0.2 / (t + 1), 0.1], [1.0, 1.0 + 0.1 * t])
        answer(one, t, shown, 0)
        if t >= saved:
            answer(two, t, shown, 1)
            assert one.state() == two.state()
            np.testing.assert_array_equal(one._rates(t + 1), two._rates(t + 1))


def test_the_centre_moves_to_where_the_loss_was_lower():
    rates = ForageRates(SPECS, 0.1, LENGTHS, 0, SPECIFIED)
    rates.next(0, standings([0.3, 0.03], [1.0, 2.0]), 0)
    assert math.exp(rates.centre) == pytest.approx(0.3, rel=1e-6)
    rates.next(1, standings([0.3, 0.03], [1.0, 1.0]), 0)  # equally good: the middle
    assert math.exp(rates.centre) == pytest.approx(math.sqrt(0.3 * 0.03), rel=1e-9)


@pytest.mark.parametrize("populations", [2, 3, 4])
@given(start=st.floats(-3, 3), width=st.floats(0.5, 4))
def test_scouts_find_the_decade_of_a_hill_wherever_they_start(populations, start, width):
    """On a loss with one valley, in log rate, the search begins within a decade of it, and no rate was left to the search."""
    specs = [PopulationSpec("gwo", 1, "sgd")] * populations
    rates = ForageRates(specs, 10.0**start, LENGTHS, 0)
    t = 0
    while rates.is_trial(t):
        x = rates._rates(t)
        answer(rates, t, standings(x, 1 + np.abs(np.log(x)) ** width, [1] * populations))
        t += 1
    assert t <= IMPROVED.scouting
    assert abs(rates.centre) <= DECADE
    assert logs_around(math.exp(rates.centre), rates._rates(t))[0] == pytest.approx(-IMPROVED.widest)


def test_what_scouts_say():
    two, four = np.array([1.0, -1.0]), np.linspace(-1, 1, 4)
    assert scout(0.0, two, np.array([-1.0, -2.0]), 0) == (DECADE, 1, False)
    assert scout(DECADE, two, np.array([-1.0, -2.0]), 1) == (2 * DECADE, 1, False)
    assert scout(2 * DECADE, two, np.array([-2.0, -1.0]), 1) == (1.5 * DECADE, -1, True)  # between the two best
    centre, _, found = scout(0.0, four, np.array([-2.0, -1.0, -1.5, -1.6]), 0)
    assert found
    assert centre == pytest.approx(-DECADE / 3)
    assert scout(0.0, two, np.array([-np.inf, -5.0]), 0) == (-DECADE, -1, False)
    assert scout(0.0, two, np.full(2, -np.inf), 0) == (-2 * DECADE, -1, False)


def test_the_search_lasts_a_fifth_of_the_rounds_and_the_centre_rests_after_it():
    rates = ForageRates(SPECS, 0.1, LENGTHS, 0)
    history = play(rates, lambda x: 1 + 0.01 * np.log(x / 0.03) ** 2, len(LENGTHS))
    apart = np.ptp(np.log(history), axis=1) > 1e-9
    began = rates.search_began
    assert 0 < began <= IMPROVED.scouting
    np.testing.assert_array_equal(np.flatnonzero(apart), np.arange(began + len(LENGTHS) // 5))
    assert np.ptp(history[apart.sum() : rates.first_landing]) == pytest.approx(0)


@pytest.mark.parametrize("eta0", [1e-3, 1e-2, 1e-1, 1.0, 1e1])
def test_a_start_two_decades_off_is_found_where_the_landscape_is_clear(eta0):
    for settings, rounds in ((SPECIFIED, 20), (IMPROVED, 16)):
        rates = ForageRates(SPECS, eta0, LENGTHS, 1, settings)
        play(rates, lambda x: 1 + np.log10(x / 0.1) ** 2, rounds)
        assert abs(rates.centre / DECADE + 1) < 0.5


@pytest.mark.parametrize("settings", [SPECIFIED, IMPROVED])
def test_in_the_last_part_all_rates_agree_and_fall_linearly_to_zero(settings):
    rates = ForageRates(SPECS, 0.1, LENGTHS, 0, settings)
    done = np.cumsum([0, *LENGTHS]) / sum(LENGTHS)
    first = next(t for t in range(len(LENGTHS)) if done[t] >= 1 - settings.landing)
    play(rates, lambda x: np.ones(2), first)
    a, b = (rates._rates_of(first, k)[0] for k in (0, 1))
    assert a == b == pytest.approx(math.exp(rates.centre))
    assert rates.at(0.5, first - 0.01) == 0.5
    assert rates.at(a, first) == pytest.approx(a)
    halfway = np.interp((done[first] + 1) / 2, done, np.arange(len(done)))
    assert rates.at(rates._rates_of(int(halfway), 0)[0], halfway) == pytest.approx(a / 2)
    assert rates.at(rates._rates_of(len(LENGTHS) - 1, 0)[0], len(LENGTHS)) == pytest.approx(0, abs=1e-12)
    of_rounds = np.array([rates._rates_of(t, 0)[0] for t in range(first, len(LENGTHS))])
    np.testing.assert_allclose(of_rounds, a * (1 - done[first:-1]) / (1 - done[first]))


@pytest.mark.parametrize(("settings", "scouting"), [(SPECIFIED, False), (IMPROVED, True), (IMPROVED, False)])
def test_where_all_are_lost_at_any_time_the_centre_falls_a_decade_below_the_lowest_rate(settings, scouting):
    rates = ForageRates(SPECS, 10.0, LENGTHS, 0, settings)
    rates.scouting = scouting
    for t in (0, 2, rates.first_landing + 3):
        lowest = rates.centre + rates._sigma(t) * min(rates.zeta)
        moved = rates.rollback_rates(t, standings([1.0, 1.0], [np.inf, np.inf]), 0)
        assert rates.centre == pytest.approx(lowest - DECADE)
        assert moved.shape == (4,)
        assert (moved > 0).all()
        assert moved.max() <= math.exp(lowest) * (1 + 1e-9)


@pytest.mark.parametrize("species", list(SPECIES))
def test_four_populations_take_what_their_own_species_propose(species):
    """Written out: each population's own place among the proposals of its species for all, stretched to [-1, 1]."""
    specs = [PopulationSpec(name, 1, "sgd") for name in (species, "gwo", "woa", "hold")]
    rates = ForageRates(specs, 0.1, LENGTHS, 7, SPECIFIED)
    x, losses = rates.start, np.array([1.0, 1.2, 0.9, 1.1])
    places = (np.log(x) - math.log(0.1)) / 1.2
    rates.next(0, standings(x, losses, [1] * 4), 0)
    wanted = []
    for k, spec in enumerate(specs):
        view = View(places, -losses, places[2], Moment(0, len(LENGTHS)), Rules("none", "log"), places, {})
        wanted.append(SPECIES[spec.species].propose(view, stream(7, Purpose.MOVE, 0, k + 1))[0][k])
    wanted = np.array(wanted)
    np.testing.assert_allclose(rates.zeta, 2 * (wanted - wanted.min()) / np.ptp(wanted) - 1)
    assert (min(rates.zeta), max(rates.zeta)) == (-1, 1)


def test_a_single_population_has_nothing_to_compare_and_keeps_its_rate():
    rates = ForageRates([PopulationSpec("gwo", 4, "sgd")], 0.1, LENGTHS, 0)
    assert not rates.is_trial(0)
    np.testing.assert_allclose(play(rates, lambda x: np.ones(1), 20), 0.1)


@pytest.fixture
def foraging(alone):
    """An ecosphere of one worker that forages from a rate of 10, and its rule."""
    rates = ForageRates([PopulationSpec("gwo", 1, "sgd")], 10.0, LENGTHS, 0)
    return Membership(alone, convolutions(), rates, Exchange("kin")), rates


def test_scouting_rounds_are_taken_back(foraging):
    """Two rounds, the second kept: after the first the weights are what they were, whatever they had become."""
    ecosphere, rates = foraging
    model = ecosphere.model
    before = model.state.detach().clone()
    rates.scouting = True
    model.parameters.data.add_(1.0)
    assert not ecosphere.end_round(0, -1.0).finite
    assert torch.equal(model.state, before)
    assert not rates.scouting, "one population lies between the others: found at once"
    model.parameters.data.add_(1.0)
    assert ecosphere.end_round(1, -1.0).finite
    assert not torch.equal(model.state, before)


def test_an_ecosphere_that_forages_goes_on_with_its_last_finite_weights(foraging):
    ecosphere, _ = foraging
    kept = ecosphere.model.state.detach().clone()
    ecosphere.model.state.detach().fill_(torch.nan)
    assert not ecosphere.end_round(0, 0.5).finite
    assert torch.equal(ecosphere.model.state, kept)
    assert ecosphere.rate == pytest.approx(1.0)


def test_kin_are_the_populations_within_five_percent_of_the_leader():
    table = Standings(np.array([-1.0, -1.04, -1.06, -np.inf]), np.full(4, 0.1), [1, 1, 1, 1])
    assert contributions("kin", table).tolist() == [1, 1, 0, 0]
    assert contributions("average", table).tolist() == [1, 1, 1, 0]
    accuracies = Standings(np.array([0.80, 0.77, 0.70, 0.70]), np.full(4, 0.1), [2, 1, 1])
    assert contributions("kin", accuracies).tolist() == [2, 0, 0]


@pytest.fixture
def smoothed(alone):
    """A network, an evaluator of its weights on some images, those images, and the smoother."""
    model, data = FlatModel(convolutions()), pictures(200)
    evaluator = Evaluator(data, "float32", seed=0)
    return model, evaluator, data, SmoothedWeights(model, evaluator, data, alone.population)


def test_smoothed_weights_are_an_exponential_average_from_the_rounds_start(smoothed):
    model, _, _, smoother = smoothed
    slow = model.parameters.detach().clone()
    smoother.begin_round()
    for step in range(4):
        model.parameters.data += 0.1 * (step + 1)
        smoother.after_step()
        slow = 0.8 * slow + 0.2 * model.parameters.detach()
    torch.testing.assert_close(smoother.average, slow, rtol=1e-5, atol=1e-6)


def test_fitness_is_minus_the_loss_of_smoothed_weights_with_measured_statistics_and_leaves_no_trace(smoothed):
    model, evaluator, data, smoother = smoothed
    model.parameters.data.mul_(1.5)
    before = model.state.detach().clone()
    result = smoother.evaluate(t=4)
    assert torch.equal(model.state, before)
    plain = convolutions()  # the average still is where the smoother began
    evaluator.measure_statistics(plain, None, t=4)
    expected = evaluate(plain, data, "float32")
    assert result.loss == pytest.approx(expected.loss, rel=1e-5)
    assert result.fitness == -result.loss
    assert result.accuracy == pytest.approx(expected.accuracy)
