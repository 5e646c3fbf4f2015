"""SaLSA as an optimizer: against a slow version of both variants, closed forms, what a trial must leave alone, its state."""

import copy
import math
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from common.optim.armijo import PAPER, PLAIN, RELEASED, TINY, Rules
from common.optim.salsa import Salsa

EVERY = replace(PAPER, interval=1)
SELDOM = replace(PAPER, warmup_searches=2, interval=3)  # two of three steps without a search


def quadratic(w, curvature):
    """sum L_j w_j^2 / 2 as a closure that counts its calls."""
    calls = {True: 0, False: 0}

    def closure(backwards):
        calls[backwards] += 1
        loss = (curvature * w.square()).sum() / 2
        if backwards:
            loss.backward()
        return loss

    return closure, calls


def weights(seed, n=7):
    generator = torch.Generator().manual_seed(seed)
    return nn.Parameter(torch.randn(n, dtype=torch.float64, generator=generator))


def positive(seed, n=7):
    return torch.rand(n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) + 0.1


def slow(rules, adam, w, problems, b1=0.9, b2=0.999, eps=1e-8):
    """Either variant as the specification lists it, number by number; problems: (loss, gradient) of each step.

    Yields (weights after the step, accepted step).
    """
    eta, h, s, fast, slow_, since = rules.eta0, 0.0, 0.0, TINY, TINY, 10**9
    if rules.released and not adam:
        adam, b1, b2 = True, 0.0, 0.0
    m, v = np.zeros_like(w), np.zeros_like(w)
    for k, (loss, gradient) in enumerate(problems, start=1):
        f, g = loss(w), gradient(w)
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
        power = k + 1 if rules.released else k
        preconditioner = 1 / (np.sqrt(v / (1 - b2**power)) + eps) if adam else np.ones_like(w)
        q, since = float((g * g * preconditioner).sum()), since + 1
        r = max(fast / slow_, slow_ / fast)
        if rules.released:
            wait = min(10, 1 / (r - 1 + 1e-8))
        else:
            wait = rules.interval or (10 if r == 1 else min(10, max(1, round(1 / (r - 1)))))
        there, searched, used = None, k <= rules.warmup_searches or since >= wait, eta * (1.1 if rules.released else 1)
        if searched:
            since, s = 0, rules.beta3 * s + (1 - rules.beta3) * q
            trial, first = min(rules.growth * eta, rules.limit), k == 1 and rules.climbs
            while first and trial < rules.limit:  # up, before it goes down
                longer = min(trial / rules.shrink, rules.limit)
                gains = [f - loss(w - x * preconditioner * g) for x in (trial, longer)]
                if any((1 - rules.beta3) * gain < rules.c * x * s for x, gain in zip((trial, longer), gains, strict=True)):
                    break
                trial = longer
            while True:
                there = w - trial * preconditioner * g
                tested = rules.beta3 * h + (1 - rules.beta3) * (f - loss(there))
                if tested >= rules.c * trial * s:
                    break
                trial *= rules.shrink
            eta = used = trial
            h = tested
        if searched or not rules.released:
            fast, slow_ = 0.9 * fast + 0.1 * eta, 0.99 * slow_ + 0.01 * eta
        w = there if searched and rules.released else w - used * preconditioner * m / (1 - b1**power)
        yield w, used


def noisy_problems(seed, n, steps):
    """A logistic-like loss per step: another batch each time."""
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        a, y = rng.standard_normal((5, n)), rng.standard_normal(5)
        yield (
            lambda w, a=a, y=y: float(np.log1p((a @ w - y) ** 2).mean()) + 0.1,
            lambda w, a=a, y=y: (2 * (a @ w - y) / (1 + (a @ w - y) ** 2) / 5) @ a,
        )


@settings(max_examples=12)
@given(
    st.sampled_from([PAPER, PLAIN, RELEASED, replace(PAPER, c=0.6, beta3=0.5), SELDOM]),
    st.sampled_from(["adam", "sgd"]),
    st.integers(1, 9),
    st.integers(0, 999),
)
def test_both_variants_and_directions_equal_a_slow_version(rules, direction, n, seed):
    problems = list(noisy_problems(seed, n, 60))
    start = np.random.default_rng(seed + 1).standard_normal(n)
    expected = list(slow(rules, direction == "adam", start.copy(), problems))
    unsearched = 0
    # One parameter in two tensors: the search has one step for all.
    whole = torch.from_numpy(start.copy())
    parts = [nn.Parameter(p.clone()) for p in whole.split([1, n - 1]) if len(p)]
    optimizer = Salsa(parts, rules, direction)
    for (loss, gradient), (wanted, eta) in zip(problems, expected, strict=True):

        def closure(backwards, loss=loss, gradient=gradient):
            w = torch.cat([p.detach() for p in parts]).numpy()
            if backwards:
                for p, g in zip(parts, torch.from_numpy(gradient(w)).split([len(p) for p in parts]), strict=True):
                    p.grad = g.clone()
            return torch.tensor(loss(w), dtype=torch.float64)

        optimizer.step(closure)
        unsearched += not optimizer.last.trials
        # Sums in another order, sixty steps long; a test that is decided by the last digit would show as a factor of 0.8.
        assert optimizer.param_groups[0]["lr"] == pytest.approx(eta, rel=1e-6)
        np.testing.assert_allclose(torch.cat([p.detach() for p in parts]).numpy(), wanted, rtol=1e-6, atol=1e-8)
    assert unsearched >= 30 or rules != SELDOM


@given(st.integers(0, 999), st.floats(0.05, 0.95), st.floats(0.5, 0.95), st.sampled_from([0.0, 0.9, 0.99]), st.floats(1, 100))
def test_the_first_step_of_sgd_on_a_quadratic_lies_in_the_analytic_interval(seed, c, shrink, beta3, above):
    """eta in (shrink B, B], B = 2 (1 - c) |g|^2 / sum L_j g_j^2."""
    w, curvature = weights(seed), positive(seed + 1)
    g = (curvature * w).detach()
    bound = float(2 * (1 - c) * g.square().sum() / (curvature * g.square()).sum())
    rules = Rules(eta0=above * bound, c=c, shrink=shrink, beta3=beta3, limit=math.inf, growth=1.0, max_backtracks=1000)
    before = w.detach().clone()
    Salsa([w], rules, "sgd").step(quadratic(w, curvature)[0])
    eta = float((before - w.detach())[0] / g[0])
    assert shrink * bound * (1 - 1e-6) < eta <= bound * (1 + 1e-6)


@given(st.integers(0, 999), st.floats(0.05, 0.95), st.floats(0.5, 0.95), st.integers(1, 6))
def test_later_steps_of_adam_on_a_diagonal_quadratic_lie_in_theirs(seed, c, shrink, steps):
    """B = 2 (1 - c) sum P_j g_j^2 / sum L_j P_j^2 g_j^2, for the plain search from above."""
    w, curvature = weights(seed), positive(seed + 1)
    rules = Rules(eta0=1e6, c=c, shrink=shrink, beta3=0.0, limit=math.inf, interval=1, max_backtracks=5000)
    optimizer = Salsa([w], rules, betas=(0.9, 0.99))
    closure, _ = quadratic(w, curvature)
    for _ in range(steps):
        optimizer.param_groups[0]["lr"] = 1e6  # every search begins far above
        optimizer.zero_grad()
        before = w.detach().clone()
        optimizer.step(closure)
        g, state = (curvature * before), optimizer.state[w]
        p = 1 / ((state["exp_avg_sq"] / (1 - 0.99 ** float(state["step"]))).sqrt() + 1e-8)
        bound = float(2 * (1 - c) * (p * g * g).sum() / (curvature * p * p * g * g).sum())
        assert shrink * bound * (1 - 1e-6) < optimizer.search.eta <= bound * (1 + 1e-6)


@given(st.integers(0, 99), st.floats(0.1, 10), st.floats(0.1, 0.9))
def test_the_first_step_of_adam_goes_by_signs_and_its_slope_is_the_sum_of_magnitudes(seed, L, c):
    w = weights(seed)
    before, g = w.detach().clone(), L * w.detach()
    rules = Rules(eta0=1e3, c=c, beta3=0.0, limit=math.inf, max_backtracks=1000)
    optimizer = Salsa([w], rules, eps=0.0)
    optimizer.step(quadratic(w, torch.full_like(w, L).detach())[0])
    eta, bound = optimizer.search.eta, float(2 * (1 - c) * g.abs().sum() / (L * len(w)))
    torch.testing.assert_close(before - w.detach(), eta * g.sign())
    assert optimizer.search.s == pytest.approx(float(g.abs().sum()))
    assert 0.8 * bound * (1 - 1e-9) < eta <= bound * (1 + 1e-9)


def test_the_released_class_goes_further_at_first_for_its_bias_correction():
    """By sqrt(1 + beta2) = 1.41386 times its step: the exponent is one too many."""
    w = weights(0)
    before, g = w.detach().clone(), w.detach().clone()
    optimizer = Salsa([w], replace(RELEASED, eta0=1e-3), eps=0.0)
    optimizer.step(quadratic(w, torch.ones_like(w).detach())[0])
    moved = (before - w.detach()) / (optimizer.search.eta * g.sign())
    torch.testing.assert_close(moved, torch.full_like(moved, math.sqrt(1.999)))


def test_the_released_class_is_advised_to_go_by_signs_where_one_asks_for_sgd():
    w = weights(1)
    before, g = w.detach().clone(), w.detach().clone()
    optimizer = Salsa([w], replace(RELEASED, eta0=1e-3), "sgd")
    optimizer.step(quadratic(w, torch.ones_like(w).detach())[0])
    torch.testing.assert_close(before - w.detach(), optimizer.search.eta * g.sign(), rtol=1e-6, atol=1e-9)
    assert optimizer.search.s == pytest.approx(0.1 * float(g.abs().sum()))  # (1 - beta3) |g|_1


def multiplied(direction, factor, eta0):
    """Steps and weights of a run on noisy losses that are all multiplied by a factor."""
    w = weights(5, 4)
    optimizer = Salsa([w], replace(EVERY, eta0=eta0, limit=math.inf), direction, eps=1e-30)
    rng = np.random.default_rng(0)
    steps = []
    for _ in range(25):
        a = torch.from_numpy(rng.standard_normal((3, 4)))

        def closure(backwards, a=a):
            loss = factor * (a @ w).square().add(1).log().mean().add(0.1)
            if backwards:
                loss.backward()
            return loss

        optimizer.zero_grad()
        optimizer.step(closure)
        steps.append(optimizer.search.eta)
    return np.array(steps), w.detach()


@pytest.mark.parametrize("factor", [0.25, 4.0])  # powers of two: no rounding differs
def test_multiplying_the_loss_divides_the_steps_of_sgd_and_leaves_adam_alone(factor):
    steps, end = multiplied("sgd", 1.0, 0.125)
    others, other_end = multiplied("sgd", factor, 0.125 / factor)
    np.testing.assert_array_equal(others, steps / factor)
    assert torch.equal(end, other_end)
    steps, end = multiplied("adam", 1.0, 0.125)
    others, other_end = multiplied("adam", factor, 0.125)
    np.testing.assert_array_equal(others, steps)
    torch.testing.assert_close(other_end, end, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("beta3", [0.0, 0.5, 0.9, 0.99])
def test_the_sum_of_steps_times_slopes_is_bounded_by_what_there_is_to_lose(beta3):
    """c sum eta_k s_k <= sum h_k <= f(w_0) - min f: Rosenbrock's valley, the whole loss, the tested point taken."""
    w = nn.Parameter(torch.tensor([-1.2, 1.0], dtype=torch.float64))
    rules = Rules(eta0=1.0, c=0.3, beta3=beta3, interval=1)
    optimizer = Salsa([w], rules, "sgd", betas=(0.0, 0.0))

    def closure(backwards):
        loss = (1 - w[0]) ** 2 + 100 * (w[1] - w[0] ** 2) ** 2
        if backwards:
            loss.backward()
        return loss

    first, left, middle = closure(False).item(), 0.0, 0.0
    for _ in range(600):
        optimizer.zero_grad()
        optimizer.step(closure)
        left, middle = left + rules.c * optimizer.search.eta * optimizer.search.s, middle + optimizer.search.h
    assert optimizer.search.exhausted == 0
    assert left <= middle * (1 + 1e-9)
    assert middle <= first * (1 + 1e-9)
    assert closure(False).item() < 0.5 * first


@pytest.mark.parametrize("direction", ["adam", "sgd"])
def test_forward_and_backward_passes_are_what_the_counters_say(direction):
    w = weights(2)
    closure, calls = quadratic(w, positive(3))
    optimizer = Salsa([w], PAPER, direction)
    for _ in range(40):
        optimizer.zero_grad()
        optimizer.step(closure)
        assert optimizer.last.slope > 0
    assert calls[True] == optimizer.search.steps == 40
    assert calls[False] == optimizer.search.trials >= optimizer.search.searches


def test_where_no_trial_passes_weights_are_as_they_were_bit_for_bit():
    w = weights(4)
    before = w.detach().clone()
    optimizer = Salsa([w], replace(PAPER, max_backtracks=4), weight_decay=0.1)
    losses = iter([1.0, 2.0, 2.0, 2.0, 2.0])

    def closure(backwards):
        if backwards:
            w.grad = w.detach().clone()
        return torch.tensor(next(losses))

    optimizer.step(closure)
    assert torch.equal(w.detach(), before)
    assert (optimizer.search.exhausted, optimizer.search.trials) == (1, 4)
    assert optimizer.param_groups[0]["lr"] == optimizer.search.eta == pytest.approx(0.11 * 0.8**3)


@pytest.mark.parametrize(("loss", "gradient"), [(math.nan, 1.0), (math.inf, 1.0), (1.0, math.nan), (1.0, math.inf)])
def test_a_step_with_a_loss_or_gradient_that_is_not_finite_is_left_out(loss, gradient):
    w = weights(6)
    optimizer = Salsa([w], PAPER)
    closure, _ = quadratic(w, positive(1))
    optimizer.step(closure)
    before, state = w.detach().clone(), copy.deepcopy(optimizer.state_dict())

    def spoilt(backwards):
        assert backwards, "no trial"
        w.grad = torch.full_like(w, gradient).detach()
        return torch.tensor(loss)

    optimizer.step(spoilt)
    assert torch.equal(w.detach(), before)
    after = optimizer.state_dict()
    for name in ("exp_avg", "exp_avg_sq", "step"):
        assert torch.equal(after["state"][0][name], state["state"][0][name])
    assert after["search"] == {**state["search"], "steps": 2, "since": 1, "skipped": 1}


class Network(nn.Module):
    """Batch norm, dropout, and random numbers of NumPy's and Python's own."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.ReLU(), nn.Linear(8, 3))
        self.seen = []

    def forward(self, x):
        self.seen.append((random.random(), np.random.random(), torch.rand(2).tolist()))  # noqa: NPY002
        return self.layers(x)


def batch(seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(16, 4, generator=generator), torch.randint(3, (16,), generator=generator)


def closure_of(module, x, y, losses=None):
    def closure(backwards):
        loss = F.cross_entropy(module(x), y)
        if backwards:
            loss.backward()
        else:
            assert not loss.requires_grad, "a trial makes no graph"
        if losses is not None:
            losses.append(loss.item())
        return loss

    return closure


def global_states():
    return torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002


def test_a_trial_leaves_buffers_and_random_generators_as_they_were():
    torch.manual_seed(0)
    module = Network().train()
    reference = copy.deepcopy(module)
    optimizer = Salsa(module.parameters(), replace(EVERY, eta0=10.0), buffers=module.buffers(), seed=3)
    for k in range(6):
        there = copy.deepcopy(module.state_dict())  # the weights of the step, before it
        before = global_states()
        optimizer.zero_grad()
        optimizer.step(closure_of(module, *batch(k)))
        for ours, theirs in zip(global_states(), before, strict=True):
            assert ours == theirs if isinstance(ours, tuple) else np.array_equal(ours, theirs)
        reference.load_state_dict(there)
        reference(batch(k)[0])  # one pass in training mode, and what it does to statistics
        for (name, ours), theirs in zip(module.named_buffers(), reference.buffers(), strict=True):
            assert torch.equal(ours, theirs), name
    assert optimizer.search.trials > 6


def test_what_a_network_draws_is_the_same_in_all_calls_of_a_step_and_another_in_the_next():
    torch.manual_seed(0)
    module = Network().train()
    torch_state = torch.get_rng_state()
    optimizer = Salsa(module.parameters(), EVERY, buffers=module.buffers(), seed=3)
    by_step = []
    for k in range(4):
        module.seen.clear()
        optimizer.zero_grad()
        optimizer.step(closure_of(module, *batch(k)))
        assert len(module.seen) == 1 + optimizer.last.trials >= 2
        assert all(draw == module.seen[0] for draw in module.seen)
        by_step.append(module.seen[0])
    for i in range(3):  # of Python, NumPy and torch alike
        assert len({str(draw[i]) for draw in by_step}) == 4
    assert torch.equal(torch.get_rng_state(), torch_state)
    other = Salsa(module.parameters(), EVERY, buffers=module.buffers(), seed=3, rank=1)
    module.seen.clear()
    other.step(closure_of(module, *batch(0)))
    assert module.seen[0] != by_step[0], "another rank, another mask"


def test_equal_weights_give_equal_losses_inside_a_step():
    """A step of length zero: the trial is the first call over again, dropout and batch norm included."""
    module, losses = Network().train(), []
    optimizer = Salsa(module.parameters(), replace(EVERY, eta0=1e-300, growth=1.0), buffers=module.buffers())
    optimizer.step(closure_of(module, *batch(0), losses))
    assert len(losses) == 2
    assert losses[0] == losses[1]
    assert optimizer.last.decrease == 0


@pytest.mark.parametrize("rules", [PAPER, RELEASED, PLAIN, SELDOM])
@pytest.mark.parametrize("direction", ["adam", "sgd"])
def test_a_run_that_is_saved_and_loaded_goes_on_bit_for_bit(rules, direction):
    torch.manual_seed(0)
    module = Network().train()
    optimizer = Salsa(module.parameters(), rules, direction, buffers=module.buffers(), seed=1)
    for k in range(13):
        optimizer.zero_grad()
        optimizer.step(closure_of(module, *batch(k)))
    saved = copy.deepcopy((module.state_dict(), optimizer.state_dict()))
    again = Network().train()
    again.load_state_dict(saved[0])
    other = Salsa(again.parameters(), rules, direction, buffers=again.buffers(), seed=1)
    other.load_state_dict(saved[1])
    for k in range(13, 30):
        for m, o in ((module, optimizer), (again, other)):
            o.zero_grad()
            o.step(closure_of(m, *batch(k)))
        assert other.search == optimizer.search
    for ours, theirs in zip(module.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)


def test_lr_is_the_step_that_was_taken_and_one_from_outside_is_where_the_next_search_begins():
    w = weights(8)
    closure, _ = quadratic(w, positive(9))
    optimizer = Salsa([{"params": [w], "weight_decay": 0.0}], EVERY, "sgd")
    schedule = torch.optim.lr_scheduler.MultiplicativeLR(optimizer, lambda epoch: 1e-3)
    optimizer.step(closure)
    assert optimizer.param_groups[0]["lr"] == optimizer.search.eta
    eta = optimizer.search.eta
    schedule.step()
    optimizer.step(closure)
    assert optimizer.search.eta == pytest.approx(1.1e-3 * eta)


def test_an_lr_from_outside_is_searched_at_once_and_never_above_the_limit():
    w = weights(8)
    closure, calls = quadratic(w, positive(9))
    optimizer = Salsa([w], replace(PAPER, warmup_searches=1, interval=10), "sgd")
    optimizer.step(closure)
    trials = calls[False]
    optimizer.zero_grad()
    optimizer.step(closure)
    assert calls[False] == trials, "this step is not due"
    optimizer.param_groups[0]["lr"] = 500.0
    optimizer.zero_grad()
    optimizer.step(closure)
    assert calls[False] > trials
    assert optimizer.search.eta <= PAPER.limit


@pytest.mark.parametrize("lr", [0.0, -0.1, math.inf, math.nan])
def test_an_lr_that_is_no_step_is_refused(lr):
    w = weights(8)
    optimizer = Salsa([w])
    optimizer.param_groups[0]["lr"] = lr
    with pytest.raises(ValueError, match=f"lr {lr} has been set"):
        optimizer.step(quadratic(w, positive(9))[0])


def test_an_lr_set_before_saving_is_still_from_outside_after_loading():
    ends = []
    for saves in (False, True):
        w = weights(8)
        closure, _ = quadratic(w, positive(9))
        optimizer = Salsa([w], EVERY, "sgd")
        optimizer.step(closure)
        optimizer.param_groups[0]["lr"] *= 1e-3
        if saves:
            kept = copy.deepcopy(optimizer.state_dict())
            optimizer = Salsa([w], EVERY, "sgd")
            optimizer.load_state_dict(kept)
        optimizer.zero_grad()
        optimizer.step(closure)
        ends.append(optimizer.search)
    assert ends[0] == ends[1]


def test_a_state_of_the_other_direction_is_refused():
    w = weights(8)
    with pytest.raises(ValueError, match="this state is of SGD"):
        Salsa([w], direction="adam").load_state_dict(Salsa([w], direction="sgd").state_dict())


def test_a_closure_that_zeroes_the_direction_is_found_out():
    w = weights(8)
    inner, _ = quadratic(w, positive(9))
    optimizer = Salsa([w], replace(EVERY, eta0=10.0), "sgd")

    def closure(backwards):
        optimizer.zero_grad(set_to_none=False)
        return inner(backwards)

    before = w.detach().clone()
    with pytest.raises(RuntimeError, match="zero_grad belongs before"):
        optimizer.step(closure)
    assert torch.equal(w.detach(), before)


def test_an_error_at_a_trial_leaves_weights_and_buffers_as_they_were():
    torch.manual_seed(0)
    module = Network().train()
    optimizer = Salsa(module.parameters(), EVERY, buffers=module.buffers())
    x, y = batch(0)
    reference = copy.deepcopy(module)
    reference(x)

    def closure(backwards):
        loss = F.cross_entropy(module(x), y)
        if not backwards:
            raise KeyboardInterrupt
        loss.backward()
        return loss

    with pytest.raises(KeyboardInterrupt):
        optimizer.step(closure)
    for (name, ours), theirs in zip(module.state_dict().items(), reference.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), name


def test_slopes_are_summed_in_double_precision():
    w = nn.Parameter(torch.randn(10**6, generator=torch.Generator().manual_seed(0)))
    optimizer = Salsa([w], replace(EVERY, beta3=0.0), "sgd")
    optimizer.step(quadratic(w, torch.ones_like(w).detach())[0])
    assert optimizer.last.slope == pytest.approx(float(w.grad.double().square().sum()), rel=1e-8)


@pytest.mark.parametrize("rules", [EVERY, replace(RELEASED, interval=1)])
def test_weight_decay_acts_once_on_what_is_taken_and_not_on_trials(rules):
    ends = []
    for decay in (0.0, 0.25):
        w = weights(10)
        optimizer = Salsa([w], rules, "sgd", betas=(0.0, 0.0), weight_decay=decay)
        before = w.detach().clone()
        optimizer.step(quadratic(w, positive(11))[0])
        ends.append((optimizer.search.eta, w.detach().clone()))
    (eta, plain), (other, decayed) = ends
    assert other == eta
    # The released class decays the weights of the trial point.
    torch.testing.assert_close(decayed, plain - eta * 0.25 * (plain if rules.released else before))


def test_parameters_without_a_gradient_stay_and_groups_share_the_step():
    one, two, idle = weights(1), weights(2), weights(3)
    optimizer = Salsa([{"params": [one]}, {"params": [two, idle], "betas": (0.0, 0.99)}], EVERY)
    before = idle.detach().clone()

    def closure(backwards):
        loss = (one.square().sum() + two.square().sum()) / 2
        if backwards:
            loss.backward()
        return loss

    for _ in range(5):
        optimizer.zero_grad()
        optimizer.step(closure)
    assert torch.equal(idle.detach(), before)
    assert len({group["lr"] for group in optimizer.param_groups}) == 1


def test_a_scalar_parameter_and_one_in_half_precision_are_parameters():
    scalar = nn.Parameter(torch.tensor(2.0))
    half = nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
    optimizer = Salsa([scalar, half], EVERY)

    def closure(backwards):
        loss = (scalar**2 + half.float().square().sum()) / 2
        if backwards:
            loss.backward()
        return loss

    for _ in range(30):
        optimizer.zero_grad()
        loss = optimizer.step(closure)
    assert loss.item() < 0.5
    assert half.dtype == torch.bfloat16


def test_what_cannot_work_is_refused():
    w = weights(0)
    with pytest.raises(ValueError, match="unknown direction 'up'"):
        Salsa([w], direction="up")
    for bad, message in (
        ({"betas": (1.0, 0.9)}, r"betas \(1.0, 0.9\)"),
        ({"eps": -1.0}, "eps -1.0 and weight_decay"),
        ({"weight_decay": -1.0}, "weight_decay -1.0 have"),
    ):
        with pytest.raises(ValueError, match=message):
            Salsa([w], **bad)
        with pytest.raises(ValueError, match=message):
            Salsa([{"params": [w], **bad}])
    many = Salsa([w], gather=lambda row: np.stack([row, row]))
    with pytest.raises(ValueError, match="sum of the losses and their number"):
        many.step(quadratic(w, positive(0))[0])
