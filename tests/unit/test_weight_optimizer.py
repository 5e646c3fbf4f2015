"""`WeightOptimizer` with one rank against plain PyTorch, tensor by tensor; what happens to momentum and to bad gradients."""

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from common.models.flat import FlatModel
from common.optim.bases import OptimizerSettings
from common.optim.registry import OPTIMIZERS, split_name
from common.optim.sam import PERTURBATIONS
from common.optim.weight_optimizer import WeightOptimizer
from common.training.worker import reductions_of

DECAY, MU, RATES = 5e-2, 0.9, [0.1, 0.3, 0.05, 0.2, 0.1]  # another rate every step


def network(seed=0, hidden=7):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, hidden), nn.Tanh(), nn.BatchNorm1d(hidden), nn.Linear(hidden, 3))


def batches(seed=1):
    generator = torch.Generator().manual_seed(seed)
    return [(torch.randn(12, 5, generator=generator), torch.randint(3, (12,), generator=generator)) for _ in RATES]


def adopt(alone, module, name, lr_scale=1.0, **options):
    """The module in flat buffers, and its optimizer."""
    model = FlatModel(module)
    options = {"momentum": MU, "weight_decay": DECAY, "rho": 0.5, **options}
    settings = OptimizerSettings(name, **options)
    return model, WeightOptimizer(model, settings, reductions_of(alone, settings.sam_scope), lr_scale)


def closure_of(model, batch, calls=None, spoil=lambda call: False):
    """Forward and backward, counting calls; `spoil(call)` tells which of them end in a gradient that is not finite."""
    calls = [] if calls is None else calls

    def closure(backwards=True):
        loss = F.cross_entropy(model.module(batch[0]), batch[1])
        if backwards:
            model.zero_gradient()
            loss.backward()
        if spoil(len(calls)):
            model.gradient[2] = float("nan")
        calls.append(model.parameters.detach().clone())
        return loss.detach()

    return closure


def train(model, optimizer, seen, rate=0.1):
    for batch in seen:
        optimizer.step(closure_of(model, batch), rate)


def assert_close(model, plain, **close):
    """Whether weights and buffers are those of a module that was trained without flat buffers."""
    for ours, theirs in zip(model.module.state_dict().values(), plain.state_dict().values(), strict=True):
        torch.testing.assert_close(ours, theirs, **close)


def slow_gradient(module, batch, name, rho=0.5):
    """The loss at w, and the gradient of a step: SAM's and ASAM's tensor by tensor, from the equations."""
    tensors = list(module.parameters())
    loss = F.cross_entropy(module(batch[0]), batch[1])
    gradients = torch.autograd.grad(loss, tensors)
    if name not in ("sam", "asam"):
        return loss.detach(), gradients
    scales = [w.detach().abs() if name == "asam" else torch.ones_like(w) for w in tensors]
    norm = sum((s * g).double().square().sum() for s, g in zip(scales, gradients, strict=True)).sqrt()
    there = copy.deepcopy(module)  # the second pass's batch-norm statistics die with the copy
    with torch.no_grad():
        for w, s, g in zip(there.parameters(), scales, gradients, strict=True):
            w += (rho * s**2 * g / (norm + 1e-12)).float()
    return loss.detach(), torch.autograd.grad(F.cross_entropy(there(batch[0]), batch[1]), list(there.parameters()))


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=1.0, momentum=MU, weight_decay=DECAY)


def adamw(parameters):
    return torch.optim.AdamW(parameters, lr=1.0, weight_decay=0.3, foreach=False)


@pytest.mark.parametrize(
    ("name", "passes", "lr_scale", "torchs", "close"),
    [
        ("sgd", 1, 1.0, sgd, {"rtol": 0.0, "atol": 0.0}),  # the same operations on the same numbers, element by element
        ("adamw", 1, 1.0, adamw, {"rtol": 1e-6, "atol": 1e-7}),  # vectorised over other lengths
        ("adamw", 1, 0.01, adamw, {"rtol": 1e-6, "atol": 1e-7}),
        # One norm in another order and precision (1e-7 relative); five steps of a smooth network multiply that by about ten.
        ("sam", 2, 1.0, sgd, {"rtol": 2e-5, "atol": 2e-6}),
        ("asam", 2, 1.0, sgd, {"rtol": 2e-5, "atol": 2e-6}),
    ],
)
@settings(max_examples=10)
@given(hidden=st.integers(1, 40), seed=st.integers(0, 99))
def test_alone_it_is_torchs_optimizer_at_its_own_rate(alone, name, passes, lr_scale, torchs, close, hidden, seed):
    """And reports the loss of the first pass."""
    plain, calls = network(seed, hidden), []
    model, optimizer = adopt(alone, copy.deepcopy(plain), name, lr_scale, adam_decay=0.3)
    reference = torchs(plain.parameters())
    for batch, rate in zip(batches(), RATES, strict=True):
        loss, gradients = slow_gradient(plain, batch, name)
        for parameter, gradient in zip(plain.parameters(), gradients, strict=True):
            parameter.grad = gradient
        reference.param_groups[0]["lr"] = rate * lr_scale
        reference.step()
        torch.testing.assert_close(optimizer.step(closure_of(model, batch, calls), rate), loss, **close)
    assert_close(model, plain, **close)
    assert len(calls) == passes * len(RATES)
    assert optimizer.passes == passes


def test_the_second_pass_runs_at_distance_rho_and_the_weights_come_back_bit_for_bit(alone):
    model, optimizer = adopt(alone, network(), "sam", rho=0.25)
    before, calls = model.parameters.detach().clone(), []
    optimizer.step(closure_of(model, batches()[0], calls), 0.0)  # rate 0: the step itself changes no bit
    assert torch.equal(calls[0], before)
    # w + e is rounded to float32 at the weights' own magnitude of about 1.
    assert (calls[1] - before).double().norm().item() == pytest.approx(0.25, rel=1e-5)
    assert torch.equal(model.parameters.detach(), before)


@pytest.mark.parametrize("name", PERTURBATIONS)
def test_the_second_pass_runs_at_the_weights_moved_by_e(alone, name):
    (model, optimizer), (free, _) = (adopt(alone, network(), name) for _ in range(2))
    closure_of(free, batches()[0])()
    before, calls = free.parameters.detach(), []
    optimizer.step(closure_of(model, batches()[0], calls), 0.0)
    assert torch.equal(calls[1], before + PERTURBATIONS[name](before, free.gradient, 0.5))
    assert torch.equal(model.parameters.detach(), before)


@pytest.mark.parametrize("name", ["sgd", "sam", "asam"])
def test_a_closure_may_set_gradients_to_none(alone, name):
    """`module.zero_grad()` is what a user's own script calls; autograd then puts the gradients elsewhere."""
    (ours, optimizer), (foreign, other) = (adopt(alone, network(), name) for _ in range(2))
    for images, labels in batches():

        def closure(images=images, labels=labels):
            foreign.module.zero_grad(set_to_none=True)
            loss = F.cross_entropy(foreign.module(images), labels)
            loss.backward()
            return loss.detach()

        optimizer.step(closure_of(ours, (images, labels)), 0.1)
        other.step(closure, 0.1)
    assert torch.equal(ours.state, foreign.state)


@pytest.mark.parametrize(("name", "bad"), [("sgd", 0), ("sam", 0), ("sam", 1), ("asam", 0), ("asam", 1)])
def test_a_gradient_that_is_not_finite_leaves_weights_and_momentum_untouched(alone, name, bad):
    model, optimizer = adopt(alone, network(), name)
    train(model, optimizer, batches()[:2])
    weights = model.parameters.detach().clone()
    momentum = {n: t.clone() for n, t in optimizer.state_tensors().items()}
    assert momentum, "two steps leave a momentum"
    optimizer.step(closure_of(model, batches()[2], spoil=lambda call: call == bad), 0.1)
    assert torch.equal(model.parameters.detach(), weights)
    assert all(torch.equal(t, momentum[n]) for n, t in optimizer.state_tensors().items())


@pytest.mark.parametrize(("reset", "finite", "kept"), [(False, True, True), (True, True, False), (False, False, False)])
def test_momentum_outlives_a_round_unless_reset_is_asked_for_or_weights_were_lost(alone, reset, finite, kept):
    model, optimizer = adopt(alone, network(), "sgd", reset_momentum=reset)
    train(model, optimizer, batches()[:1])
    before = model.parameters.detach().clone()
    optimizer.after_exchange(finite)
    assert bool(optimizer.state_tensors()) == kept
    train(model, optimizer, batches()[1:2])
    g = model.gradient
    fresh = before - 0.1 * (g + DECAY * before)
    assert torch.allclose(model.parameters.detach(), fresh, rtol=1e-6, atol=1e-7) != kept


def test_alone_every_sam_scope_is_the_same(alone):
    local, *others = (adopt(alone, network(), "asam", sam_scope=scope) for scope in ("local", "population", "world"))
    train(*local, batches()[:1])
    for other in others:
        train(*other, batches()[:1])
        assert torch.equal(other[0].state, local[0].state)


def test_names_are_a_base_or_a_perturbation_over_one():
    assert split_name("sgd") == ("", "sgd")
    assert split_name("asam") == ("asam", "sgd")
    assert split_name("sam+adamw") == ("sam", "adamw")
    assert {"sgd", "adamw", "sam", "asam", "sam+adamw", "asam+adamw"} <= set(OPTIMIZERS)


def test_muon_steps_matrices_and_leaves_vectors_to_adamw(alone):
    plain = nn.Sequential(nn.Unflatten(1, (1, 5)), nn.Conv1d(1, 4, 2), nn.Flatten(), nn.Linear(16, 3))
    model, optimizer = adopt(alone, copy.deepcopy(plain), "muon", adam_decay=0.1)
    conv, bias, linear, last = plain.parameters()
    matrices = [nn.Parameter(conv.detach().view(4, -1).clone()), nn.Parameter(linear.detach().clone())]
    muon = torch.optim.Muon(matrices, lr=1.0, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    adamw = torch.optim.AdamW([bias, last], lr=1.0, weight_decay=0.1)
    for batch, rate in zip(batches(), RATES, strict=True):
        plain.zero_grad()
        F.cross_entropy(plain(batch[0]), batch[1]).backward()
        for matrix, weights in zip(matrices, (conv, linear), strict=True):
            matrix.grad = weights.grad.view(matrix.shape)
        for reference in (muon, adamw):
            reference.param_groups[0]["lr"] = rate
            reference.step()
        with torch.no_grad():
            for matrix, weights in zip(matrices, (conv, linear), strict=True):
                weights.copy_(matrix.view(weights.shape))
        optimizer.step(closure_of(model, batch), rate)
    assert_close(model, plain, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizers_saved_state_goes_on_bit_for_bit(alone, name):
    model, optimizer = adopt(alone, network(), name)
    optimizer.begin_round(0.01)
    train(model, optimizer, batches()[:2], 0.01)
    optimizer.end_training()
    optimizer.after_exchange(True)
    again, other = adopt(alone, copy.deepcopy(model.module), name)
    other.load_state_tensors({n: t.clone() for n, t in optimizer.state_tensors().items()})
    for pair in ((model, optimizer), (again, other)):
        pair[1].begin_round(0.01)
        train(*pair, batches()[2:], 0.02)
    assert torch.equal(model.state, again.state)
    assert optimizer.effective_lr(0.02) == other.effective_lr(0.02)


@given(limit=st.floats(1e-3, 10))
def test_a_clipped_gradient_keeps_its_direction_and_at_most_its_limit(alone, limit):
    model, optimizer = adopt(alone, network(), "sgd", clip_norm=limit, momentum=0.0, weight_decay=0.0)
    before = model.parameters.detach().clone()
    free, _ = adopt(alone, network(), "sgd")
    closure_of(free, batches()[0])()
    g = free.gradient
    train(model, optimizer, batches()[:1], 1.0)
    moved = before - model.parameters.detach()
    torch.testing.assert_close(moved, g * min(1.0, limit / g.norm().item()), rtol=1e-4, atol=1e-6)


def test_momentum_that_travels_is_the_optimizers_own(alone):
    model, optimizer = adopt(alone, network(), "asam")
    (momentum,) = optimizer.momentum()
    assert not momentum.any()
    train(model, optimizer, batches()[:1])
    (after,) = optimizer.momentum()
    assert after.data_ptr() == momentum.data_ptr()
    assert after.any()
    assert adopt(alone, network(), "adamw")[1].momentum() == []
    assert adopt(alone, network(), "sgd", momentum=0.0)[1].momentum() == []


@pytest.mark.parametrize("name", ["sgd", "asam"])
def test_zeroed_momentum_is_a_fresh_start_bit_for_bit(alone, name):
    fresh, touched = (adopt(alone, network(), name) for _ in range(2))
    touched[1].momentum()
    for pair in (fresh, touched):
        train(*pair, batches())
    assert torch.equal(fresh[0].state, touched[0].state)
