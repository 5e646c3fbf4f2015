"""The mathematics of the line search on numbers: closed forms on quadratics, averages, cadence, and what ends a search."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from common.optim.armijo import LONG_AGO, PAPER, PLAIN, RELEASED, Rules, State, average, backtrack, decide, is_due, period, skip

shares = st.floats(0.05, 0.95)
curvatures = st.floats(1e-2, 1e2)
factors = st.floats(0.5, 0.95)
pasts = st.sampled_from([0.0, 0.5, 0.9, 0.99])


def parabola(L, q=1.0, f=10.0):
    """The loss along -g on f + L |w|^2 / 2, g = L w with |g|^2 = q: f - eta q + eta^2 L q / 2."""
    return lambda eta: f - eta * q + eta**2 * L * q / 2


@given(shares, curvatures, factors, pasts, st.floats(1e-3, 1e3), st.floats(1e-3, 1e3))
def test_a_first_search_on_a_quadratic_ends_below_its_bound_after_the_rejections_that_takes(c, L, shrink, beta3, above, q):
    """Any beta3: both averages begin at zero, and the factor 1 - beta3 is on both sides."""
    bound = 2 * (1 - c) / L
    rules = Rules(c=c, beta3=beta3, shrink=shrink, max_backtracks=1000)
    start, loss = bound * above, parabola(L, q)
    wanted = max(0, math.ceil(math.log(bound / start) / math.log(shrink) - 1e-6)) if above > 1 else 0
    assume(all(loss(start * shrink**k) != 10.0 for k in range(wanted + 1)))  # an equal loss is accepted untested
    accepted, h, step = backtrack(start, 0.0, (1 - beta3) * q, 10.0, loss, rules)
    assert accepted
    assert step.trials - 1 in (wanted, wanted + 1)  # the bound itself may be missed by rounding
    assert step.eta <= bound * (1 + 1e-6)
    assert step.eta > shrink * bound * (1 - 1e-6) if above > 1 else step.eta == start
    assert h >= 0


@given(shares, curvatures, factors, pasts, st.floats(1e-3, 1e3))
def test_the_first_search_ends_below_the_bound_wherever_it_begins_and_later_ones_do_not_climb(c, L, shrink, beta3, share):
    bound = 2 * (1 - c) / L
    rules = Rules(eta0=share * bound, c=c, beta3=beta3, shrink=shrink, limit=math.inf, growth=1.0, max_backtracks=1000)
    loss, tried = parabola(L), []
    state, step = decide(State(rules.eta0), 10.0, 1.0, lambda eta: tried.append(eta) or loss(eta), rules)
    assert shrink * bound * (1 - 1e-5) < step.eta <= bound * (1 + 1e-5)
    assert state.eta == step.eta
    assert state.trials == step.trials == len(tried)
    assert step.at_trial == (step.eta == tried[-1])
    assert state.h == average(0.0, 10.0 - loss(step.eta), beta3), "that of the accepted trial, not of the failed one after it"
    assert step.decrease == 10.0 - loss(step.eta)
    tried.clear()
    low = replace(state, eta=1e-3 * bound, h=0.0, s=0.0)
    _, step = decide(low, 10.0, 1.0, lambda eta: tried.append(eta) or loss(eta), rules)
    assert tried == [step.eta] == [low.eta]


def test_a_climb_ends_at_the_limit_and_at_the_most_trials():
    rules = replace(PAPER, eta0=1e-3, limit=0.5)
    state, step = decide(State(1e-3), 10.0, 1.0, lambda eta: 10.0 - eta, rules)
    assert state.eta == step.eta == 0.5
    state, _ = decide(state, 10.0, 1.0, lambda eta: 0.0, rules)
    assert state.eta == 0.5, "nor does growth go further"
    state, step = decide(State(1e-3), 10.0, 1.0, lambda eta: 10.0 - eta, replace(rules, max_backtracks=4))
    assert (step.eta, step.trials) == (pytest.approx(1.1e-3 / 0.8**3), 4)
    state, step = decide(State(1e-3), 10.0, 1.0, lambda eta: 10.0 - eta, replace(RELEASED, eta0=1e-3))
    assert (step.eta, step.trials) == (pytest.approx(1.1e-3), 1), "the released class does not climb"


@given(shares, curvatures, factors, st.floats(0.0, 0.99))
def test_plain_searches_stay_in_a_band_below_the_bound_with_at_most_one_rejection(c, L, shrink, share):
    growth = shrink**-share
    rules = Rules(eta0=1e-3, c=c, beta3=0.0, growth=growth, shrink=shrink, limit=math.inf, interval=1)
    bound, state = 2 * (1 - c) / L, State(1.5 * (2 * (1 - c) / L))
    for k in range(60):
        before = state.eta
        state, step = decide(state, 10.0, 1.0, parabola(L), rules)
        if k:
            assert step.trials <= 2
        assert state.eta <= bound * (1 + 1e-9)
        assert state.eta > shrink * bound * (1 - 1e-9) or state.eta == pytest.approx(growth * before)


@given(shares, curvatures, factors, st.floats(0.0, 0.99), st.floats(0.01, 5), st.floats(0.0, 5))
def test_a_smoothed_search_ends_below_the_largest_step_of_its_closed_form(c, L, shrink, beta3, rho, kappa):
    """rho = s / |g|^2, kappa = h / |g|^2, A = 1 - beta3 - c rho: the root of an equation of second degree."""
    a = 1 - beta3 - c * rho
    largest = (a + math.sqrt(a**2 + 2 * (1 - beta3) * L * beta3 * kappa)) / ((1 - beta3) * L)
    if largest < 1e-6:
        return
    rules = Rules(c=c, beta3=beta3, shrink=shrink, max_backtracks=1000)
    accepted, _, step = backtrack(7 * largest, kappa, rho, 10.0, parabola(L), rules)
    assert accepted
    # f - f' loses digits where the step is small: 1e-15 of 10, over an eta of 1e-6.
    assert shrink * largest * (1 - 1e-5) < step.eta <= largest * (1 + 1e-5)


@given(pasts, shares, st.integers(0, 999))
def test_averages_never_turn_negative_and_bound_what_the_loss_may_rise(beta3, c, seed):
    """h >= c eta s >= 0 after every accepted search; f(w + eta d) - f(w) <= (beta3 h' - c eta s) / (1 - beta3)."""
    rng = np.random.default_rng(seed)
    rules, state = Rules(c=c, beta3=beta3, interval=1, limit=math.inf), State(1.0)
    for _ in range(80):
        before, L, q = state, rng.lognormal(0, 1), rng.lognormal(0, 1)
        state, step = decide(state, 10.0, q, parabola(L, q), rules)
        if not step.eta:
            assert state.h == before.h
            continue
        assert state.h >= c * state.eta * state.s >= 0
        assert -step.decrease <= (beta3 * before.h - c * step.eta * state.s) / (1 - beta3) + 1e-9
        assert state.s == pytest.approx(average(before.s, q, beta3))


@given(st.floats(1e-9, 1e3), st.floats(1e-3, 1e3), st.floats(-10, 10), st.floats(0.01, 0.99))
def test_with_a_past_decrease_every_search_comes_to_an_end(h, s, slope, beta3):
    """Whatever the batch does near w: the left side tends to beta3 h > 0, the right side to 0."""
    rules = Rules(beta3=beta3, max_backtracks=2000)
    accepted, _, _ = backtrack(1.0, h, s, 10.0, lambda eta: 10.0 + slope * eta, rules)
    assert accepted


def slow_plain_search(eta, f, q, loss, c, shrink):
    """Vaswani et al.'s loop, as one writes it."""
    while not f - loss(eta) >= c * eta * q:
        eta = eta * shrink
    return eta


@given(shares, factors, st.integers(0, 999))
def test_without_averages_it_is_the_plain_search_bit_for_bit(c, shrink, seed):
    rng = np.random.default_rng(seed)
    rules = Rules(c=c, beta3=0.0, shrink=shrink, interval=1, limit=math.inf, max_backtracks=10_000, climbs=False)
    eta, state = 0.7, State(0.7)
    for _ in range(20):
        L, q = rng.lognormal(0, 2), rng.lognormal(0, 1)
        eta = slow_plain_search(rules.growth * eta, 10.0, q, parabola(L, q), c, shrink)
        state, step = decide(state, 10.0, q, parabola(L, q), rules)
        assert step.eta == state.eta == eta


def test_rejections_of_a_stationary_noisy_search_balance_growth():
    """ln growth / ln (1 / shrink): 0.427 for 1.1 and 0.8."""
    rng = np.random.default_rng(3)
    rules, state, n = replace(PAPER, interval=1), State(0.1), 6000
    for _ in range(n):
        L = rng.lognormal(0, 0.5)
        state, _ = decide(state, 10.0, 1.0, parabola(L), rules)
    # Telescoping: the growth of n searches is used up but for the distance between the first and the last step.
    rejections = state.trials / state.searches - 1
    assert rejections == pytest.approx(math.log(1.1) / math.log(1 / 0.8), abs=0.01)


def searched_steps(rules, steps):
    """The steps of a constant eta, which is always accepted, at which there was a search."""
    rules, state, searched = replace(rules, growth=1.0), State(1.0), []
    for k in range(1, steps + 1):
        state, step = decide(state, 10.0, 1.0, lambda eta: 5.0, rules)
        if step.trials:
            searched.append(k)
    return searched


def test_cadence_of_a_constant_step_in_closed_form():
    """r_n = (1 - 0.9^n) / (1 - 0.99^n) after n updates, from 10 on; 1 / (r - 1) passes 2 at n = 110 and 10 at n = 239."""
    rules = replace(PAPER, warmup_searches=10**6, growth=1.0)  # a search every step: updates are steps either way
    state = State(1.0)
    for n in range(1, 240):
        state, _ = decide(state, 10.0, 1.0, lambda eta: 5.0, rules)
        r = (1 - 0.9**n) / (1 - 0.99**n)
        assert state.fast / state.slow == pytest.approx(r, rel=1e-6)
        if n == 1:
            assert r == pytest.approx(10)
            assert period(state, PAPER) == 1
        assert period(state, RELEASED) == pytest.approx(min(10, 1 / (r - 1)), rel=1e-4)
        assert (1 / (r - 1) >= 2) == (n >= 110)
        assert (1 / (r - 1) >= 10) == (n >= 239)
        assert period(state, PAPER) == min(10, max(1, round(1 / (r - 1))))


def test_the_released_gate_searches_as_often_as_was_counted_and_averages_by_step_save_searches_sooner():
    searched = searched_steps(RELEASED, 60_000)
    counts = [sum(k <= n for k in searched) for n in (1000, 5000, 60_000)]
    assert counts == [250, 650, 6150]
    gaps = np.diff(searched)
    assert [searched[int(np.argmax(gaps >= L))] for L in (2, 3, 5, 10)] == [69, 151, 327, 793]
    searched = searched_steps(PAPER, 1000)
    assert np.diff(searched)[-1] == 10
    assert len(searched) < 250


def test_the_period_is_an_integer_between_one_and_the_longest_whatever_the_averages():
    for fast, slow in ((1.0, 1.0), (1.0, 3.0), (3.0, 1.0), (1.0, 1.0 + 1e-12), (1.0, 1.13), (1.0, 1.09), (1.5, 1.0)):
        found = period(State(1.0, fast=fast, slow=slow), PAPER)
        assert found == int(found)
        assert 1 <= found <= 10
    assert period(State(1.0, fast=1.0, slow=1.2), PAPER) == 5
    assert period(State(1.0, fast=1.2, slow=1.0), PAPER) == 5
    assert period(State(1.0), replace(PAPER, interval=7)) == 7


def test_early_steps_and_the_first_one_are_searched():
    assert PAPER.warmup_searches == RELEASED.warmup_searches == 9
    calm = State(1.0, fast=1.0, slow=1.0, since=1)
    assert [is_due(replace(calm, steps=k), PAPER) for k in (1, 9, 10)] == [True, True, False]
    assert is_due(replace(calm, steps=10, since=10), PAPER)
    assert State(1.0).since == LONG_AGO
    assert is_due(State(1.0, steps=1), Rules(warmup_searches=0, interval=1000))


def test_a_step_without_a_search_goes_by_the_accepted_one_and_in_the_released_class_further():
    calm = State(0.5, fast=1.0, slow=1.0, since=0, steps=100)
    state, step = decide(calm, 10.0, 1.0, pytest.fail, PAPER)
    assert (step.eta, step.at_trial, state.eta, state.since) == (0.5, False, 0.5, 1)
    state, step = decide(calm, 10.0, 1.0, pytest.fail, RELEASED)
    assert step.eta == pytest.approx(0.55)
    assert (state.eta, state.fast, state.slow) == (0.5, 1.0, 1.0)


def test_where_no_trial_passes_nothing_is_taken_and_the_next_search_begins_at_the_last():
    rules = replace(PAPER, max_backtracks=5)
    before = State(1.0, h=0.25)
    tried = []
    state, step = decide(before, 10.0, 1.0, lambda eta: tried.append(eta) or 1000.0, rules)
    assert tried == pytest.approx([1.1 * 0.8**i for i in range(5)])
    assert (step.eta, step.at_trial, step.trials) == (0.0, False, 5)
    assert (state.eta, state.h, state.exhausted, state.trials) == (tried[-1], 0.25, 1, 5)
    assert state.s == pytest.approx(1 - PAPER.beta3)
    state, step = decide(before, 10.0, 1.0, lambda eta: 1000.0, replace(RELEASED, max_backtracks=5))
    assert (step.eta, step.at_trial) == (state.eta, True)  # released: the weights stay at the last trial


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_trial_that_is_not_finite_is_rejected(bad):
    state, step = decide(State(1.0), 10.0, 1.0, lambda eta: bad if eta > 0.5 else 10 - 0.9 * eta, PAPER)
    assert step.at_trial
    assert step.eta <= 0.5
    assert math.isfinite(state.h)


def test_a_loss_that_does_not_change_at_all_is_accepted_untested():
    before = State(1.0, h=0.25, s=1.0)
    state, step = decide(before, 10.0, 1.0, lambda eta: 10.0, PAPER)
    assert (step.eta, step.at_trial, step.trials) == (1.1, True, 1)
    assert state.h == before.h


@pytest.mark.parametrize(("f", "q"), [(0.0, 1.0), (1e-9, 1.0), (1.0, 0.0), (1.0, 1e-9)])
def test_on_flat_ground_the_step_stays_what_it_is(f, q):
    state = State(1.0)
    for _ in range(12):
        state, step = decide(state, f, q, pytest.fail, PAPER)
        assert (step.eta, step.at_trial) == (1.0, False)
    assert (state.flat, state.searches, state.eta, state.since) == (12, 0, 1.0, 0)
    for _ in range(12):  # released: it grows without a bound
        state, _ = decide(state if state.steps > 12 else State(1.0, steps=12), f, q, pytest.fail, RELEASED)
    assert state.eta == pytest.approx(1.1**12)


def test_ground_is_flat_where_the_average_of_slopes_is():
    state, step = decide(State(1.0, s=1.0, searches=1), 10.0, 0.0, lambda eta: 10.0 - 100 * eta, PAPER)
    assert (state.flat, state.searches, step.trials) == (0, 2, 1)


def test_a_step_that_is_left_out_changes_counters_only():
    state = State(0.5, h=0.1, s=0.2, fast=0.3, slow=0.4, since=3, steps=7)
    assert skip(state) == replace(state, since=4, steps=8, skipped=1)


@given(st.builds(State, st.floats(1e-9, 10), st.floats(0, 1), st.floats(0, 1), steps=st.integers(0, 2**40)))
def test_numbers_give_the_state_back(state):
    again = State.of([float(v) for v in vars(state).values()])
    assert again == state
    assert [type(v) for v in vars(again).values()] == [type(v) for v in vars(state).values()]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("eta0", 0.0), ("eta0", 11.0), ("limit", -1.0), ("c", 0.0), ("c", 1.0), ("beta3", 1.0), ("growth", 0.9)),
        *(("shrink", 1.0), ("max_backtracks", 2.5), ("interval", 0.5), ("interval", -1)),
    ],
)
def test_rules_that_cannot_work_are_refused_by_name_and_number(name, value):
    with pytest.raises(ValueError, match=f"{name} {value} has to"):
        Rules(**{name: value})


def test_the_published_settings():
    assert (PAPER.c, PAPER.beta3, PAPER.eta0, PAPER.growth, PAPER.shrink) == (0.3, 0.99, 0.1, 1.1, 0.8)
    assert PAPER.limit == 10
    assert (RELEASED.c, RELEASED.beta3, RELEASED.eta0, RELEASED.limit) == (0.5, 0.9, 1.0, math.inf)
    assert (PLAIN.c, PLAIN.beta3) == (0.1, 0.0)
