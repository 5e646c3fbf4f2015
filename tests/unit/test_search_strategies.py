"""Grid, random search and both evolutions, against closed forms and the toy objective of the reference project."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.search.search import Limits, Search
from common.search.simulation import log_normal, play
from common.search.space import Space, key_of
from common.search.steady_state import FREE, STEP, Order, Steady, breed, reflect, tournament
from common.search.strategies import Evolution, Grid, Random, mutate, mutation_deviations
from common.search.tpe import Tpe
from common.search.trial import State, Trial, best_first

NUMBER = {"kind": "float", "low": 1e-4, "high": 1 - 1e-4}
UNIT = {"kind": "float", "low": 0.0, "high": 1.0}
CUBE = Space.of(dict.fromkeys(("lr", "dr", "mmt"), NUMBER))
MIXED = Space.of(
    {
        "kind": {"kind": "categorical", "choices": ["a", "b", "c"]},
        "x": {**UNIT, "when": {"kind": ["a", "b"]}},
        "n": {"kind": "int", "low": 1, "high": 9},
        "y": {"kind": "float", "low": 0.001, "high": 1.0, "scale": "log"},
    }
)


def toy(target):
    """The reference project's own test: optimum 100 at the target."""
    a, b, c = target
    return lambda s: 100 * (1 - (s["lr"] - a) ** 2 - (s["dr"] - b) ** 4 - (s["mmt"] - c) ** 2)


def searched(strategy, seed=0, trials=64, workers=1, value=None, spread=0.5):
    """A search on the simulated clock, to its end."""
    costs = log_normal(np.random.default_rng(seed), trials, spread)
    search = Search(strategy, Limits(trials), workers, seed)
    play(search, lambda trial: float(costs[trial.id]), value or toy(np.random.default_rng(seed).random(3)))
    return search


def is_near(share, expected, n):
    """Whether a share of n draws lies within five standard deviations of its expectation."""
    return abs(share - expected) < 5 * math.sqrt(expected * (1 - expected) / n)


def complete(settings, values):
    return [Trial(i, s, state=State.COMPLETE, value=v) for i, (s, v) in enumerate(zip(settings, values, strict=True))]


class TestEvolution:
    def test_budget_population_and_best_so_far(self):
        """|A| = mu (G + 1), nothing twice, and every child's parent was among the best four of the generations before."""
        trials = searched(Evolution(CUBE)).trials
        assert len({key_of(t.setting) for t in trials}) == len(trials) == 4 * 16
        for first in range(4, 64, 4):
            population = {t.id for t in best_first(trials[:first])[:4]}
            assert all(len(t.parents) == 1 and t.parents[0] in population for t in trials[first : first + 4])
        best = np.maximum.accumulate([t.value for t in trials])
        assert best[-1] == max(t.value for t in trials)
        ranked = best_first(trials)
        assert [t.value for t in ranked] == sorted((t.value for t in trials), reverse=True)

    @pytest.mark.parametrize(("genes", "probability"), [(3, 0.488), (2, 0.360)])
    def test_how_often_a_child_differs(self, genes, probability):
        """1 - (1 - p_m)^d for parents strictly inside the bounds."""
        space = Space.of({f"v{k}": UNIT for k in range(genes)})
        parent, rng, n = {f"v{k}": 0.5 for k in range(genes)}, np.random.default_rng(3), 4000
        changed = sum(mutate(space, parent, {f"v{k}": 0.05 for k in range(genes)}, 0.2, rng) != parent for _ in range(n))
        assert is_near(changed / n, probability, n)

    def test_a_choice_may_be_drawn_again(self):
        """A gene with n choices changes with p_m (1 - 1/n)."""
        space = Space.of({"c": {"kind": "categorical", "choices": ["a", "b", "c", "d"]}})
        rng, n = np.random.default_rng(4), 6000
        changed = sum(mutate(space, {"c": "a"}, {}, 0.2, rng)["c"] != "a" for _ in range(n))
        assert is_near(changed / n, 0.2 * 3 / 4, n)

    def test_a_parent_on_a_bound_is_clipped_back_half_the_time(self):
        space, rng, n = Space.of({"v": UNIT}), np.random.default_rng(5), 2000
        stayed = sum(mutate(space, {"v": 1.0}, {"v": 0.1}, 1.0, rng)["v"] == 1.0 for _ in range(n))
        assert is_near(stayed / n, 0.5, n)

    def test_the_deviation_is_the_root_of_the_standard_deviation(self):
        space = Space.of({"v": UNIT})
        assert mutation_deviations(space, [{"v": 0.25}, {"v": 0.75}] * 2) == {"v": 0.5}, "std 0.25"
        assert mutation_deviations(space, [{"v": 0.3}] * 4) == {"v": 0.01}

    def test_children_are_a_uniform_sample_of_what_was_found(self):
        """With p_m = 1 every parent gives a child each time: each of four parents is equally often behind a first child."""
        parents = complete([{"lr": v, "dr": v, "mmt": v} for v in (0.2, 0.4, 0.6, 0.8)], [1, 1, 1, 1])
        keys = {key_of(p.setting) for p in parents}
        rng, n = np.random.default_rng(6), 1000
        firsts = [Evolution(CUBE, mutation=1.0).children(parents, keys, rng)[0].parents[0] for _ in range(n)]
        assert all(is_near(firsts.count(parent) / n, 1 / 4, n) for parent in range(4))


class TestSteady:
    def test_nothing_is_tried_twice_not_even_while_it_is_running(self):
        search = searched(Steady(CUBE, order=FREE), trials=80, workers=7)
        assert len({key_of(t.setting) for t in search.trials}) == 80

    def test_parents_are_among_the_best_of_what_is_known(self):
        search = searched(Steady(CUBE, 4, Order(5)), trials=60, workers=3)
        bred = [t for t in search.trials if t.parents]
        assert len(bred) > 30
        for trial in bred:
            pool = {t.id for t in best_first(search.trials[: trial.id - 4])[:4]}
            assert set(trial.parents) <= pool

    def test_a_tournament_of_two(self):
        """The better of two draws from n: member k wins with (2 (n - k) - 1) / n^2."""
        pool, rng, n = complete([{}] * 4, [4.0, 3.0, 2.0, 1.0]), np.random.default_rng(1), 20000
        wins = np.bincount([tournament(pool, rng).id for _ in range(n)], minlength=4) / n
        assert all(is_near(share, k / 16, n) for share, k in zip(wins, (7, 5, 3, 1), strict=True))

    def test_genes_come_from_the_second_parent_with_0_7_and_one_is_redrawn_with_0_4(self):
        """Of d choices among m values the parents' are 0 and 1: (1 - 0.4/d) 0.7 + 0.4/(d m) are 1, 0.4/d (1 - 2/m) neither."""
        d, m, n = 4, 50, 6000
        space = Space.of({f"c{k}": {"kind": "categorical", "choices": list(range(m))} for k in range(d)})
        first, second = dict.fromkeys(space.names, 0), dict.fromkeys(space.names, 1)
        rng = np.random.default_rng(2)
        children = np.array([list(breed(space, first, second, rng).values()) for _ in range(n)])
        assert is_near(np.mean(children == 1), (1 - 0.4 / d) * 0.7 + 0.4 / (d * m), n * d)
        assert is_near(np.mean(children > 1), 0.4 / d * (1 - 2 / m), n * d)
        assert max((children > 1).sum(axis=1)) == 1, "one gene at most"

    def test_every_number_takes_a_step(self, monkeypatch):
        monkeypatch.setattr("common.search.steady_state.REDRAWN", 0.0)
        space, rng = Space.of({"v": UNIT}), np.random.default_rng(3)
        steps = np.array([breed(space, {"v": 0.5}, {"v": 0.5}, rng)["v"] - 0.5 for _ in range(4000)])
        assert STEP == 0.05
        assert abs(steps.mean()) < 5 * 0.05 / math.sqrt(4000)
        assert steps.std() == pytest.approx(0.05, rel=5 / math.sqrt(2 * 4000))

    def test_a_tenth_is_fresh_once_there_is_a_population(self):
        """Trial i knows those up to i - W, so the first that can be bred is trial mu + W - 1."""
        search = searched(Steady(CUBE, 4, Order(5)), trials=1500, workers=3)
        assert not any(t.parents for t in search.trials[:8])
        fresh = np.mean([not t.parents for t in search.trials[8:]])
        assert is_near(fresh, 0.1, 1492)
        assert any(t.parents for t in search.trials[8:10])

    @given(st.floats(-5, 5))
    def test_reflection_stays_inside_and_is_the_identity_there(self, u):
        assert 0 <= reflect(u) <= 1
        assert reflect(-u) == reflect(u)
        if 0 <= u <= 1:
            assert reflect(u) == u

    def test_mirrors_pile_nothing_up_at_the_bounds(self, monkeypatch):
        """|step| of a parent on the bound: half-normal, of mean 0.05 sqrt(2 / pi)."""
        monkeypatch.setattr("common.search.steady_state.REDRAWN", 0.0)
        space, rng = Space.of({"v": UNIT}), np.random.default_rng(7)
        values = np.array([breed(space, {"v": 1.0}, {"v": 1.0}, rng)["v"] for _ in range(2000)])
        assert sum(values == 1.0) < 5
        assert np.mean(1 - values) == pytest.approx(0.05 * math.sqrt(2 / math.pi), abs=5 * 0.03 / math.sqrt(2000))

    @given(st.integers(0, 2**32 - 1))
    def test_a_gene_is_there_if_and_only_if_it_exists_in_the_child(self, seed):
        rng = np.random.default_rng(seed)
        child = breed(MIXED, MIXED.draw(rng), MIXED.draw(rng), rng)
        assert ("x" in child) is (child["kind"] != "c")
        assert set(child) - {"x"} == {"kind", "n", "y"}


class TestAll:
    @pytest.mark.parametrize("kind", [Evolution, Steady])
    def test_a_used_up_space_ends_the_search(self, kind):
        space = Space.of({"n": {"kind": "int", "low": 1, "high": 10}})
        search = searched(kind(space), trials=64, workers=2, value=lambda s: s["n"])
        assert sorted(t.setting["n"] for t in search.trials) == list(range(1, 11))
        assert search.exhausted
        assert search.is_over

    @pytest.mark.parametrize(
        ("strategy", "mean", "error"),
        [(Evolution, 99.44, 0.04), (Random, 98.74, 0.03), (Grid, 98.51, 0.03)],
        ids=["evolution", "random", "grid"],
    )
    def test_mean_best_of_64_on_the_toy_objective(self, strategy, mean, error):
        """The means of 1500 repeats, with their standard errors; a band of five of ours and theirs together."""
        best = np.array([searched(strategy(CUBE), seed).best.value for seed in range(200)])
        own = max(best.std(ddof=1), error * math.sqrt(1500)) / math.sqrt(len(best))
        assert abs(best.mean() - mean) < 5 * math.hypot(own, error)

    def test_random_search_hits_the_best_twentieth_with_0_962(self):
        """P = 1 - (1 - q)^64."""
        hits = [any(t.setting["lr"] > 0.95 for t in searched(Random(CUBE), seed).trials) for seed in range(250)]
        expected = 1 - 0.95**64
        assert expected == pytest.approx(0.962, abs=1e-3)
        assert is_near(np.mean(hits), expected, 250)

    def test_a_grid_is_shuffled_and_complete(self):
        trials = searched(Grid(CUBE), trials=100).trials
        assert len({key_of(t.setting) for t in trials}) == len(trials) == 64
        fewer = searched(Grid(CUBE), trials=10).trials
        assert [t.setting for t in fewer] == [t.setting for t in trials[:10]]
        assert [t.setting for t in trials] != sorted((t.setting for t in trials), key=lambda s: list(s.values()))

    @pytest.mark.parametrize("kind", [Grid, Random, Evolution, Steady, Tpe])
    def test_a_seed_settles_the_first_proposals_on_any_number_of_workers(self, kind):
        many = [searched(kind(MIXED), 5, 12, workers, value=lambda s: s["y"]).trials for workers in (1, 3)]
        assert [t.setting for t in many[0]] == [t.setting for t in many[1]]
        other = searched(kind(MIXED), 6, 12, 3, value=lambda s: s["y"]).trials
        assert [t.setting for t in other] != [t.setting for t in many[0]]
        assert len({key_of(t.setting) for t in many[1]}) == 12, "no two workers draw the same"

    def test_tpe_finds_the_better_choice(self):
        """The value tells choices apart by one, and numbers hardly: later proposals are mostly of the best choice."""
        trials = searched(Tpe(MIXED, Order(2)), 1, 40, 2, lambda s: float(s["kind"] == "b") + 0.01 * s["y"]).trials
        assert sum(t.setting["kind"] == "b" for t in trials[20:]) > 12
