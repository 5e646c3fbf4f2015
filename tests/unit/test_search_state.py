"""Assignment of trials on the simulated clock, and recovery from a kill at any event."""

import contextlib
import itertools
import json
import math
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import UsageError
from common.search.coordinator import Broken, Coordinator, Ready, Report, Result
from common.search.journal import JOURNAL, Journal
from common.search.pruning import Median
from common.search.search import Limits, Search, split_evenly
from common.search.simulation import Generations, Queue, log_normal, play, speed_up, utilisation
from common.search.space import Space
from common.search.steady_state import FREE, Order, Steady
from common.search.strategies import Evolution, Grid, Known, Random
from common.search.tpe import Tpe
from common.search.trial import State
from common.seeding import Purpose, stream

SPACE = Space.of(
    {
        "kind": {"kind": "categorical", "choices": ["a", "b"]},
        "x": {"kind": "float", "low": 0.001, "high": 1.0, "scale": "log"},
        "y": {"kind": "float", "low": 0.0, "high": 1.0, "when": {"kind": "a"}},
    }
)
STRATEGIES = {
    "grid": Grid(SPACE),
    "random": Random(SPACE),
    "evolution": Evolution(SPACE),
    "async-evolution": Steady(SPACE, 4, Order(5)),
    "tpe": Tpe(SPACE, Order(5)),
}
each_strategy = pytest.mark.parametrize("name", STRATEGIES)


def value(setting):
    return -abs(math.log(setting["x"]) + 2) + 0.1 * setting.get("y", 0.3)


def outcome(search):
    """What does not depend on time."""
    return [(t.id, t.setting, t.value, str(t.state), t.curve, t.parents) for t in search.trials]


def costs_of(n, seed):
    costs = log_normal(np.random.default_rng(seed), n, 0.7)
    return lambda trial: float(costs[trial.id])


def search_of(name, trials=16, workers=3, **options):
    return Search(STRATEGIES[name], Limits(trials), workers, **{"seed": 4, **options})


@given(st.integers(0, 300), st.integers(1, 40))
def test_slices_are_disjoint_cover_all_and_are_nearly_equal(n, parts):
    slices = split_evenly(n, parts)
    assert [k for part in slices for k in part] == list(range(n))
    assert max(map(len, slices)) - min(map(len, slices)) <= 1
    assert [len(s) for s in split_evenly(64, 3)] == [21, 21, 22]


class TestTime:
    @given(st.integers(1, 12), st.integers(1, 9), st.integers(1, 60))
    def test_static_with_unit_costs(self, size, workers, n):
        """T_P = sum over generations of ceil(lambda_g / P)."""
        generations = [min(size, n - first) for first in range(0, n, size)]
        assert n / speed_up(Generations(size), [1.0] * n, workers) == sum(math.ceil(g / workers) for g in generations)

    @pytest.mark.parametrize(("n", "workers", "speed"), [(4, 3, 2.0), (6, 4, 3.0), (64, 3, 2.909), (81, 4, 3.857)])
    def test_static_where_ranks_do_not_divide(self, n, workers, speed):
        assert speed_up(Generations(n), [1.0] * n, workers) == pytest.approx(speed, abs=1e-3)

    @given(st.lists(st.floats(0.01, 20), min_size=1, max_size=60), st.integers(1, 9))
    def test_dynamic_is_within_the_bound_of_list_scheduling(self, costs, workers):
        took = sum(costs) / speed_up(Queue(), costs, workers)
        assert took <= sum(costs) / workers + (1 - 1 / workers) * max(costs) + 1e-9
        assert took >= max(max(costs), sum(costs) / workers) - 1e-9

    @pytest.mark.parametrize("place", range(13))
    def test_one_long_trial_among_twelve(self, place):
        costs = [1.0] * place + [10.0] + [1.0] * (12 - place)
        assert 22 / speed_up(Generations(4), costs, 4) == 13
        took = 22 / speed_up(Queue(), costs, 4)
        assert took == {0: 10, 12: 13}.get(place, took)
        assert 10 <= took <= 22 / 4 + 0.75 * 10

    @pytest.mark.parametrize(
        ("spread", "four", "sixteen", "dynamic"),
        [(0.1, 3.62, 3.80, 3.91), (0.25, 3.15, 3.53, 3.89), (0.5, 2.60, 3.16, 3.86), (1.0, 2.00, 2.62, 3.73)],
    )
    def test_the_speed_up_of_64_trials_on_four_ranks(self, spread, four, sixteen, dynamic):
        rng = np.random.default_rng(0)
        kinds = [(Generations(4), four), (Generations(16), sixteen), (Queue(), dynamic)]
        for strategy, expected in kinds:
            speeds = [speed_up(strategy, log_normal(rng, 64, spread), 4) for _ in range(60)]
            band = 5 * np.std(speeds, ddof=1) / math.sqrt(60) + 0.005
            assert abs(np.mean(speeds) - expected) < band

    @pytest.mark.parametrize("workers", [2, 4, 8])
    def test_exponential_costs_one_to_a_rank(self, workers):
        """The mean of P costs over that of their maximum: P / H_P, 1.92 on four ranks."""
        generations = 4000
        costs = np.random.default_rng(workers).exponential(size=workers * generations)
        expected = workers / sum(1 / k for k in range(1, workers + 1))
        assert speed_up(Generations(workers), list(costs), workers) == pytest.approx(expected, rel=5 / math.sqrt(generations))

    @pytest.mark.parametrize(("workers", "lag", "expected"), [(4, 4, 3.09), (4, 16, 3.96), (16, 32, 13.7)])
    def test_what_waiting_for_others_costs(self, workers, lag, expected):
        rng = np.random.default_rng(1)
        speeds = [speed_up(Queue(Order(lag)), log_normal(rng, 256, 0.5), workers) for _ in range(20)]
        assert np.mean(speeds) == pytest.approx(expected, rel=0.03)

    def test_utilisation_is_the_busy_share_of_the_record(self):
        search = Search(Queue(), Limits(13), 4)
        took = play(search, lambda trial: 10.0 if trial.id == 12 else 1.0)
        assert (took, utilisation(search)) == (13, pytest.approx(22 / (4 * 13)))
        rows = sorted((t.worker, t.start, t.end) for t in search.trials)
        assert all(a[0] != b[0] or a[2] <= b[1] for a, b in itertools.pairwise(rows)), "a worker evaluates one trial at a time"


class TestOrder:
    @each_strategy
    def test_results_depend_neither_on_the_number_of_workers_nor_on_timing(self, name):
        searches = [search_of(name, 22, workers) for workers in (1, 2, 4, 5)]
        for seed, search in enumerate(searches):
            play(search, costs_of(22, seed), value)
            assert outcome(search) == outcome(searches[0])

    @pytest.mark.parametrize("kind", [Steady, Tpe])
    def test_a_free_search_is_replayed_from_its_journal(self, kind):
        """Every proposal is the strategy's for the trials that ended before it in the journal."""
        events = []
        strategy = kind(SPACE, order=FREE)
        search = Search(strategy, Limits(25), 4, seed=3, log=events.append)
        play(search, costs_of(25, 0), value)
        replayed = Search(strategy, Limits(25), 4, seed=3)
        for event in events:
            if event["event"] == "propose":
                i = event["id"]
                known = Known(replayed.trials, None, replayed.keys)
                (proposal,) = strategy.propose(i, known, partial(stream, 3, Purpose.PROPOSE))
                assert (proposal.setting, list(proposal.parents)) == (event["setting"], event["parents"])
            replayed.apply(event)
        assert outcome(replayed) == outcome(search)


class TestLimits:
    def test_no_trial_starts_after_the_time(self):
        search = Search(Queue(), Limits(100, seconds=5.0), 2)
        play(search, lambda trial: 1.0)
        assert len(search.trials) == 10
        assert search.now == 5

    def test_no_trial_starts_after_the_target(self):
        search = Search(Queue(), Limits(100, target=7), 1)
        play(search, lambda trial: 1.0, lambda setting: setting["number"])
        assert search.best.value == 7
        assert len(search.trials) == 8

    def test_an_error_is_repeated_once_and_a_nan_is_not(self):
        search = Search(Generations(3), Limits(3, retries=1), 1)
        search.begin(0.0)
        done = []
        while not search.is_over:
            search.ready(0)
            for _, trial in search.assign(0.0):
                done.append(trial.id)
                state, result = [(State.COMPLETE, 1.0), (State.WAITING, None), (State.COMPLETE, math.nan)][trial.id]
                search.end(trial.id, state, result, 0.0, error="")
        assert sorted(done) == [0, 1, 1, 2]
        assert [str(t.state) for t in search.trials] == ["complete", "failed", "failed"]
        assert search.best.id == 0
        assert search.trials[2].value is None

    @each_strategy
    def test_one_bad_setting_does_not_end_a_search(self, name):
        search = search_of(name, 20, seed=1)
        play(search, costs_of(20, 0), lambda setting: math.nan if setting["kind"] == "a" else value(setting))
        assert len(search.trials) == 20
        assert {str(t.state) for t in search.trials} == {"complete", "failed"}
        assert search.best.setting["kind"] == "b"


class Killed(Exception):
    pass


def run_journaled(directory, name, kill_after=None, workers=3, run=None, **options):
    """A search with a journal, up to its end or to the event after which it is killed."""
    journal, events = Journal(directory), itertools.count(1)

    def record(event):
        journal.record(event)
        if next(events) == kill_after:
            raise Killed

    search = search_of(name, workers=workers, log=record, **options)
    journal.recover(search)
    costs = costs_of(16, kill_after or 0)
    with contextlib.suppress(Killed), contextlib.closing(journal):
        run(search, costs) if run else play(search, costs, value)
    return search


def run_judged(directory, kill_after=None):
    """Sixteen trials of four steps, one after the other, that a median may stop; with a journal."""

    def run(search, costs):
        search.begin(0.0)
        search.ready(0)
        while not search.is_over:
            ((_, trial),) = search.assign(0.0)
            reached = [math.sin(7 * trial.id) - 1 / step for step in (1, 2, 3, 4)]
            goes_on = all(search.report(trial.id, step, reached[step - 1]) for step in (1, 2, 3))
            state, last = (State.COMPLETE, reached[3]) if goes_on else (State.PRUNED, trial.curve[-1])
            search.end(trial.id, state, last, 0.0, costs(trial))
            search.ready(0)

    return run_journaled(directory, "async-evolution", kill_after, workers=1, run=run, pruner=Median(startup=3))


class TestResume:
    @each_strategy
    def test_killed_at_random_events_it_ends_as_if_it_had_not_been(self, tmp_path, name):
        whole = run_journaled(tmp_path / "whole", name)
        rng = np.random.default_rng(len(name))
        while True:
            search = run_journaled(tmp_path / "broken", name, int(rng.integers(1, 14)), int(rng.integers(1, 5)))
            if rng.random() < 0.3:  # cut while it wrote
                path = tmp_path / "broken" / JOURNAL
                path.write_bytes(path.read_bytes() + b'{"event": "en')
            if search.is_over:
                break
        resumed = run_journaled(tmp_path / "broken", name)
        assert outcome(resumed) == outcome(whole)
        events = [json.loads(line) for line in (tmp_path / "broken" / JOURNAL).read_text().splitlines()]
        ended = [e["id"] for e in events if e["event"] == "end"]
        assert sorted(ended) == list(range(16)), "nothing is evaluated twice, nothing is lost"
        assert sum(e["event"] == "session" for e in events) > 3

    def test_utilisation_knows_how_many_workers_a_session_had(self, tmp_path):
        for workers in (4, 1):
            journal = Journal(tmp_path)
            search = Search(Queue(), Limits(8 if workers == 4 else 12), workers, log=journal.record)
            journal.recover(search)
            play(search, lambda trial: 1.0)
        assert search.sessions == [(0.0, 4), (2.0, 1)]
        assert search.now == 6.0
        assert utilisation(search) == 1.0

    def test_two_jobs_cannot_write_one_journal(self, tmp_path):
        run_journaled(tmp_path, "random", kill_after=9)
        first, second = Journal(tmp_path), Journal(tmp_path)
        first.recover(search_of("random"))
        before = (tmp_path / JOURNAL).read_text()
        with pytest.raises(UsageError, match="another job is writing"):
            second.recover(search_of("random"))
        assert (tmp_path / JOURNAL).read_text() == before
        first.close()
        second.recover(search_of("random"))
        second.close()

    @pytest.mark.parametrize(
        ("place", "event"),
        [
            (4, "nonsense"),
            (-1, '{"event": "propose", "id": 7, "setting": {}, "parents": []}'),
            (-1, '{"event": "start", "id": 0, "worker": 0, "time": 0.0}'),  # it has ended
            (-1, '{"event": "start", "id": -1, "worker": 0, "time": 0.0}'),
            (-1, '{"event": "report", "id": 0, "step": 1, "value": 0.5}'),
            (-1, '{"event": "end", "id": 99, "state": "complete", "value": 0.5, "time": 0.0, "cost": 0.0, "error": ""}'),
            (-1, '{"event": "stop"}'),
        ],
    )
    def test_a_line_that_is_no_event_or_cannot_come_next_is_damage(self, tmp_path, place, event):
        run_journaled(tmp_path, "random")
        lines = (tmp_path / JOURNAL).read_text().splitlines()
        lines[place] = event
        (tmp_path / JOURNAL).write_text("\n".join([*lines, ""]))
        with pytest.raises(UsageError, match=f"line {place % len(lines) + 1} of .* is damaged"):
            run_journaled(tmp_path, "random")

    def test_a_journal_is_of_one_search(self, tmp_path):
        run_journaled(tmp_path, "async-evolution")
        others = {
            "strategy": Search(Steady(SPACE, 4, Order(6)), Limits(16), 3, seed=4),
            "seed": search_of("async-evolution", seed=5),
            "pruner": search_of("async-evolution", pruner=Median()),
            "free": search_of("async-evolution", free=True),
        }
        for name, search in others.items():
            journal = Journal(tmp_path)
            with pytest.raises(UsageError, match=f"is of another search, {name}"):
                journal.recover(search)
            journal.close()
        Journal(tmp_path).recover(Search(STRATEGIES["async-evolution"], Limits(99, target=0.5), 1, seed=4))

    @each_strategy
    def test_a_kill_after_any_event_changes_nothing(self, tmp_path, name):
        whole = run_journaled(tmp_path / "whole", name)
        for event in range(1, 26, 2):
            run_journaled(tmp_path / str(event), name, event)
            assert outcome(run_journaled(tmp_path / str(event), name)) == outcome(whole)

    @each_strategy
    def test_more_trials_can_be_asked_for_later(self, tmp_path, name):
        run_journaled(tmp_path, name)
        journal = Journal(tmp_path)
        longer, at_once = search_of(name, 22, 2, log=journal.record), search_of(name, 22, 2)
        journal.recover(longer)
        for search in (longer, at_once):
            play(search, costs_of(24, 0), value)
        assert outcome(longer) == outcome(at_once)

    def test_a_kill_among_reports_changes_no_verdict(self, tmp_path):
        """Pruning depends on the values of other trials: decisions after a kill are those without it."""
        whole = run_judged(tmp_path / "whole")
        states = [t.state for t in whole.trials]
        assert 2 < states.count(State.PRUNED) < 12
        assert whole.best.state is State.COMPLETE
        for event in range(3, 60, 4):
            run_judged(tmp_path / str(event), event)
            assert outcome(run_judged(tmp_path / str(event))) == outcome(whole)

    def test_what_a_killed_trial_had_reported_is_forgotten(self, tmp_path):
        journal = Journal(tmp_path)
        search, again = search_of("random", 3, 1, log=journal.record), search_of("random", 3, 1)
        journal.recover(search)
        search.begin(0.0)
        search.ready(0)
        ((_, trial),) = search.assign(1.0)
        search.report(trial.id, 1, 0.5)
        journal.close()
        Journal(tmp_path).recover(again)
        assert again.trials[0].curve == [0.5]
        again.begin(again.now)
        assert (again.trials[0].state, again.trials[0].curve, again.now) == (State.WAITING, [], 1.0)


@pytest.mark.parametrize("strategy", [Random(SPACE), Generations(4)])
def test_a_trial_is_tried_again_by_the_worker_that_it_was_dealt_to(strategy):
    """Not all of them by the last one, whose slice a single trial would be."""
    search = Search(strategy, Limits(12), 4)
    coordinator = Coordinator(search)
    tasks = dict(coordinator.answer([(worker, Ready()) for worker in range(4)]))
    attempts = []
    while tasks:
        worker, task = tasks.popitem()
        attempts.append((task.id, worker))
        state = State.COMPLETE if attempts.count((task.id, worker)) > 1 else State.WAITING
        answers = coordinator.answer([(worker, Result(task.id, state, 1.0 if state is State.COMPLETE else None, 1.0))])
        tasks |= {w: t for w, t in answers if t is not None}
    assert len(attempts) == 24
    assert len(set(attempts)) == 12, "both attempts on one worker"
    assert search.count(State.COMPLETE) == 12


def test_nothing_is_handed_out_once_a_trial_has_broken():
    search = Search(Queue(), Limits(9), 2)
    coordinator = Coordinator(search)
    (_, first), (_, second) = coordinator.answer([(0, Ready()), (1, Ready())])
    broken = Broken(Result(first.id, State.WAITING, None, 1.0, "MemoryError"))
    assert coordinator.answer([(0, broken)]) == []
    assert coordinator.answer([(0, broken)]) == []  # another rank of it
    assert coordinator.answer([(1, Result(second.id, State.COMPLETE, 1.0, 1.0))]) == []
    assert [(str(t.state), t.attempts, t.error) for t in search.trials] == [("waiting", 1, "MemoryError"), ("complete", 0, "")]


@pytest.mark.parametrize("pruner", [None, Median(startup=0)], ids=["whole", "pruned"])
def test_reports_are_answered_where_trials_may_be_stopped(pruner):
    """Reports without pruning get no reply, so that training does not wait."""
    search = Search(Random(SPACE), Limits(2), 1, pruner=pruner, free=True)
    coordinator = Coordinator(search)
    ((_, task),) = coordinator.answer([(0, Ready())])
    assert task.judged is (pruner is not None)
    assert coordinator.answer([(0, Report(task.id, 1, 0.5))]) == ([] if pruner is None else [(0, True)])
    assert search.trials[0].curve == [0.5]
    ((_, task),) = coordinator.answer([(0, Result(task.id, State.COMPLETE, 0.6, 1.0))])
    assert coordinator.answer([(0, Report(task.id, 1, 0.4))]) == ([] if pruner is None else [(0, False)])
