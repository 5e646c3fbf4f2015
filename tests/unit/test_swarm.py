"""A particle's move against a slow loop, its coefficients, its memory, and the theory of a swarm at rest."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.elastic_theory import spectral_radius
from common.coupling.swarm_rules import (
    MEMORIES,
    MOTIONS,
    RANDS,
    Best,
    Motion,
    draw,
    is_global_best,
    is_personal_best,
    limits,
    move,
    second_moments,
)

sizes_of_tensors = st.lists(st.integers(1, 7), min_size=1, max_size=4)
weights = st.floats(0, 2)


def largest_sum(w: float) -> float:
    """c1 + c2 below which `second_moments` is stable, for c1 = c2 and |w| < 1. Poli 2009."""
    return 24 * (1 - w * w) / (7 - 5 * w)


def places(n, seed, count=4):
    """x, v, P, G and so on, float64."""
    return list(torch.from_numpy(np.random.default_rng(seed).normal(size=(count, n))))


def slow_move(x, v, personal, best, c, r1, r2, limit):
    """(5) to (7), one coordinate after the other."""
    w, c1, c2 = c
    for i in range(len(x)):
        pull = c1 * r1[i % len(r1)] * (personal[i] - x[i]) + c2 * r2[i % len(r2)] * (best[i] - x[i])
        v[i] = w * v[i] + pull
        if limit is not None:
            v[i] = min(max(v[i], -limit[i % len(limit)]), limit[i % len(limit)])
        x[i] += v[i]


@given(sizes_of_tensors, st.integers(0, 99), st.sampled_from(RANDS), weights, weights, weights, st.sampled_from([0, 0.1, 1.0]))
def test_a_move_is_that_of_a_slow_loop(sizes, seed, rand, w, c1, c2, v_max):
    """T5 and T7 are cases of it: both pulls alone where w = 0, and w times the velocity without the pulls."""
    x, v, personal, best = places(sum(sizes), seed)
    rng = np.random.default_rng(seed)
    r1, r2 = draw(rand, sizes, rng).double(), draw(rand, sizes, rng).double()
    limit = limits(x, v_max, "absolute", sizes)
    expected = [t.numpy().copy() for t in (x, v)]
    slow_move(*expected, personal.numpy(), best.numpy(), (w, c1, c2), r1.numpy(), r2.numpy(), limit)
    move(x, v, personal, best, (w, c1, c2), r1, r2, limit)
    np.testing.assert_allclose(x.numpy(), expected[0], rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(v.numpy(), expected[1], rtol=1e-12, atol=1e-12)
    if v_max:
        assert v.abs().max() <= v_max


@given(st.integers(1, 20), st.integers(0, 99), st.floats(0, 1), st.floats(0, 1), st.data())
def test_without_inertia_a_particle_stays_in_the_hull_of_x_p_and_g(n, seed, c1, share, data):
    """T4: c1 + c2 <= 1."""
    x, v, personal, best = places(n, seed)
    rand = data.draw(st.sampled_from(RANDS))
    rng = np.random.default_rng(seed)
    corners = torch.stack([x, personal, best])
    low, high = corners.min(0).values, corners.max(0).values
    c = (0.0, c1, share * (1 - c1))
    move(x, v, personal, best, c, draw(rand, [n], rng).double(), draw(rand, [n], rng).double())
    assert (x >= low - 1e-12).all()
    assert (x <= high + 1e-12).all()


@given(sizes_of_tensors, st.integers(0, 99), st.floats(0.01, 2))
def test_velocity_limits_in_units_of_a_tensors_root_mean_square(sizes, seed, v_max):
    (x,) = places(sum(sizes), seed, 1)
    for limit, part in zip(limits(x, v_max, "rms", sizes).split(sizes), x.split(sizes), strict=True):
        np.testing.assert_allclose(limit.numpy(), v_max * np.sqrt(np.mean(part.numpy() ** 2)))
    assert limits(x, 0.0, "rms", sizes) is None


@given(sizes_of_tensors, st.integers(0, 99))
def test_factors_are_drawn_as_often_as_they_should(sizes, seed):
    for rand, kinds in (("element", sum(sizes)), ("tensor", len(sizes)), ("scalar", 1)):
        r = draw(rand, sizes, np.random.default_rng(seed))
        assert r.shape == ((1,) if rand == "scalar" else (sum(sizes),))
        assert r.dtype == torch.float32
        assert ((r >= 0) & (r < 1)).all()
        assert len(set(r.tolist())) == kinds
        assert torch.equal(r, draw(rand, sizes, np.random.default_rng(seed)))
    by_tensor = draw("tensor", sizes, np.random.default_rng(seed)).split(sizes)
    assert all(len(set(part.tolist())) == 1 for part in by_tensor)


def test_element_factors_are_uniform():
    r = draw("element", [100_000], np.random.default_rng(0)).double()
    assert r.mean().item() == pytest.approx(0.5, abs=0.005)
    assert r.var().item() == pytest.approx(1 / 12, abs=0.002)


def test_the_presets():
    """T10, and the table of the presets."""
    clerc = MOTIONS["clerc"]
    assert (clerc.inertia, clerc.inertia_end) == pytest.approx([0.7298438] * 2, abs=1e-7)
    assert (clerc.cognitive, clerc.social) == pytest.approx([1.4961798] * 2, abs=1e-7)
    assert clerc.cognitive + clerc.social < largest_sum(clerc.inertia) == pytest.approx(3.3472, abs=1e-4)
    assert MOTIONS["hull"] == Motion(0.0, 0.0, 0.25, 0.75)
    shi, oz = MOTIONS["shi"], MOTIONS["oz"]
    assert (shi.inertia, shi.inertia_end, shi.cognitive, shi.social) == (0.9, 0.4, 2.0, 2.0)
    assert shi.v_max > 0, "it is not stable by itself"
    assert (oz.inertia, oz.cognitive, oz.social, oz.decay, oz.rand) == (0.9, 0.08, 0.5, True, "tensor")
    assert [m.rand for m in (MOTIONS["hull"], clerc, shi)] == ["element"] * 3


@given(st.integers(1, 50), st.data())
def test_inertia_falls_linearly_and_pulls_decay_where_they_are_to(rounds, data):
    k = data.draw(st.integers(1, rounds))
    assert MOTIONS["shi"].at(k, rounds) == (pytest.approx(0.9 - 0.5 * k / rounds), 2.0, 2.0)
    assert MOTIONS["shi"].at(rounds, rounds)[0] == pytest.approx(0.4)
    w, *pulls = MOTIONS["oz"].at(k, rounds)
    assert w == 0.9
    assert pulls == pytest.approx([c * (1 - 1 / rounds) ** k for c in (0.08, 0.5)])
    assert MOTIONS["hull"].at(k, rounds) == (0.0, 0.25, 0.75)


def test_when_a_place_is_remembered():
    cases = [(fitness, 2.0) for fitness in (1.0, 2.0, 3.0, math.inf)]  # better, equal, worse, lost
    assert [[is_personal_best(m, *c) for c in cases] for m in MEMORIES] == [
        [True, False, False, False],
        [True, False, False, False],
        [True, True, True, True],
    ]
    assert [[is_global_best(m, *c) for c in cases] for m in MEMORIES] == [
        [True, False, False, False],
        [True, True, True, False],
        [True, True, True, False],
    ]
    first = (2.0, math.inf)
    assert all(rule(m, *first) for rule in (is_personal_best, is_global_best) for m in MEMORIES)


def test_a_best_place_is_a_copy():
    x = torch.zeros(3)
    best = Best(x)
    assert best.fitness == math.inf
    x.fill_(1.0)
    assert best.place.tolist() == [0, 0, 0]
    best.take(x, 0.25)
    x.fill_(2.0)
    assert (best.place.tolist(), best.fitness) == ([1, 1, 1], 0.25)


def at_rest(w, c1, c2, moves, start=1.0, target=(0.0, 0.0), particles=200_000):
    """Places of many particles of one dimension after each move, P and G at rest; shape (moves + 1, particles)."""
    x, v = torch.full((particles,), start, dtype=torch.float64), torch.zeros(particles, dtype=torch.float64)
    personal, best = (torch.full_like(x, t) for t in target)
    rng, path = np.random.default_rng(5), [x.clone()]
    for _ in range(moves):
        r1, r2 = (draw("element", [particles], rng).double() for _ in range(2))
        move(x, v, personal, best, (w, c1, c2), r1, r2)
        path.append(x.clone())
    return torch.stack(path).numpy()


@pytest.mark.parametrize(("w", "c1", "c2"), [(0.0, 0.25, 0.75), (0.5, 0.6, 0.3), (0.7298, 1.49618, 1.49618)])
def test_the_mean_of_a_swarm_at_rest_goes_where_theory_says(w, c1, c2):
    """T8."""
    target = (1.0, -2.0)
    limit, phi = (c1 * target[0] + c2 * target[1]) / (c1 + c2), (c1 + c2) / 2
    mean = [1.0, 1.0]  # x_{-1} = x_0: v = 0
    for found in at_rest(w, c1, c2, 8, target=target)[1:].mean(axis=1):
        mean.append((1 + w - phi) * mean[-1] - w * mean[-2] + phi * limit)
        assert found == pytest.approx(mean[-1], abs=0.05)
    for _ in range(500):
        mean.append((1 + w - phi) * mean[-1] - w * mean[-2] + phi * limit)
    assert mean[-1] == pytest.approx(limit)


@pytest.mark.parametrize(("w", "c"), [(0.0, 1.5), (0.5, 1.8), (0.7298, 1.49618), (0.9, 0.7)])
def test_second_moments_of_many_particles_follow_their_matrix(w, c):
    """T9: by simulation."""
    path = at_rest(w, c, c, 4)
    moments = np.array([1.0, 1.0, 1.0])
    for before, now in pairwise(path):
        moments = second_moments(w, c, c) @ moments
        found = [np.mean(now**2), np.mean(now * before), np.mean(before**2)]
        np.testing.assert_allclose(found, moments, rtol=0.05, atol=0.01)


@pytest.mark.parametrize(("w", "c"), [(0.0, 1.71429), (0.5, 2.0), (0.7298, 1.67374), (0.9, 0.912)])
def test_the_variance_is_bounded_exactly_below_polis_bound(w, c):
    """T9: at 0.99 and 1.01 of it."""
    assert largest_sum(w) / 2 == pytest.approx(c, abs=5e-6)
    radii = [spectral_radius(second_moments(w, f * c, f * c)) for f in (0.99, 1.01)]
    assert radii[0] < 1 < radii[1]
