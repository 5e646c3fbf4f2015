"""Trials over ranks: no unnecessary waits, every trial evaluated once, results in lag order independent of ranks and time."""

import json
import math
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from worlds import RANK, SIZE, WORLD, alone, build, needs_two

from common.data.dataset import open_data
from common.errors import UsageError
from common.parallel.comm import Group, Traffic
from common.parallel.populations import PopulationSpec
from common.parallel.topology import build_topology, split_world
from common.search.checks import check_training
from common.search.coordinator import Coordinator
from common.search.journal import JOURNAL, Journal
from common.search.objective import Training, Trials
from common.search.pruning import Median
from common.search.search import Limits, Search
from common.search.simulation import Generations, Queue, log_normal, play, utilisation
from common.search.space import Space
from common.search.steady_state import Order, Steady
from common.search.strategies import Evolution
from common.search.trial import State
from common.search.worker import run
from common.training.options import CommonArgs

SPACE = Space.of({name: {"kind": "float", "low": 0.0, "high": 1.0} for name in "abc"})
each_strategy = pytest.mark.parametrize(
    "strategy", [Steady(SPACE, 4, Order(6)), Evolution(SPACE, 3)], ids=["steady", "evolution"]
)


def value(setting, step=4):
    return (1 - sum((x - 0.3) ** 2 for x in setting.values())) * step / 4


def outcome(search):
    return [(t.id, t.setting, t.value, str(t.state), t.curve) for t in search.trials]


def searched(objective, strategy, trials, workers=SIZE, group=None, **how):
    """A search on all ranks, or groups of them: the search on rank 0, None elsewhere."""
    return run(objective, lambda: Coordinator(Search(strategy, Limits(trials), workers, **how)), group=group)


def simulated(strategy, trials, pruner=None):
    """The same search on one worker, without messages."""
    search = Search(strategy, Limits(trials), 1, seed=2, pruner=pruner)
    search.begin(0.0)
    search.ready(0)
    while not search.is_over:
        ((_, trial),) = search.assign(0.0)
        going = all(search.report(trial.id, step, value(trial.setting, step)) for step in (1, 2, 3))
        state, steps = (State.COMPLETE, 4) if going else (State.PRUNED, len(trial.curve))
        search.end(trial.id, state, value(trial.setting, steps), 0.0)
        search.ready(0)
    return outcome(search)


@each_strategy
@pytest.mark.parametrize("pruner", [None, Median(startup=3)], ids=["whole", "pruned"])
def test_the_archive_is_the_same_on_any_number_of_ranks(strategy, pruner):
    rng = np.random.default_rng([RANK, 5])  # sleeps differ by rank, and with their number

    def objective(task, report):
        for step in (1, 2, 3):
            time.sleep(rng.exponential(0.002))
            report(step, value(task.setting, step))
        return value(task.setting)

    search = searched(objective, strategy, 18, seed=2, pruner=pruner)
    assert (search is None) is (RANK > 0)
    if search:
        assert outcome(search) == simulated(strategy, 18, pruner)
        assert {t.worker for t in search.trials} <= set(range(SIZE))


def test_sleeping_trials_take_the_time_that_was_simulated():
    """Dynamic scheduling: as fast as on the simulated clock, but for messages; all ranks work, rank 0 too."""
    n = 6 * SIZE
    costs = 0.03 * log_normal(np.random.default_rng(SIZE), n, 0.5)

    def objective(task, report):
        time.sleep(costs[task.id])
        return 0.0

    search = searched(objective, Queue(), n)
    if search:
        expected = play(Search(Queue(), Limits(n), SIZE), lambda t: float(costs[t.id]))
        assert expected <= search.now < 1.4 * expected + 0.5
        assert len({t.worker for t in search.trials}) == SIZE
        assert 0.4 < utilisation(search) <= 1


def test_a_generation_waits_for_its_slowest():
    """Static: one trial per rank and generation, one of each generation ten times as long."""
    n = 3 * SIZE

    def objective(task, report):
        time.sleep(0.1 if task.id % SIZE == 0 else 0.01)
        return 0.0

    search = searched(objective, Generations(SIZE), n)
    if search:
        assert search.now >= 0.3
        assert [t.worker for t in search.trials] == [t.id % SIZE for t in search.trials]
        for first in range(SIZE, n, SIZE):
            before, after = search.trials[first - SIZE : first], search.trials[first : first + SIZE]
            assert min(t.start for t in after) >= max(t.end for t in before)


def test_errors_are_repeated_once_and_nan_is_a_failure():
    tried = []

    def objective(task, report):
        tried.append(task.id)
        if task.id == 1:
            raise RuntimeError("no memory")
        if task.id == 2:
            report(1, math.nan)
        if task.id == 4:
            report(1, 0.1)
            report(3, 0.2)
        if task.id == 3 and tried.count(3) == 1 and len(tried) < 99:
            return math.inf
        return 1.0

    search = searched(objective, Steady(SPACE), 8)
    counts = WORLD.allreduce(np.bincount(tried, minlength=8))
    assert list(counts) == [1, 2, 1, 1, 1, 1, 1, 1]
    if search:
        assert [t.id for t in search.trials if t.state is State.FAILED] == [1, 2, 3, 4]
        assert search.trials[4].error == "step 3 of a trial was reported after 1 others: steps are 1, 2, 3, ..."
        assert "no memory" in search.trials[1].error
        assert search.best.value == 1.0


def test_a_journal_that_cannot_be_used_is_everybodys_error():
    def refused():
        raise UsageError("line 3 is damaged")

    with pytest.raises(UsageError, match="line 3 is damaged"):
        run(lambda task, report: 0.0, refused)


def test_the_journal_is_small_and_goes_on_where_it_ends(shared_dir):
    def objective(task, report):
        return value(task.setting)

    def search_with(journal, trials):
        search = Search(Steady(SPACE, 4, Order(5)), Limits(trials), SIZE, seed=2, log=journal.record)
        journal.recover(search)
        return Coordinator(search)

    run(objective, lambda: search_with(Journal(shared_dir), 7))
    search = run(objective, lambda: search_with(Journal(shared_dir), 15))
    if search:
        whole = Search(Steady(SPACE, 4, Order(5)), Limits(15), 1, seed=2)
        play(whole, lambda t: 1.0, value)
        assert outcome(search) == outcome(whole)
        events = [json.loads(line) for line in (shared_dir / JOURNAL).read_text().splitlines()]
        assert sorted(e["id"] for e in events if e["event"] == "end") == list(range(15))
        assert max(len(json.dumps(e)) for e in events) < 1000


@needs_two
def test_ranks_of_a_group_work_on_the_same_trial():
    size = next(g for g in (2, 3, SIZE) if SIZE % g == 0)
    group = Group(WORLD.Split(RANK // size, RANK), Traffic())
    seen = []

    def objective(task, report):
        seen.append(task.id)
        table = group.comm.allgather((task.id, task.setting))
        assert all(other == table[0] for other in table)
        report(1, value(task.setting, 2))
        if task.id == 2:
            raise UsageError("all ranks alike")
        if task.id == 4:
            raise RuntimeError(f"all ranks at the same place, rank {RANK}")
        return value(task.setting)

    search = searched(objective, Steady(SPACE), 9, SIZE // size, group)
    assert all(other == seen for other in group.comm.allgather(seen))
    leaders = WORLD.gather(seen if group.rank == 0 else [])
    if search:
        assert sorted(i for part in leaders for i in part) == [0, 1, 2, 3, 4, 4, 5, 6, 7, 8]
        assert [t.id for t in search.trials if t.state is State.FAILED] == [2, 4]
        assert search.trials[2].error == "all ranks alike"
        assert search.trials[4].error.startswith("RuntimeError: all ranks at the same place")
    group.comm.Free()


ARGS = CommonArgs(
    **{"dataset": "digits", "model": "cnn", "width": 1, "rounds": 2, "round_steps": 3, "batch_size": 32},
    **{"optimizer": "sgd", "precision": "float32"},
)


@pytest.fixture(scope="module")
def digits():
    torch.set_num_threads(1)
    return open_data(replace(ARGS, fitness_images=0), build([SIZE]), ARGS.seed)


def test_training_gives_the_same_values_on_any_number_of_ranks(digits):
    space = Space.of({"learning_rate": {"kind": "float", "low": 0.01, "high": 1.0, "scale": "log"}})
    training = Training(Trials(ARGS), alone(), digits)
    search = searched(training, Steady(space, 2, Order(4)), 6)
    values, settings = WORLD.bcast(([t.value for t in search.trials], [t.setting for t in search.trials]) if search else None)
    assert values[RANK % 6] == training.train(settings[RANK % 6], ARGS.seed).value
    assert len(set(values)) > 1


@pytest.mark.skipif(SIZE % 2, reason="groups of two")
@pytest.mark.parametrize("kind", ["train", "eoa"])
def test_groups_of_ranks_train_beside_each_other_and_do_not_mix(digits, kind):
    """Every group is a world of its own: with one setting all come to the same weights, whatever the others do meanwhile."""
    names = ("gwo", "woa") if kind == "eoa" else ("cosine",)
    specs = [PopulationSpec(name, 2 // len(names), "sgd") for name in names]
    topology = build_topology(specs, horovod=False, comm=split_world(2))
    assert (topology.world.size, topology.world.rank) == (2, RANK % 2)
    training = Training(Trials(ARGS, kind, ranks=2), topology, digits)
    reports = []
    if RANK // 2 % 2:
        training.train({"learning_rate": 0.3}, 5)  # another number of messages
    trained = training.train({"learning_rate": 0.05}, 0, lambda step, value: reports.append((step, value)))
    assert [step for step, _ in reports] == [1]
    found = WORLD.allgather((trained.value, trained.model.sha256(), reports))
    assert all(other == found[0] for other in found)


def test_batches_that_there_are_too_few_images_for_are_refused_before_anybody_trains(digits):
    check_training(Space.of({"batch_size": {"kind": "categorical", "choices": [16, 128]}}), Trials(ARGS), digits)
    with pytest.raises(UsageError, match="a batch of 4096"):
        check_training(Space.of({"batch_size": {"kind": "int", "low": 16, "high": 4096}}), Trials(ARGS), digits)
