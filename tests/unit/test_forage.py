"""Foraging: round lengths, the narrowing search, the moving centre, the landing; smoothed weights and their fitness."""

import json
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from common.data import SOURCES, DataSet, Pictures
from common.data.augment import Augmenter
from common.ecosphere import Ecosphere
from common.election import Standings
from common.exchange import Exchange, contributions
from common.flat import FlatModel
from common.forage import ForageRates, ForageSettings, Smoother, round_lengths, spread_at, weights_of
from common.loop import evaluate
from common.populations import PopulationSpec

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
    settings = ForageSettings()
    assert [round(spread_at(t, 10, settings), 12) for t in (0, 1, 4, 5, 9)] == [1.2, 0.96, 0.24, 0.1, 0.1]


@given(st.lists(st.floats(0.1, 5), min_size=1, max_size=6), st.floats(0.01, 1))
def test_weights_are_a_softmax_of_fitness(losses, temperature):
    w = weights_of(-np.array(losses), temperature)
    best = min(losses)
    slow = np.array([math.exp((best - loss) / temperature) for loss in losses])
    np.testing.assert_allclose(w, slow / slow.sum(), rtol=1e-12)


def test_lost_populations_weigh_nothing():
    assert weights_of(np.array([-np.inf, -2.0]), 0.02).tolist() == [0.0, 1.0]


@pytest.mark.parametrize("proposals", ["species", "spread"])
def test_a_population_has_one_rate_and_the_rates_span_the_search(proposals):
    rates = ForageRates(SPECS, 0.1, LENGTHS, 0, ForageSettings(proposals=proposals))
    for t in range(10):
        x = np.array([rates.next(t, standings([0.2, 0.05], [1.0, 1.0]), k) for k in range(1)])
        assert np.ptp(x) == 0
    other = ForageRates(SPECS, 0.1, LENGTHS, 0, ForageSettings(proposals=proposals))
    start = other.start
    assert sorted({round(math.log(v / 0.1), 9) for v in start}) == [-1.2, 1.2]


def test_every_rank_computes_the_same_whatever_its_population():
    one, two = (ForageRates(SPECS, 0.1, LENGTHS, 3) for _ in range(2))
    shown = standings(one.start[[0, 4]], [1.0, 1.1])
    for t in range(30):
        first, second = one.next(t, shown, 0), two.next(t, shown, 1)
        assert (one.centre, one.zeta.tolist()) == (two.centre, two.zeta.tolist())
        shown = standings([first[0], second[0]], [1.0, 1.1])


def test_the_centre_moves_to_where_the_loss_was_lower():
    rates = ForageRates(SPECS, 0.1, LENGTHS, 0)
    rates.next(0, standings([0.3, 0.03], [1.0, 2.0]), 0)
    assert math.exp(rates.centre) == pytest.approx(0.3, rel=1e-6)
    rates.next(1, standings([0.3, 0.03], [1.0, 1.0]), 0)  # equally good: the middle
    assert math.exp(rates.centre) == pytest.approx(math.sqrt(0.3 * 0.03), rel=1e-9)


def test_a_start_two_decades_off_is_found_where_the_landscape_is_clear():
    for eta0 in (1e-3, 1e1):
        rates = ForageRates(SPECS, eta0, LENGTHS, 1)
        x = rates.start[[0, 4]]
        for t in range(20):
            losses = 1 + np.log10(x / 0.1) ** 2
            shown = standings(x, losses)
            x = np.array([ForageRates.next(rates, t, shown, 0)[0], rates._rates(t + 1)[1]])
        assert abs(math.log10(math.exp(rates.centre) / 0.1)) < 0.5


def test_in_the_last_quarter_all_rates_agree_and_fall_linearly_to_zero():
    rates = ForageRates(SPECS, 0.1, LENGTHS, 0)
    done = np.cumsum([0, *LENGTHS]) / sum(LENGTHS)
    first = next(t for t in range(len(LENGTHS)) if done[t] >= 0.75)
    shown = standings([0.3, 0.03], [1.0, 1.0])
    for t in range(first):
        a = rates.next(t, shown, 0)[0]
    centre = math.exp(rates.centre)
    b = rates.next(first - 1, shown, 1)[0]
    assert a == b == pytest.approx(centre)
    assert rates.at(0.5, first - 0.01) == 0.5
    assert rates.at(a, first) == pytest.approx(a)
    halfway = np.interp((done[first] + 1) / 2, done, np.arange(len(done)))
    assert rates.at(a, halfway) == pytest.approx(a / 2)
    assert rates.at(a, len(LENGTHS)) == pytest.approx(0, abs=1e-12)


def test_where_all_are_lost_the_centre_falls_a_decade_below_the_lowest_rate():
    rates = ForageRates(SPECS, 10.0, LENGTHS, 0)
    lowest = rates.start.min()
    moved = rates.retreat(0, 0, lost=True)
    assert math.exp(rates.centre) == pytest.approx(lowest / 10)
    assert moved.max() < lowest
    assert moved.shape == (4,)


def test_a_round_in_which_even_lower_rates_made_the_loss_grow_is_taken_back():
    rates = ForageRates(SPECS, 1.0, LENGTHS, 0)
    assert not rates.spoiled(0, standings([3.0, 0.3], [9.0, 9.0])), "nothing is known of the start"
    rates.before = -2.3
    assert rates.spoiled(0, standings([3.0, 0.3], [9.0, 2.33]))
    assert not rates.spoiled(0, standings([3.0, 0.3], [9.0, 2.31])), "within the noise"
    assert not rates.spoiled(0, standings([3.0, 0.3], [2.33, 9.0])), "the higher rate does better: too low"
    assert not rates.spoiled(len(LENGTHS) - 1, standings([3.0, 0.3], [9.0, 9.0])), "not while the rates fall to 0"
    specified = ForageRates(SPECS, 1.0, LENGTHS, 0, ForageSettings(rule="specified"))
    specified.before = -2.3
    assert not specified.spoiled(0, standings([3.0, 0.3], [9.0, 9.0]))
    lowest = rates.start.min()
    rates.retreat(0, 1, lost=False)
    assert math.exp(rates.centre) == pytest.approx(lowest)


def test_the_improved_rule_follows_small_differences_that_are_large_against_the_progress():
    ends = []
    for rule in ("specified", "improved"):
        rates = ForageRates(SPECS, 1e-3, LENGTHS, 0, ForageSettings(rule=rule))
        rates.before = -2.20
        x = rates.start[[0, 4]]
        rates.next(0, standings(x, 2.20 - 0.01 * (1 + (x > 1e-3))), 0)  # 2.19, and 2.18 at the higher rate
        ends.append(math.log(math.exp(rates.centre) / 1e-3) / 1.2)
    assert ends[0] < 0.15
    assert ends[1] > 0.6


def test_an_ecosphere_that_forages_goes_on_with_its_last_finite_weights(alone):
    rates = ForageRates([PopulationSpec("gwo", 1, "sgd")], 10.0, LENGTHS, 0)
    ecosphere = Ecosphere(alone, rates, Exchange("kin"))
    model = ecosphere.adopt(small_network())
    kept = model.state.detach().clone()
    model.state.detach().fill_(float("nan"))
    turn = ecosphere.turn(0, 0.5)
    assert not turn.finite
    assert torch.equal(model.state, kept)
    assert ecosphere.rate == pytest.approx(1.0)


def test_a_saved_search_goes_on_bit_for_bit():
    one, two = (ForageRates(SPECS, 0.1, LENGTHS, 5) for _ in range(2))
    for t in range(6):
        shown = standings([0.2 / (t + 1), 0.1], [1.0, 1.0 + 0.1 * t])
        if t == 3:
            two.load_state(json.loads(json.dumps(one.state())))
        moved = one.next(t, shown, 1)
        if t >= 3:
            np.testing.assert_array_equal(two.next(t, shown, 1), moved)


def test_kin_are_the_populations_within_five_percent_of_the_leader():
    table = Standings(np.array([-1.0, -1.04, -1.06, -np.inf]), np.full(4, 0.1), [1, 1, 1, 1])
    assert contributions("kin", table).tolist() == [1, 1, 0, 0]
    assert contributions("average", table).tolist() == [1, 1, 1, 0]
    accuracies = Standings(np.array([0.80, 0.77, 0.70, 0.70]), np.full(4, 0.1), [2, 1, 1])
    assert contributions("kin", accuracies).tolist() == [2, 0, 0]


def some_data(n=200):
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.integers(0, 256, (n, 8, 8, 1), dtype=np.uint8))
    pictures = Pictures(Augmenter(images, SOURCES["digits"]), torch.from_numpy(rng.integers(0, 10, n)))
    return DataSet(SOURCES["digits"], pictures, pictures, pictures, pictures)


def small_network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 10))


def test_smoothed_weights_are_an_exponential_average_from_the_rounds_start():
    model = FlatModel(small_network())
    smoother = Smoother(model)
    slow = model.parameters.detach().clone()
    smoother.restart()
    for step in range(4):
        with torch.no_grad():
            model.parameters += 0.1 * (step + 1)
        smoother.add()
        slow = 0.8 * slow + 0.2 * model.parameters.detach()
    torch.testing.assert_close(smoother.average, slow, rtol=1e-5, atol=1e-6)


def test_fitness_is_minus_the_loss_of_smoothed_weights_with_fresh_statistics_and_leaves_no_trace(alone):
    model, data = FlatModel(small_network()), some_data()
    smoother = Smoother(model)
    with torch.no_grad():
        model.parameters.mul_(1.5)
    before = model.state.detach().clone()
    judged = smoother.judge(data, "float32", alone.population)
    assert torch.equal(model.state, before)
    plain = small_network()  # the average still is where the smoother began
    plain[1].momentum = 1.0
    plain.train()(data.train.augmenter.plain(torch.arange(128)))
    expected = evaluate(plain, data.fitness, "float32")
    assert judged.loss == pytest.approx(expected.loss, rel=1e-5)
    assert judged.fitness == -judged.loss
    assert judged.accuracy == pytest.approx(expected.accuracy)
    assert plain[1].momentum == 1.0
    assert model.module[1].momentum == 0.1
