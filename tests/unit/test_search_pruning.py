"""The median rule and asynchronous successive halving, by cases that can be counted by hand."""

import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.search.pruning import Halving, Median
from common.search.search import Limits, Search
from common.search.simulation import Generations, Queue
from common.search.trial import State, Trial, best_first


def trials(*curves, state=State.COMPLETE):
    return [Trial(i, {"number": i}, state=state, value=c[-1], curve=list(c)) for i, c in enumerate(curves)]


def resources(values, halving):
    """Steps that trials with constant curves make, one after the other, and which of them came to the end."""
    search = Search(Queue(), Limits(len(values)), 1, pruner=halving)
    search.begin(0.0)
    search.ready(0)
    for value in values:
        ((_, trial),) = search.assign(0.0)
        going = True
        for step in range(1, halving.longest):
            going = search.report(trial.id, step, value)
            if not going:
                break
        search.end(trial.id, State.COMPLETE if going else State.PRUNED, value, 0.0)
        search.ready(0)
    return sum(len(t.curve) for t in search.trials), [t.id for t in search.trials if t.state is State.COMPLETE]


class TestHalving:
    halving = Halving(longest=27, reduction=3)

    def test_rungs(self):
        assert self.halving.rungs == [1, 3, 9]
        assert Halving(100).rungs == [1, 4, 16, 64]
        assert Halving(1).rungs == []

    def test_ascending_values_are_never_cut(self):
        assert resources(range(27), self.halving) == (27 * 27, list(range(27)))

    def test_descending_values_leave_the_first_ones_only(self):
        """All trials continue until a rung has three; then only the best third, which later trials never are."""
        steps, finished = resources(range(27, 0, -1), self.halving)
        assert finished == [0, 1]
        assert steps == 2 * 27 + 25 * 1

    @given(st.permutations(range(27)))
    def test_the_best_always_comes_to_the_end(self, values):
        assert values.index(26) in resources(values, self.halving)[1]

    def test_own_value_counts(self):
        rule = Halving(27, 3)
        assert rule.keeps([1], trials([5], [4])) is False, "n = 3: one goes on"
        assert rule.keeps([1], trials([5])) is True, "n = 2 < 3"
        assert rule.keeps([4], trials([5], [3], [2], [1], [0])) is True, "n = 6: two go on"
        assert rule.keeps([1, 1], trials([5, 5], [4, 4], [3, 3])) is True, "no rung at step 2"


class TestMedian:
    @given(
        st.lists(st.lists(st.integers(0, 9), min_size=3, max_size=3), min_size=5, max_size=9),
        st.lists(st.integers(0, 9), min_size=3, max_size=3),
    )
    def test_against_the_words(self, others, own):
        for step in (1, 2, 3):
            median = statistics.median(max(c[:step]) for c in others)
            assert Median().keeps(own[:step], trials(*others)) is (max(own[:step]) >= median)

    def test_five_complete_trials_first(self):
        others = trials([9], [9], [9], [9])
        assert Median().keeps([0], others)
        assert Median().keeps([0], others + trials([9], state=State.PRUNED))
        assert not Median(startup=4).keeps([0], others)
        assert Median(startup=4, warmup=1).keeps([0], others)


def test_verdicts_look_only_at_what_a_proposal_may_know():
    """Trial 5 uses the four trials of the previous generation only; in free order, all known ones."""
    for free, kept in ((False, True), (True, False)):
        search = Search(Generations(4), Limits(8), 4, pruner=Median(startup=4), free=free)
        search.begin(0.0)
        for worker in range(4):
            search.ready(worker)
        for _, trial in list(search.assign(0.0)):
            search.report(trial.id, 1, 0.1 * trial.id)
            search.end(trial.id, State.COMPLETE, 0.1 * trial.id, 1.0)
        for worker in range(4):
            search.ready(worker)
        second = [trial for _, trial in search.assign(1.0)]
        for trial in second[1:]:
            search.report(trial.id, 1, 0.9)
            search.end(trial.id, State.COMPLETE, 0.9, 2.0)
        assert search.report(second[0].id, 1, 0.2) is kept, "median 0.15 of the first four; 0.3 of all seven"


@pytest.mark.parametrize("state", [State.PRUNED, State.FAILED])
def test_ranking(state):
    complete = trials([0.2], [0.5], [0.5])
    other = Trial(3, {}, state=state, value=0.9 if state is State.PRUNED else None, curve=[0.9])
    further = Trial(4, {}, state=State.PRUNED, value=0.1, curve=[0.1, 0.1])
    ranked = [t.id for t in best_first([*complete, other, further])]
    assert ranked == [1, 2, 0, 4, 3], "complete by value, then id; pruned by steps before value; failures last"
