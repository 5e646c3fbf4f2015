"""Wolves and whales against EOA-SAM/eoa_simple.py, their forced branches, closed forms and scaling laws."""

import math
from dataclasses import asdict, replace
from functools import partial

import numpy as np
import pytest
from eoa_cases import SLOW, Case, Numbers, numbers_needed
from hypothesis import given, settings
from hypothesis import strategies as st

from common.ecosphere.species.gwo import propose_wolves
from common.ecosphere.species.moves import DAMPINGS, Moment, Rules, View, best_first, damp, rates_at
from common.ecosphere.species.woa import propose_whales

PROPOSE = {"gwo": propose_wolves, "woa": propose_whales}
# Both sides compute the same sums of float64 numbers in another order: a few units in the last place of the largest term.
CLOSE = {"rtol": 1e-12, "atol": 1e-13}
RULE_NAMES = ("damping", "signed", "absolute_leaders", "higher_rank_first", "world_prey", "fold_prey")


def move(species, case):
    """The project's move of one case; also checks that exactly the promised numbers were drawn."""
    numbers = Numbers(case.numbers)
    rules = Rules(**{name: asdict(case)[name] for name in RULE_NAMES})
    world = np.array(case.world_rates if case.world_rates else case.rates)
    moment = Moment(case.t, case.rounds)
    rates = np.array(case.rates)
    moved, memory = PROPOSE[species](View(rates, np.array(case.fitness), case.base, moment, rules, world, {}), numbers)
    assert memory == {}
    assert len(case.numbers) - len(numbers.left) == numbers_needed(species, len(rates))
    np.testing.assert_array_equal(rates, case.rates, err_msg="a move changed its input")
    return rates_at(moved, "linear")


@st.composite
def cases(draw, species, sizes=(1, 2, 3, 4, 9), damping="none"):
    m = draw(st.sampled_from(sizes))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rounds = draw(st.integers(1, 40))
    return Case(
        rates=list(10 ** rng.uniform(-4, 1, m) if draw(st.booleans()) else rng.choice([0.1, 0.2], m)),  # the latter: ties
        fitness=list(rng.choice([-np.inf, 0.3, 0.5, 0.9], m)),
        base=10 ** rng.uniform(-4, 1),
        t=draw(st.integers(0, rounds)),
        rounds=rounds,
        numbers=list(rng.random(numbers_needed(species, m))),
        damping=damping,
        signed=draw(st.booleans()),
        absolute_leaders=draw(st.booleans()),
        higher_rank_first=draw(st.booleans()),
        world_prey=draw(st.booleans()),
        fold_prey=draw(st.booleans()),
        world_rates=list(10 ** rng.uniform(-4, 1, m + 3)),
    )


@pytest.mark.parametrize("species", PROPOSE)
@pytest.mark.parametrize("damping", DAMPINGS)
@pytest.mark.parametrize("m", [1, 2, 3, 4, 9])
@settings(max_examples=15)
@given(data=st.data())
def test_moves_are_those_of_the_slow_formulation(species, damping, m, data):
    case = data.draw(cases(species, [m], damping))
    np.testing.assert_allclose(move(species, case), SLOW[species](case), **CLOSE)


def test_absolute_leaders_change_what_omegas_follow_only_where_a_leader_turns_negative():
    still, back = [0.5, 0.5], [0.0, 0.0]  # u = 1/2: A = 0, the wolf goes to its guide. u = 0, C = 0: A D = 2 x away from it
    numbers = [*still, *back, *back, *(still * 3), *(still * 3)]
    case = Case([1.0, 4.0, 3.0, 2.0], [0.9, 0.8, 0.7, 0.6], 1.0, 0, 10, numbers, "none")
    # alpha' = b = 1; beta' = ((1 - 8) + (1 - 8))/2 = -7; delta' = (1 + 1 + beta')/3; omega' = mean of the three.
    np.testing.assert_allclose(move("gwo", case), [1, 7, 5 / 3, abs((1 - 7 - 5 / 3) / 3)], rtol=1e-15)
    absolute = replace(case, absolute_leaders=True)
    np.testing.assert_allclose(move("gwo", absolute), [1, 7, 3, 11 / 3], rtol=1e-15)


def test_alpha_is_not_made_positive_before_others_follow_it():
    numbers = [0.0, 0.0, *([0.5, 0.5] * 2)]  # A = -2, C = 0: alpha' = 1 - 2 * 4 = -7; then A = 0: beta' = (1 + alpha')/2
    case = Case([4.0, 1.0], [0.9, 0.1], 1.0, 0, 10, numbers, damping="none", absolute_leaders=True)
    np.testing.assert_allclose(move("gwo", case), [7, 3], rtol=1e-15)


def whale(x, b, p, l, u, C, r=0.0, herd=(), t=0, rounds=10, **variant):  # noqa: E741
    """One whale that stands at x, with forced numbers; `herd` are its peers, which do nothing of interest."""
    idle = [0.9, 0.25, 0.0, 0.5, 0.5] * len(herd)
    variant = {"damping": "none", **variant}
    return move("woa", Case([x, *herd], [0.0] * (1 + len(herd)), b, t, rounds, [p, l, r, u, C / 2, *idle], **variant))[0]


def test_a_whale_spirals_exactly_from_p_one_half_on():
    spiral = abs(2.0 + (2.0 - 0.5) * math.exp(0.125) * math.cos(math.pi / 4))
    assert whale(0.5, 2.0, p=0.5, l=0.125, u=0.6, C=1.0) == pytest.approx(spiral, rel=1e-14)
    encircle = abs(2.0 - 2 * (2 * 0.6 - 1) * (1.0 * 2.0 - 0.5))  # a(0) = 2
    assert whale(0.5, 2.0, p=math.nextafter(0.5, 0), l=0.125, u=0.6, C=1.0) == pytest.approx(encircle, rel=1e-14)


def test_a_whale_explores_exactly_from_an_absolute_coefficient_of_one_on():
    # a(0) = 2, so u = 3/4 is A = 1 and u = 1/4 is A = -1; the random whale is the second, at 5.
    assert whale(0.5, 2.0, p=0, l=0, u=0.75, C=1.0, r=0.5, herd=[5.0]) == pytest.approx(abs(5 - (5 - 0.5)), rel=1e-14)
    assert whale(0.5, 2.0, p=0, l=0, u=0.25, C=1.0, r=0.5, herd=[5.0]) == pytest.approx(5 + (5 - 0.5), rel=1e-14)
    below = math.nextafter(0.75, 0)
    assert whale(0.5, 2.0, p=0, l=0, u=below, C=1.0, r=0.5, herd=[5.0]) == pytest.approx(2 - (2 - 0.5), rel=1e-14)


def test_a_random_prey_comes_from_the_first_ranks_of_the_world_only_under_world_prey():
    world = [7.0, 9.0, 0.5, 5.0]  # the whales are the last two; A = 1 and C = 0 make the move 2 x_r + ... = x_r + x
    step = {"p": 0, "l": 0, "u": 0.75, "C": 0.0, "r": 0.5, "herd": [5.0], "world_rates": world}
    assert whale(0.5, 2.0, **step) == pytest.approx(5.5, rel=1e-14)
    assert whale(0.5, 2.0, **step, world_prey=True) == pytest.approx(9.5, rel=1e-14)


@pytest.mark.parametrize(("x_r", "folded"), [(2.0, 2.0), (2.5, 1.25), (3.0, 1.0), (7.9, 7.9 / 7), (0.3, 0.3)])
def test_a_folded_prey_is_divided_by_how_often_the_base_rate_fits_into_it(x_r, folded):
    # b = 1: only above twice the base rate. A = 1 and C = 0: the move is x_r + x.
    assert whale(0.5, 1.0, p=0, l=0, u=0.75, C=0.0, r=0.5, herd=[x_r], fold_prey=True) == pytest.approx(folded + 0.5, rel=1e-14)


def test_the_distance_to_a_folded_prey_is_taken_before_it_is_folded():
    """The ImageNet script at b = 1/4, x_r = 0.9 (folded: 0.3), x = 0.31, A = 1.6, C = 1.9: s = 2.24, d = 0.01 b (s + 4)/8."""
    step = {"p": 0, "l": 0, "u": 0.9, "C": 1.9, "r": 0.5, "herd": [0.9]}
    moved = whale(0.31, 0.25, **step, damping="scaled", signed=False, fold_prey=True)
    assert moved == pytest.approx(0.9 / 3 - 0.01 * 0.25 * (1.6 * (1.9 * 0.9 - 0.31) + 4) / 8, rel=1e-14)
    assert moved == pytest.approx(0.29805, abs=1e-12)  # 0.29862 the other way round


@pytest.mark.parametrize("damping", ["none", "proportional", "relative"])
@given(data=st.data())
def test_without_exploration_range_every_wolf_and_encircling_whale_moves_exactly_to_the_base_rate(damping, data):
    wolves, whales = (data.draw(cases(species, damping=damping)) for species in ("gwo", "woa"))
    wolves.t, whales.t = wolves.rounds, whales.rounds  # a(T) = 0, so A = 0 whatever was drawn
    # The mean of up to three equal numbers may round in its last place.
    np.testing.assert_allclose(move("gwo", wolves), wolves.base, rtol=4e-16)
    whales.numbers[::5] = [p / 2 for p in whales.numbers[::5]]  # p < 1/2: no whale spirals, and |A| = 0 < 1: none explores
    np.testing.assert_array_equal(move("woa", whales), np.full(len(whales.rates), whales.base))


@pytest.mark.parametrize("species", PROPOSE)
@pytest.mark.parametrize("damping", ["none", "proportional"])
@given(data=st.data(), s=st.floats(0.01, 100))
def test_scale_free_dampings_scale_the_moves_with_the_rates(species, damping, data, s):
    case = replace(data.draw(cases(species, damping=damping)), fold_prey=False)  # folding has a floor, which a rounding may tip
    scaled = replace(case, rates=[s * x for x in case.rates], base=s * case.base, world_rates=[s * x for x in case.world_rates])
    largest = max(*case.rates, *case.world_rates, case.base)
    np.testing.assert_allclose(move(species, scaled), s * move(species, case), rtol=1e-12, atol=1e-13 * s * largest)


@pytest.mark.parametrize("species", PROPOSE)
@given(data=st.data(), s=st.floats(0.1, 10))
def test_relative_damping_scales_the_distance_to_the_base_rate_quadratically(species, data, s):
    case = data.draw(cases(species, [1], "relative"))  # alone a wolf is alpha, whose only guide is b
    case.rates, case.base = [0.3 * case.base / 10], case.base / 10  # b <= 1: the new rate is positive
    if species == "woa":
        case.numbers[3] = 0.25 + case.numbers[3] / 2  # |A| < 1: no random prey
    scaled = replace(case, rates=[s * x for x in case.rates], base=s * case.base)
    if scaled.base > 1:
        return
    d, d_scaled = move(species, case) - case.base, move(species, scaled) - scaled.base
    rounding = 1e-14 * max(1, s) * scaled.base  # differences of near numbers
    np.testing.assert_allclose(d_scaled, s**2 * d, rtol=1e-9, atol=rounding)


@given(st.floats(-8, 8), st.floats(0.001, 10), st.floats(0.01, 100), st.integers(0, 9))
def test_dampings_follow_their_scaling_laws(step, base, s, t):
    moment = Moment(t, 10)
    for d in (damp, partial(damp, spiral=True)):
        assert d(s * step, s * base, moment, "none") == s * step
        assert d(s * step, s * base, moment, "proportional") == pytest.approx(s * d(step, base, moment, "proportional"))
        assert d(s * step, s * base, moment, "relative") == pytest.approx(s**2 * d(step, base, moment, "relative"))
        for absolute in ("annealed", "fixed"):
            assert d(step, s * base, moment, absolute) == d(step, base, moment, absolute)  # whatever eta0


def test_the_bounded_dampings_map_the_interval_of_the_canonical_step_to_zero_and_their_strength():
    moment = Moment(4, 10)  # lambda = (1 + cos(pi/2)) / 2 = 1/2
    for damping, strength in (("annealed", 0.5), ("fixed", 0.01), ("scaled", 0.01 * 0.3)):
        assert damp(-4, 0.3, moment, damping) == 0
        assert damp(4, 0.3, moment, damping) == pytest.approx(strength, rel=1e-14)


def test_an_unknown_damping_is_refused_by_name():
    with pytest.raises(ValueError, match=r"strong.*proportional"):
        damp(1.0, 1.0, Moment(0, 1), "strong")


@given(st.lists(st.tuples(st.sampled_from([-np.inf, 0.0, 0.5]), st.sampled_from([0.1, 0.2])), min_size=1, max_size=8))
def test_best_first_sorts_by_fitness_then_rate_then_rank(pairs):
    fitness, rates = (np.array(v) for v in zip(*pairs, strict=True))
    for higher in (False, True):
        order = best_first(fitness, rates, higher)
        assert sorted(order) == list(range(len(pairs)))
        keys = [(*pairs[i], int(i) if higher else -int(i)) for i in order]
        assert keys == sorted(keys, reverse=True)
