"""Stability theory of elastic averaging on a quadratic F(x) = h x^2 / 2: maps, stability conditions, moments of the center
variable. For benchmarks/stability.py, and for the tests of the update rules.

Notation of the paper (arXiv 1412.6651v8): p workers x^1..x^p and the centre x~, learning rate eta, penalty rho, moving rate
alpha = eta rho, centre moving rate beta = p alpha, momentum delta, curvature h. Maps act on column vectors; everything is
float64 numpy and pure.
"""

import math
from functools import reduce

import numpy as np


def spectral_radius(matrix: np.ndarray) -> float:
    """Largest modulus of an eigenvalue; a linear map is stable where it is below 1."""
    return float(np.abs(np.linalg.eigvals(matrix)).max())


def _in_turn(maps: list[np.ndarray]) -> np.ndarray:
    """Product of the maps of one round; the first map acts first."""
    return reduce(lambda done, following: following @ done, maps)


def round_robin_easgd(eta: float, alpha: float, p: int) -> np.ndarray:
    """One round of round-robin EASGD with h = 1 on (x^1, ..., x^p, x~), shape (p+1, p+1). Section 4.

    Each worker's map is the identity but for [[1 - eta - alpha, alpha], [alpha, 1 - alpha]] on (x^i, x~), which is symmetric:
    a product of symmetric contractions is stable. For curvature h replace eta by eta h.
    """
    maps = []
    for i in range(p):
        step = np.eye(p + 1)
        step[i, i], step[i, p], step[p, i], step[p, p] = 1 - eta - alpha, alpha, alpha, 1 - alpha
        maps.append(step)
    return _in_turn(maps)


def largest_stable_alpha(eta: float) -> float:
    """alpha*(eta) = (4 - 2 eta) / (4 - eta): round-robin EASGD is stable for 0 <= eta <= 2, 0 <= alpha <= alpha*, any p."""
    return (4 - 2 * eta) / (4 - eta)


def round_robin_admm(eta: float, rho: float, p: int) -> np.ndarray:
    """One round of round-robin ADMM with h = 1 on (lambda^1, x^1, ..., lambda^p, x^p, x~), shape (2p+1, 2p+1). Section 4.

    Worker i: lambda^i -= x^i - x~, then x^i = (x^i - eta x^i + eta rho (lambda^i + x~)) / (1 + eta rho), then the centre
    becomes the mean of x^j - lambda^j over all workers. Each map has a spectral radius of at most 1; the round may exceed 1.
    """
    size = 2 * p + 1
    maps = []
    for i in range(p):
        multiplier, primal, centre = np.eye(size), np.eye(size), np.eye(size)
        multiplier[2 * i, 2 * i + 1], multiplier[2 * i, -1] = -1, 1
        pull = eta * rho
        primal[2 * i + 1, [2 * i, 2 * i + 1, -1]] = pull / (1 + pull), (1 - eta) / (1 + pull), pull / (1 + pull)
        centre[-1] = np.append(np.tile([-1 / p, 1 / p], p), 0)
        maps += [multiplier, primal, centre]
    return _in_turn(maps)


def synchronous_easgd(eta_h: float, alpha: float, p: int) -> np.ndarray:
    """One step of synchronous EASGD (Jacobi form, eqs. 3-6) on (x^1, ..., x^p, x~), shape (p+1, p+1)."""
    matrix = np.diag(np.append(np.full(p, 1 - alpha - eta_h), 1 - p * alpha))
    matrix[:p, p] = matrix[p, :p] = alpha
    return matrix


def decay_rates(eta_h: float, alpha: float, p: int) -> tuple[complex, complex]:
    """(gamma, phi) of Lemma 7.1: the eigenvalues with which the mean of the workers and the centre decay."""
    a = eta_h + (p + 1) * alpha
    root = np.sqrt(complex(a * a - 4 * eta_h * p * alpha))
    return 1 - (a - root) / 2, 1 - (a + root) / 2


def synchronous_is_stable(eta_h: float, alpha: float, p: int) -> bool:
    """Lemma 7.1's condition -1 < phi < gamma < 1, written without roots."""
    beta = p * alpha
    return eta_h > 0 and alpha > 0 and (2 - eta_h) * (2 - beta) > 2 * beta / p and (2 - eta_h) + (2 - beta) > beta / p


def mean_of_centre(t: int, eta_h: float, alpha: float, workers: np.ndarray, centre: float) -> float:
    """E x~_t from the start (x^1_0, ..., x^p_0), x~_0, with x* = 0. Lemma 7.1."""
    p = len(workers)
    gamma, phi = decay_rates(eta_h, alpha, p)
    u0 = sum(x - alpha * centre / (1 - p * alpha - phi) for x in workers)
    return float((gamma**t * centre + (gamma**t - phi**t) / (gamma - phi) * alpha * u0).real)


def variance_of_centre(t: float, eta: float, h: float, alpha: float, p: int, sigma: float = 1.0) -> float:
    """V x~_t with gradients h x - xi, Var xi = sigma^2; t may be infinite. Lemma 7.1."""
    gamma, phi = decay_rates(eta * h, alpha, p)

    def power(base: complex) -> complex:
        """base**t, 0 for infinite t, where gamma and phi have moduli below 1."""
        return 0 if math.isinf(t) else base**t

    bracket = (
        (gamma**2 - power(gamma**2)) / (1 - gamma**2)
        + (phi**2 - power(phi**2)) / (1 - phi**2)
        - 2 * (gamma * phi - power(gamma * phi)) / (1 - gamma * phi)
    )
    return float(((p * alpha * eta / (gamma - phi)) ** 2 * bracket).real * sigma**2 / p)


def error_of_many_workers(eta: float, h: float, beta: float, sigma: float = 1.0) -> float:
    """p E (x~ - x*)^2 in the limit of many steps and workers at a fixed beta. Section 7.1."""
    a, b = eta * h, beta
    return b * a / ((2 - b) * (2 - a)) * (2 - b - a + b * a) / (b + a - b * a) * sigma**2 / h**2


def gauss_seidel_easgd(eta_h: float, alpha: float, beta: float) -> np.ndarray:
    """One step of Gauss-Seidel EASGD on (mean x, x~), shape (2, 2): the centre moves first, workers see the new one."""
    return np.array([[1 - eta_h - alpha + alpha * beta, alpha * (1 - beta)], [beta, 1 - beta]])


def gauss_seidel_is_stable(eta_h: float, alpha: float, beta: float) -> bool:
    """Jury's conditions for `gauss_seidel_easgd`."""
    return eta_h * beta > 0 and (2 - eta_h) * (2 - beta) - 2 * alpha * (1 - beta) > 0 and (1 - beta) * (1 - eta_h - alpha) < 1


def synchronous_eamsgd(eta_h: float, alpha: float, beta: float, delta: float) -> np.ndarray:
    """One step of synchronous EAMSGD with tau = 1 on (mean x, mean v, x~), shape (3, 3); the elastic pull never enters v."""
    look = delta * (1 - eta_h)
    return np.array([[1 - eta_h - alpha, look, alpha], [-eta_h, look, 0], [beta, 0, 1 - beta]])


def error_bound(eta: float, mu: float, smoothness: float, alpha: float, beta: float) -> np.ndarray:
    """The matrix of Theorem 7.1 on (E |mean x - x*|^2, mean_i E |x^i - x*|^2, E |x~ - x*|^2), shape (3, 3).

    For mu-strongly convex F with `smoothness` L, 0 <= eta <= 2 (1 - alpha) / (mu + L), 0 <= alpha < 1, 0 <= beta <= 1; noise
    adds (eta^2 sigma^2 / p, eta^2 sigma^2, 0).
    """
    total = mu + smoothness
    first = 2 * eta * mu * smoothness / total
    second = 2 * eta * smoothness * (1 - 2 * math.sqrt(mu * smoothness) / total)
    return np.array([[1 - first - second - alpha, second, alpha], [0, 1 - first - alpha, alpha], [beta, 0, 1 - beta]])
