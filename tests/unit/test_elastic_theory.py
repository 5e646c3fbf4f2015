"""Elastic averaging's theory: the specification's tables to their printed digits, and its formulas against simulations."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import elastic_theory as stability


@pytest.mark.parametrize(("eta", "alpha"), [(0.5, 0.85714), (1.0, 0.66667), (1.5, 0.40000)])
def test_s1_the_largest_stable_moving_rate(eta, alpha):
    assert stability.largest_stable_alpha(eta) == pytest.approx(alpha, abs=5e-6)
    star = stability.largest_stable_alpha(eta)
    for p in (1, 3, 5, 7):
        assert stability.spectral_radius(stability.round_robin_easgd(eta, star, p)) == pytest.approx(1, abs=1e-9)
        assert stability.spectral_radius(stability.round_robin_easgd(eta, 1.01 * star, p)) > 1


@pytest.mark.parametrize(
    ("eta", "p", "printed"),
    [
        *((0.5, 2, 0.8911), (0.5, 4, 0.8661), (0.5, 8, 0.8595)),
        *((1.0, 2, 0.7071), (1.0, 4, 0.6751), (1.0, 8, 0.6687)),
        *((1.5, 2, 0.4142), (1.5, 4, 0.4025), (1.5, 8, 0.4006)),
    ],
)
def test_s1_the_first_unstable_moving_rate_of_even_worlds(eta, p, printed):
    low, high = 0.9 * printed, 1.1 * printed
    for _ in range(60):
        middle = (low + high) / 2
        stable = stability.spectral_radius(stability.round_robin_easgd(eta, middle, p)) <= 1 + 1e-12
        low, high = (middle, high) if stable else (low, middle)
    assert low == pytest.approx(printed, abs=5e-5)


@given(st.floats(0, 2), st.floats(0, 1), st.integers(1, 9))
def test_s1_below_the_bound_every_world_is_stable(eta, share, p):
    alpha = share * stability.largest_stable_alpha(eta)
    assert stability.spectral_radius(stability.round_robin_easgd(eta, alpha, p)) <= 1 + 1e-9


ADMM = """
0.001 1.0 0.99900075 1.00082038 1.00155618
0.001 2.5 0.99900187 1.00097389 1.00225787
0.001 5.0 0.99900374 1.00060116 1.00260616
0.001 9.0 0.99900671 0.99943350 1.00241267
0.002 2.5 0.99800747 1.00009843 1.00210183
0.005 2.5 0.99504648 0.99613232 0.99986492
0.009 5.0 0.99129425 0.99126264 0.99122275
"""


@pytest.mark.parametrize("line", ADMM.split("\n")[1:-1])
def test_s2_spectral_radii_of_admm_to_the_printed_digits(line):
    eta, rho, *printed = map(float, line.split())
    computed = [stability.spectral_radius(stability.round_robin_admm(eta, rho, p)) for p in (2, 3, 8)]
    np.testing.assert_allclose(computed, printed, atol=5.1e-9)


def test_s2_the_leading_pair_of_three_workers():
    values = np.linalg.eigvals(stability.round_robin_admm(0.001, 2.5, 3))
    leading = values[np.argmax(np.abs(values))]
    assert (leading.real, abs(leading.imag)) == pytest.approx((0.999473, 0.054792), abs=5e-7)


@pytest.mark.parametrize(("p", "share"), [(2, 0.0), (3, 0.150), (4, 0.250), (8, 0.355)])
def test_s2_the_share_of_the_papers_plane_where_admm_diverges(p, share):
    """On every ninth of the 99 x 99 points, so with a tolerance of two points of 121."""
    etas, rhos = np.arange(1e-4, 1e-2, 9e-4), np.arange(0.1, 10, 0.9)
    unstable = [stability.spectral_radius(stability.round_robin_admm(e, r, p)) > 1 for e in etas for r in rhos]
    assert np.mean(unstable) == pytest.approx(share, abs=0.03)


def test_s2_the_papers_demonstration_diverges_where_easgd_does_not():
    state = np.append(np.tile([0.0, 1000.0], 3), 1000.0)
    admm = stability.round_robin_admm(0.001, 2.5, 3)
    for rounds, norm in ((5000, 6.7e2), (10000, 8.8e4), (20000, 1.5e9)):
        assert np.linalg.norm(np.linalg.matrix_power(admm, rounds) @ state) == pytest.approx(norm, rel=0.02)
    assert (np.linalg.matrix_power(admm, 1000) @ state)[-1] == pytest.approx(368.4, abs=0.05)
    for p, radius in ((3, 0.999270), (8, 0.999116)):
        assert stability.spectral_radius(stability.round_robin_easgd(0.001, 0.0025, p)) == pytest.approx(radius, abs=5e-7)


@given(st.floats(0.01, 2.5), st.floats(0.001, 1.2), st.integers(1, 12))
def test_s3_the_stability_condition_is_the_spectral_radius(eta_h, alpha, p):
    radius = stability.spectral_radius(stability.synchronous_easgd(eta_h, alpha, p))
    # 1 - alpha - eta_h is another eigenvalue where p > 1, and lies between phi and gamma
    if abs(radius - 1) > 1e-6:
        assert stability.synchronous_is_stable(eta_h, alpha, p) == (radius < 1)
        gamma, phi = stability.decay_rates(eta_h, alpha, p)
        assert max(abs(gamma), abs(phi)) == pytest.approx(radius, rel=1e-9)


@pytest.mark.parametrize(("t", "printed"), [(1, 0), (2, 0.0036), (3, 0.008784), (10, 0.0223894125), (math.inf, 0.0231092437)])
def test_s4_the_variance_of_the_centre(t, printed):
    assert stability.variance_of_centre(t, 0.3, 1.0, 0.1, 4) == pytest.approx(printed, abs=5.1e-11)


def test_s4_the_mean_of_the_centre():
    start = np.array([1, 2, -1, 0.5])
    assert stability.mean_of_centre(7, 0.3, 0.1, start, 3.0) == pytest.approx(0.4470784, abs=5e-8)
    state = np.append(start, 3.0)
    for t in range(9):
        assert stability.mean_of_centre(t, 0.3, 0.1, start, 3.0) == pytest.approx(state[-1], abs=1e-12)
        state = stability.synchronous_easgd(0.3, 0.1, 4) @ state


def test_s4_the_variance_is_that_of_a_simulation():
    rng, p, eta, alpha, runs = np.random.default_rng(0), 4, 0.3, 0.1, 40_000
    states = np.zeros((p + 1, runs))
    noise = np.vstack([np.eye(p), np.zeros(p)])
    for t in range(1, 11):
        states = stability.synchronous_easgd(eta, alpha, p) @ states + eta * noise @ rng.standard_normal((p, runs))
        expected = stability.variance_of_centre(t, eta, 1.0, alpha, p)
        assert states[-1].var() == pytest.approx(expected, rel=0.04, abs=1e-12)  # five standard errors of a variance


def test_s4_many_workers():
    assert stability.error_of_many_workers(0.3, 1.0, 0.9) == pytest.approx(0.166120, abs=5e-7)
    p = 10_000
    assert p * stability.variance_of_centre(math.inf, 0.3, 1.0, 0.9 / p, p) == pytest.approx(0.166120, rel=1e-3)


@given(st.floats(0.01, 2.5), st.floats(0.0, 1.5), st.floats(0.01, 2.5))
def test_s5_gauss_seidel(eta_h, alpha, beta):
    radius = stability.spectral_radius(stability.gauss_seidel_easgd(eta_h, alpha, beta))
    if abs(radius - 1) > 1e-6:
        assert stability.gauss_seidel_is_stable(eta_h, alpha, beta) == (radius < 1)


@pytest.mark.parametrize(
    ("eta_h", "delta", "printed"),
    [(0.01, 0.99, 0.9891), (0.1, 0.99, 0.93453), (1.0, 0.99, 0.54094), (1.5, 0.99, 1.55087), (1.5, 0.0, 0.92296)],
)
def test_s6_momentum_shrinks_the_stable_range(eta_h, delta, printed):
    digits = len(str(printed).split(".")[1])
    radius = stability.spectral_radius(stability.synchronous_eamsgd(eta_h, 0.9 / 4, 0.9, delta))
    assert radius == pytest.approx(printed, abs=0.51 * 10**-digits)


@given(st.floats(0.1, 1), st.floats(1, 10), st.floats(0, 0.9), st.floats(0, 1), st.floats(0, 1))
def test_s7_the_bound_holds_on_a_quadratic_without_noise(mu, smoothness, alpha, share, angle):
    """Two dimensions of curvature mu and L, one worker: every error after a step is within the bound of those before."""
    eta = share * 2 * (1 - alpha) / (mu + smoothness)
    beta = alpha  # p = 1
    x, centre = np.array([math.cos(angle), math.sin(angle)]), np.array([0.3, -0.7])
    bound = stability.error_bound(eta, mu, smoothness, alpha, beta)
    for _ in range(5):
        errors = np.array([x @ x, x @ x, centre @ centre])
        x, centre = x - eta * np.array([mu, smoothness]) * x - alpha * (x - centre), centre + beta * (x - centre)
        assert (np.array([x @ x, x @ x, centre @ centre]) <= bound @ errors + 1e-9).all()
