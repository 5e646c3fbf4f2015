"""Perturbations of SAM and ASAM against a float64 loop and their closed forms; the batch-norm freeze of the second pass."""

import copy
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from common.models.batch_norm import frozen_batch_norm
from common.optim.sam import PERTURBATIONS, asam_perturbation, sam_perturbation

# float32 rounds each product, the norm and the quotient by 6e-8; the norm sums its squares in another order.
CLOSE = {"rtol": 2e-6, "atol": 0.0}


@st.composite
def weights_and_gradients(draw):
    """Vectors of any small size and of scales that are far from 1e-12 and from overflow; some weights exactly zero."""
    size, seed = draw(st.integers(1, 50)), draw(st.integers(0, 2**31))
    generator = torch.Generator().manual_seed(seed)
    w, g = torch.randn(2, size, generator=generator)
    w[1:][torch.rand(size - 1, generator=generator) < 0.2] = 0.0
    return w * 10 ** draw(st.floats(-2, 2)), g * 10 ** draw(st.floats(-4, 3))


radii = st.floats(0.01, 5.0)


def slow_sam(w, g, rho):
    norm = math.sqrt(sum(x * x for x in g))
    return [rho * x / (norm + 1e-12) for x in g]


def slow_asam(w, g, rho):
    norm = math.sqrt(sum((abs(a) * x) ** 2 for a, x in zip(w, g, strict=True)))
    return [rho * a**2 * x / (norm + 1e-12) for a, x in zip(w, g, strict=True)]


@pytest.mark.parametrize(("fast", "slow"), [(sam_perturbation, slow_sam), (asam_perturbation, slow_asam)])
@given(pair=weights_and_gradients(), rho=radii)
def test_perturbations_equal_a_slow_loop_in_double_precision(fast, slow, pair, rho):
    w, g = pair
    expected = torch.tensor(slow(w.tolist(), g.tolist(), rho))
    torch.testing.assert_close(fast(w, g, rho), expected, **CLOSE)


@given(weights_and_gradients(), radii)
def test_perturbations_have_norm_rho_which_asam_measures_in_units_of_the_weights(pair, rho):
    w, g = pair
    assert sam_perturbation(w, g, rho).double().norm().item() == pytest.approx(rho, rel=2e-6)
    e = asam_perturbation(w, g, rho).double()
    assert (e[w == 0] == 0).all()
    assert (e[w != 0] / w[w != 0].abs()).norm().item() == pytest.approx(rho, rel=2e-6)


@given(weights_and_gradients(), radii, st.floats(0.1, 10))
def test_asam_does_not_care_how_the_weights_are_scaled(pair, rho, c):
    w, g = pair  # the network that computes with w / c has the gradient c g
    torch.testing.assert_close(asam_perturbation(c * w, g / c, rho), c * asam_perturbation(w, g, rho), rtol=1e-5, atol=0.0)


@pytest.mark.parametrize("name", PERTURBATIONS)
def test_a_zero_gradient_perturbs_nothing(name):
    e = PERTURBATIONS[name](torch.randn(5), torch.zeros(5), 0.5)
    assert torch.equal(e, torch.zeros(5))


def with_batch_norms(seed=0):
    torch.manual_seed(seed)
    module = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 4), nn.BatchNorm1d(4))
    module(torch.randn(8, 2, 4, 4) * 3 + 1)  # some lived-in statistics
    return module, torch.randn(8, 2, 4, 4)


def test_frozen_batch_norm_keeps_every_statistic_but_normalises_by_the_batch():
    module, images = with_batch_norms()
    statistics = copy.deepcopy(dict(module.named_buffers()))
    expected = copy.deepcopy(module)(images)  # training mode: the batch's own mean and variance
    with frozen_batch_norm(module):
        assert torch.equal(module(images), expected)
    for name, value in module.named_buffers():
        assert torch.equal(value, statistics[name]), name
    module(images)
    assert all(not torch.equal(value, statistics[name]) for name, value in module.named_buffers()), "frozen for good"


def test_the_freeze_ends_after_an_error_and_leaves_layers_without_statistics_alone():
    module, images = with_batch_norms()
    module.append(nn.BatchNorm1d(4, track_running_stats=False))
    with pytest.raises(ZeroDivisionError), frozen_batch_norm(module):
        raise ZeroDivisionError
    assert [m.track_running_stats for m in module if isinstance(m, nn.modules.batchnorm._BatchNorm)] == [True, True, False]
    module(images)
