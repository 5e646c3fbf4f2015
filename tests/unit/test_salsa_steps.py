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


class Closure:
    """A closure of a loss without arguments, and the losses of its calls."""

    def __init__(self, loss):
        self.loss, self.first, self.trials = loss, [], []

    def __call__(self, backwards):
        loss = self.loss()
        assert loss.requires_grad == backwards, "a trial makes no graph"
        (self.first if backwards else self.trials).append(loss.item())
        if backwards:
            loss.backward()
        return loss


def take(optimizer, *closures):
    """One step by each closure."""
    for closure in closures:
        optimizer.zero_grad()
        optimizer.step(closure)


def quadratic(w, curvature=1.0):
    """sum L_j w_j^2 / 2."""
    return Closure(lambda: (curvature * w.square()).sum() / 2)


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
        adam, b1, b2 = True, 0.0, 0.0  # as advised: by the signs of the gradient
    m, v = np.zeros_like(w), np.zeros_like(w)
    for k, (loss, gradient) in enumerate(problems, start=1):
        f, g = loss(w), gradient(w)
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
        power = k + 1 if rules.released else k  # one too many: further by sqrt(1 + b2) at first
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


@pytest.mark.parametrize("direction", ["adam", "sgd"])
@given(
    st.integers(0, 999),
    st.floats(0.05, 0.95),
    st.floats(0.5, 0.95),
    st.sampled_from([(0.0, 6), (0.9, 1), (0.99, 1)]),
    st.floats(1, 1e6),
)
def test_steps_on_a_diagonal_quadratic_lie_in_the_analytic_interval(direction, seed, c, shrink, past, above):
    """From above, (shrink B, B], B = 2 (1 - c) sum P_j g_j^2 / sum L_j P_j^2 g_j^2; where beta3 is not 0 the first step."""
    w, curvature = weights(seed), positive(seed + 1)
    beta3, steps = past
    rules = Rules(c=c, shrink=shrink, beta3=beta3, limit=math.inf, growth=1.0, interval=1, max_backtracks=5000)
    optimizer = Salsa([w], rules, direction, betas=(0.9, 0.99))
    second = torch.zeros_like(w)
    for k in range(1, steps + 1):
        g = (curvature * w).detach()
        second = 0.99 * second + 0.01 * g * g
        p = 1 / ((second / (1 - 0.99**k)).sqrt() + 1e-8) if direction == "adam" else torch.ones_like(g)
        bound = float(2 * (1 - c) * (p * g * g).sum() / (curvature * p * p * g * g).sum())
        optimizer.param_groups[0]["lr"] = above * bound
        take(optimizer, quadratic(w, curvature))
        assert shrink * bound * (1 - 1e-6) < optimizer.search.eta <= bound * (1 + 1e-6)


def multiplied(direction, factor, eta0):
    """Steps and weights of a run on noisy losses that are all multiplied by a factor."""
    w = weights(5, 4)
    optimizer = Salsa([w], replace(EVERY, eta0=eta0, limit=math.inf), direction, eps=1e-30)
    rng = np.random.default_rng(0)
    steps = []
    for _ in range(25):
        a = torch.from_numpy(rng.standard_normal((3, 4)))
        take(optimizer, Closure(lambda a=a: factor * (a @ w).square().add(1).log().mean().add(0.1)))
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

    def valley():
        return (1 - w[0]) ** 2 + 100 * (w[1] - w[0] ** 2) ** 2

    first, left, middle = valley().item(), 0.0, 0.0
    for _ in range(600):
        take(optimizer, Closure(valley))
        left, middle = left + rules.c * optimizer.search.eta * optimizer.search.s, middle + optimizer.search.h
    assert optimizer.search.exhausted == 0
    assert left <= middle * (1 + 1e-9)
    assert middle <= first * (1 + 1e-9)
    assert valley().item() < 0.5 * first


@pytest.mark.parametrize("direction", ["adam", "sgd"])
def test_forward_and_backward_passes_are_what_the_counters_say(direction):
    w = weights(2)
    closure, optimizer = quadratic(w, positive(3)), Salsa([w], PAPER, direction)
    for _ in range(40):
        take(optimizer, closure)
        assert optimizer.last.slope > 0
    assert len(closure.first) == optimizer.search.steps == 40
    assert len(closure.trials) == optimizer.search.trials >= optimizer.search.searches


def test_where_no_trial_passes_weights_are_as_they_were_bit_for_bit():
    w = weights(4)
    before = w.detach().clone()
    optimizer = Salsa([w], replace(PAPER, max_backtracks=4), weight_decay=0.1)
    take(optimizer, lambda backwards: quadratic(w)(True) if backwards else torch.tensor(1e3))
    assert torch.equal(w.detach(), before)
    assert (optimizer.search.exhausted, optimizer.search.trials) == (1, 4)
    assert optimizer.param_groups[0]["lr"] == optimizer.search.eta == pytest.approx(0.11 * 0.8**3)


@pytest.mark.parametrize(("loss", "gradient"), [(math.nan, 1.0), (math.inf, 1.0), (1.0, math.nan), (1.0, math.inf)])
def test_a_step_with_a_loss_or_gradient_that_is_not_finite_is_left_out(loss, gradient):
    w = weights(6)
    optimizer = Salsa([w], PAPER)
    take(optimizer, quadratic(w, positive(1)))
    before, state = w.detach().clone(), copy.deepcopy(optimizer.state_dict())

    def spoilt(backwards):
        assert backwards, "no trial"
        w.grad = torch.full_like(w, gradient).detach()
        return torch.tensor(loss)

    take(optimizer, spoilt)
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


def on_batch(module, seed):
    x, y = batch(seed)
    return Closure(lambda: F.cross_entropy(module(x), y))


def equal_states(one, other):
    return all(torch.equal(ours, theirs) for ours, theirs in zip(one.values(), other.values(), strict=True))


@pytest.fixture
def module():
    torch.manual_seed(0)
    return Network().train()


def global_states():
    return torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002


def test_a_trial_leaves_buffers_and_random_generators_as_they_were(module):
    reference = copy.deepcopy(module)
    optimizer = Salsa(module.parameters(), replace(EVERY, eta0=10.0), buffers=module.buffers(), seed=3)
    for k in range(6):
        reference.load_state_dict(module.state_dict())  # the weights of the step, before it
        before = global_states()
        take(optimizer, on_batch(module, k))
        assert global_states() == before
        reference(batch(k)[0])  # one pass in training mode, and what it does to statistics
        assert equal_states(dict(module.named_buffers()), dict(reference.named_buffers()))
    assert optimizer.search.trials > 6


def test_what_a_network_draws_is_the_same_in_all_calls_of_a_step_and_another_in_the_next(module):
    optimizer = Salsa(module.parameters(), EVERY, buffers=module.buffers(), seed=3)
    by_step = []
    for k in range(4):
        module.seen.clear()
        take(optimizer, on_batch(module, k))
        assert len(module.seen) == 1 + optimizer.last.trials >= 2
        assert all(draw == module.seen[0] for draw in module.seen)
        by_step.append(module.seen[0])
    for i in range(3):  # of Python, NumPy and torch alike
        assert len({str(draw[i]) for draw in by_step}) == 4
    module.seen.clear()
    take(Salsa(module.parameters(), EVERY, buffers=module.buffers(), seed=3, rank=1), on_batch(module, 0))
    assert module.seen[0] != by_step[0], "another rank, another mask"


def test_equal_weights_give_equal_losses_inside_a_step(module):
    """A step of length zero: the trial is the first call over again, dropout and batch norm included."""
    closure = on_batch(module, 0)
    optimizer = Salsa(module.parameters(), replace(EVERY, eta0=1e-300, growth=1.0), buffers=module.buffers())
    take(optimizer, closure)
    assert closure.trials == closure.first
    assert optimizer.last.decrease == 0


@pytest.mark.parametrize("rules", [PAPER, RELEASED, PLAIN, SELDOM])
@pytest.mark.parametrize("direction", ["adam", "sgd"])
def test_a_run_that_is_saved_and_loaded_goes_on_bit_for_bit(module, rules, direction):
    optimizer = Salsa(module.parameters(), rules, direction, buffers=module.buffers(), seed=1)
    take(optimizer, *(on_batch(module, k) for k in range(13)))
    again = copy.deepcopy(module)
    other = Salsa(again.parameters(), rules, direction, buffers=again.buffers(), seed=1)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for k in range(13, 30):
        take(optimizer, on_batch(module, k))
        take(other, on_batch(again, k))
        assert other.search == optimizer.search
    assert equal_states(module.state_dict(), again.state_dict())


def test_lr_is_the_step_that_was_taken_and_one_from_outside_is_where_the_next_search_begins():
    w = weights(8)
    closure, optimizer = quadratic(w, positive(9)), Salsa([w], EVERY, "sgd")
    schedule = torch.optim.lr_scheduler.MultiplicativeLR(optimizer, lambda epoch: 1e-3)
    take(optimizer, closure)
    eta = optimizer.search.eta
    assert optimizer.param_groups[0]["lr"] == eta
    schedule.step()
    saved = copy.deepcopy((w, optimizer.state_dict()))
    take(optimizer, closure)
    assert optimizer.search.eta == pytest.approx(1.1e-3 * eta)
    again = Salsa([saved[0]], EVERY, "sgd")
    again.load_state_dict(saved[1])
    take(again, quadratic(saved[0], positive(9)))
    assert again.search == optimizer.search, "also if it was set before saving"


def test_an_lr_from_outside_is_searched_at_once_and_never_above_the_limit():
    w = weights(8)
    closure, optimizer = quadratic(w, positive(9)), Salsa([w], replace(PAPER, warmup_searches=1, interval=10), "sgd")
    take(optimizer, closure)
    trials = len(closure.trials)
    take(optimizer, closure)
    assert len(closure.trials) == trials, "this step is not due"
    optimizer.param_groups[0]["lr"] = 500.0
    take(optimizer, closure)
    assert len(closure.trials) > trials
    assert optimizer.search.eta <= PAPER.limit


@pytest.mark.parametrize("lr", [0.0, -0.1, math.inf, math.nan])
def test_an_lr_that_is_no_step_is_refused(lr):
    w = weights(8)
    optimizer = Salsa([w])
    optimizer.param_groups[0]["lr"] = lr
    with pytest.raises(ValueError, match=f"lr {lr} has been set"):
        optimizer.step(quadratic(w))


def test_a_state_of_the_other_direction_is_refused():
    w = weights(8)
    with pytest.raises(ValueError, match="this state is of SGD"):
        Salsa([w], direction="adam").load_state_dict(Salsa([w], direction="sgd").state_dict())


def test_a_closure_that_zeroes_the_direction_is_found_out():
    w = weights(8)
    inner, optimizer = quadratic(w, positive(9)), Salsa([w], replace(EVERY, eta0=10.0), "sgd")

    def closure(backwards):
        optimizer.zero_grad(set_to_none=False)
        return inner(backwards)

    before = w.detach().clone()
    with pytest.raises(RuntimeError, match="zero_grad belongs before"):
        optimizer.step(closure)
    assert torch.equal(w.detach(), before)


def test_an_error_at_a_trial_leaves_weights_and_buffers_as_they_were(module):
    optimizer = Salsa(module.parameters(), EVERY, buffers=module.buffers())
    inner, reference = on_batch(module, 0), copy.deepcopy(module)
    reference(batch(0)[0])

    def closure(backwards):
        loss = inner(backwards)
        if not backwards:
            raise KeyboardInterrupt
        return loss

    with pytest.raises(KeyboardInterrupt):
        optimizer.step(closure)
    assert equal_states(module.state_dict(), reference.state_dict())


def test_slopes_are_summed_in_double_precision():
    w = nn.Parameter(torch.randn(10**6, generator=torch.Generator().manual_seed(0)))
    optimizer = Salsa([w], replace(EVERY, beta3=0.0), "sgd")
    take(optimizer, quadratic(w))
    assert optimizer.last.slope == pytest.approx(float(w.grad.double().square().sum()), rel=1e-8)


@pytest.mark.parametrize("rules", [EVERY, replace(RELEASED, interval=1)])
def test_weight_decay_acts_once_on_what_is_taken_and_not_on_trials(rules):
    ends = []
    for decay in (0.0, 0.25):
        w = weights(10)
        optimizer = Salsa([w], rules, "sgd", betas=(0.0, 0.0), weight_decay=decay)
        take(optimizer, quadratic(w, positive(11)))
        ends.append((optimizer.search.eta, w.detach()))
    (eta, plain), (other, decayed) = ends
    assert other == eta
    # The released class decays the weights of the trial point.
    torch.testing.assert_close(decayed, plain - eta * 0.25 * (plain if rules.released else weights(10).detach()))


def test_parameters_without_a_gradient_stay_and_groups_share_the_step():
    one, two, idle = weights(1), weights(2), weights(3)
    optimizer = Salsa([{"params": [one]}, {"params": [two, idle], "betas": (0.0, 0.99)}], EVERY)
    take(optimizer, *[Closure(lambda: (one.square().sum() + two.square().sum()) / 2)] * 5)
    assert torch.equal(idle, weights(3))
    assert len({group["lr"] for group in optimizer.param_groups}) == 1


def test_a_scalar_parameter_and_one_in_half_precision_are_parameters():
    scalar = nn.Parameter(torch.tensor(2.0))
    half = nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
    closure = Closure(lambda: (scalar**2 + half.float().square().sum()) / 2)
    take(Salsa([scalar, half], EVERY), *[closure] * 30)
    assert closure.first[-1] < 0.5
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
        many.step(quadratic(w))
