"""Particle swarm, differential evolution, CMA-ES and the controls; and what every species has in common in both spaces."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.ecosphere.rates import EcosphereRates, EoaSettings
from common.ecosphere.species import SPECIES
from common.ecosphere.species.moves import SPACES, Moment, Rules, View, rates_at
from common.ecosphere.species.pso import INERTIA, PULL
from common.ecosphere.standings import Standings
from common.parallel.populations import PopulationSpec

DRAWN = sorted(set(SPECIES) - {"hold"})  # the others are not random


def view(x, fitness, base, memory=None, damping="none", space="log", t=3, rounds=10):
    x = np.asarray(x, dtype=float)
    return View(x, np.asarray(fitness, dtype=float), base, Moment(t, rounds), Rules(damping, space), x, memory or {})


def propose(species, shown, seed=0):
    """The moves, and what is remembered."""
    return SPECIES[species].propose(shown, np.random.default_rng(seed))


def search(species, space, optimum, seed, rounds=40, workers=8, fitness=None):
    """The leader's rates while a species looks for the optimum of a quadratic in log rate, from a start around 1."""
    settings = EoaSettings("best", Rules("none", space), limited=False)
    rates = EcosphereRates([PopulationSpec(species, workers, "sgd")], 1.0, rounds, [128.0], seed, settings)
    x, leaders = rates.start, []
    for t in range(rounds):
        f = -np.square(np.log(x / optimum)) if fitness is None else fitness.random(workers)
        standings = Standings(f, x, [workers])
        leaders.append(standings.leader_rate)
        x = rates.next(t, standings, 0)
        assert x.shape == (workers,)
        assert (x >= 0).all()
        assert np.isfinite(x).all()
    return np.array(leaders)


@given(
    st.sampled_from(sorted(SPECIES)),
    st.sampled_from(SPACES),
    st.integers(1, 9),
    st.sampled_from(["none", "proportional"]),
    st.integers(0, 2**31),
)
def test_every_species_works_from_one_worker_up_and_leaves_its_view_alone(species, space, m, damping, seed):
    rng = np.random.default_rng(seed)
    memory = {}
    for t in range(4):
        rates = 10 ** rng.uniform(-3, 0, m)
        x = np.log(rates) if space == "log" else rates
        fitness = rng.choice([-np.inf, 0.1, 0.5], m)
        shown = view(x, fitness, x[0], memory, damping, space, t, 4)
        kept = {name: array.copy() for name, array in memory.items()}
        (one, memory_one), (two, memory_two) = propose(species, shown, t), propose(species, shown, t)
        np.testing.assert_array_equal(one, two, err_msg="equal views and generators have to give equal moves")
        assert one.shape == (m,)
        assert np.isfinite(rates_at(one, space)).all()
        np.testing.assert_array_equal(shown.x, x)
        for name, array in kept.items():
            np.testing.assert_array_equal(memory[name], array, err_msg="a proposal changed the memory it was shown")
        assert {n: a.tolist() for n, a in memory_one.items()} == {n: a.tolist() for n, a in memory_two.items()}
        memory = memory_one


@pytest.mark.parametrize("species", DRAWN)
@given(st.integers(0, 2**31), st.floats(0.01, 100))
def test_moves_in_log_space_scale_with_the_rates(species, seed, s):
    """No rate is special: all rates times s are moved to s times where they were moved to."""
    rng, shift = np.random.default_rng(seed), np.log(s)
    here, there = {}, {}
    for t in range(3):
        x, fitness = rng.uniform(-5, 0, 5), rng.random(5)
        moved, here = propose(species, view(x, fitness, x[0], here, t=t), t)
        shifted, there = propose(species, view(x + shift, fitness, x[0] + shift, there, t=t), t)
        np.testing.assert_allclose(shifted, moved + shift, rtol=1e-6, atol=1e-6)  # CMA-ES amplifies roundings


@pytest.mark.parametrize("species", ["gwo", "pso", "de", "cmaes", "random"])
@pytest.mark.parametrize("optimum", [30.0, 1 / 30])
def test_in_log_space_an_optimum_thirty_times_away_is_found_within_40_rounds(species, optimum):
    for seed in range(5):
        off = np.abs(np.log(search(species, "log", optimum, seed) / optimum))
        assert off.min() <= np.log(1.1), seed


@pytest.mark.parametrize(("species", "space"), [*((s, "log") for s in ("gwo", "de", "cmaes", "random")), ("gwo", "linear")])
def test_without_information_rates_drift_nowhere_in_log_space_and_wolves_to_zero_in_linear_space(species, space):
    ends = [np.log(search(species, space, 1.0, seed, fitness=np.random.default_rng(seed))[-1]) for seed in range(60)]
    four_errors = 4 * np.std(ends) / np.sqrt(len(ends))
    assert np.mean(ends) < -four_errors if space == "linear" else abs(np.mean(ends)) < four_errors


def test_particles_move_as_the_slow_formulation():
    rng = np.random.default_rng(1)
    m, memory, velocity, best, best_fitness = 5, {}, None, None, None
    for t in range(6):
        x, fitness, base = rng.uniform(-3, 0, m), rng.random(m), float(rng.uniform(-3, 0))
        numbers = np.random.default_rng(t)
        if velocity is None:
            velocity = [2 * u - 1 for u in numbers.random(m)]
            best, best_fitness = list(x), list(fitness)
        ones, twos = numbers.random(m), numbers.random(m)
        for i in range(m):
            if fitness[i] >= best_fitness[i]:
                best[i], best_fitness[i] = x[i], fitness[i]
            velocity[i] = INERTIA * velocity[i] + PULL * ones[i] * (best[i] - x[i]) + PULL * twos[i] * (base - x[i])
        moved, memory = propose("pso", view(x, fitness, base, memory), t)
        np.testing.assert_allclose(moved, [a + v for a, v in zip(x, velocity, strict=True)], rtol=1e-12)


def test_a_particle_that_stands_on_base_and_best_coasts():
    memory = {"velocity": np.array([0.5]), "best": np.array([-1.0]), "best_fitness": np.array([0.2])}
    moved, after = propose("pso", view([-1.0], [0.9], -1.0, memory))
    assert moved == pytest.approx([-1 + INERTIA * 0.5], rel=1e-15)
    assert after["best_fitness"] == 0.9


def test_a_trial_that_is_worse_than_its_parent_does_not_replace_it():
    parents = np.array([-1.0, -2.0, -3.0, -4.0])
    memory = {"parents": parents, "parent_fitness": np.full(4, 0.5)}
    fitness = [0.4, 0.5, 0.6, -np.inf]
    x = parents + 10
    _, after = propose("de", view(x, fitness, -1.0, memory))
    np.testing.assert_array_equal(after["parents"], [-1.0, 8.0, 7.0, -4.0])
    np.testing.assert_array_equal(after["parent_fitness"], [0.5, 0.5, 0.6, 0.5])


@given(st.integers(0, 2**31), st.integers(1, 9))
def test_parents_that_agree_with_the_base_have_nothing_to_differ_in_and_fewer_than_four_keep_exploring(seed, m):
    memory = {"parents": np.full(m, -2.0), "parent_fitness": np.ones(m)}
    moved, _ = propose("de", view(np.full(m, 5.0), np.zeros(m), -2.0, memory), seed)
    if m < 4:
        assert ((np.abs(moved + 2) <= 1) & (moved != -2)).all()
    else:
        np.testing.assert_allclose(moved, -2.0, rtol=1e-15)


def test_cma_samples_lie_around_the_base_and_its_width_adapts():
    shown = view(np.linspace(-1, 1, 6), -np.square(np.linspace(-1, 1, 6) - 1), 3.0)
    near, memory = propose("cmaes", shown)
    assert abs(near.mean() - 3) < 1.5
    base, fitness = 3.0, -np.square(near - 30)
    for t in range(6):  # always uphill in one direction: steps add up, and the step size grows
        base = float(near[np.argmax(fitness)])
        near, memory = propose("cmaes", view(near, fitness, base, memory), t)
        fitness = -np.square(near - 30)
    assert memory["told"].shape == (7, 6)
    assert base > 6


def test_a_lone_sample_is_drawn_around_the_base():
    draws = [propose("cmaes", view([0.0], [0.1], -2.0), s)[0][0] for s in range(300)]
    assert np.mean(draws) == pytest.approx(-2, abs=0.15)
    assert np.std(draws) == pytest.approx(0.5, abs=0.1)


def test_hold_holds_whatever_the_base():
    moved, _ = propose("hold", view([-1.0, 2.0], [0.1, 0.2], 9.0))
    assert moved.tolist() == [-1.0, 2.0]


@pytest.mark.parametrize("space", SPACES)
def test_random_rates_are_log_uniform_around_the_base_in_either_space(space):
    base = np.log(0.2) if space == "log" else 0.2
    moved, _ = propose("random", view(np.ones(4000), np.ones(4000), base, space=space))
    logs = np.log(rates_at(moved, space) / 0.2)
    assert np.abs(logs).max() <= 1
    np.testing.assert_allclose(np.quantile(logs, [0.1, 0.5, 0.9]), [-0.8, 0, 0.8], atol=0.06)


def test_what_species_remember_survives_a_checkpoint_bit_for_bit():
    specs = [PopulationSpec(s, 4, "sgd") for s in ("pso", "de", "cmaes")]
    one, two = (EcosphereRates(specs, 0.1, 9, [128.0] * 3, 0, EoaSettings(rules=Rules("none", "log"))) for _ in range(2))
    rng = np.random.default_rng(0)
    for t in range(5):
        standings = Standings(rng.choice([-np.inf, 0.3, 0.5, 0.7], 12), 10 ** rng.uniform(-3, 0, 12), [4, 4, 4])
        if t == 3:
            two.load_state(json.loads(json.dumps(one.state())))
        for p in range(3):
            moved = one.next(t, standings, p)
            if t >= 3:
                np.testing.assert_array_equal(two.next(t, standings, p), moved)
