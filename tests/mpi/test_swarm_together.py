"""PSO-PS (our reconstruction) among ranks: global best, personal bests, number of messages, workers that diverge."""

import hashlib
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from worlds import RANK, SIZE, build, everyones, needs_two, numbers

from common.coupling.swarm import Fitness, Swarm, SwarmSettings
from common.coupling.swarm_rules import MEMORIES, MOTIONS, Motion

PROMPT = ("broadcast", "allgather")  # exchanges that a move waits for
N, B = 23, 4  # parameters in two tensors, and statistics
STILL = Motion(0.0, 0.0, 0.0, 0.0)
ALL_THE_WAY = Motion(0.0, 0.0, 0.0, 1.0)  # c2 = 1: with r2 = 1 a move ends at G
COMMON = numbers(N, 3)  # where the probe's valley lies
each_memory = pytest.mark.parametrize("memory", MEMORIES)
each_preset = pytest.mark.parametrize("preset", MOTIONS)


class Valley(Fitness):
    """Squared distance of the parameters from COMMON; spoil(k) may give another number."""

    def __init__(self, state, spoil=lambda k: None):
        self.state, self.spoil = state, spoil

    def measure(self, k):
        spoilt = self.spoil(k)
        return (self.state[:N] - COMMON).square().sum().item() if spoilt is None else spoilt


class Told(Fitness):
    """Losses by round, given by a test."""

    def __init__(self, losses):
        self.losses = losses

    def measure(self, k):
        return self.losses[k - 1]


class Counted:
    """A group that notes in `calls` which of its operations are used."""

    def __init__(self, group):
        self.group, self.calls = group, []

    def __getattr__(self, name):
        found = getattr(self.group, name)
        if callable(found):
            self.calls.append(name)
        return found


def world():
    return build([SIZE], "world").gradients


def start(statistics=0):
    """The same state on every rank."""
    return numbers(N + statistics, 1)


def swarm_of(state, fitness=None, group=None, motion=MOTIONS["hull"], period=2, rounds=5, **settings):
    """This rank's particle, at `state`, which lies in the Valley unless a fitness is given."""
    settings = SwarmSettings(motion, period, rounds, **settings)
    return Swarm(state, [20, 3], group or world(), settings, fitness or Valley(state))


def pulled_all_the_way(state, fitness=None, **settings):
    swarm = swarm_of(state, fitness, motion=ALL_THE_WAY, **settings)
    swarm.factors = lambda k: (torch.ones(1), torch.ones(1))
    return swarm


def train(swarm, state, steps, eta=0.1, first=0, centre=None):
    """Local descent into this worker's own valley; yields after every step whether its momentum has to be reset."""
    x, centre = state[:N], numbers(N, 2, RANK) if centre is None else centre
    for t in range(first, first + steps):
        swarm.begin(t, x)
        gradient = x - centre
        x.sub_(gradient, alpha=eta)
        state[N:] += 0.01 * (RANK + 1)  # batch-norm statistics of its own
        yield swarm.end(t, x, gradient)


def go(swarm, state, steps, **how):
    for _ in train(swarm, state, steps, **how):
        pass
    return state


def meetings(swarm, state, steps, first=0):
    """The same, step by step; yields after each of the swarm's meetings."""
    for t, _ in enumerate(train(swarm, state, steps, first=first), start=first):
        if t % 2:
            yield


def alone_for(steps, state, centre):
    """The same descent without a swarm."""
    for _ in range(steps):
        state.sub_(state - centre, alpha=0.1)
    return state


def digest(tensor):
    return hashlib.sha256(tensor.numpy().tobytes()).hexdigest()


def test_without_pulls_all_are_on_their_own():
    """T1: bit for bit."""
    state = start()
    go(swarm_of(state, motion=Motion(0.9, 0.9, 0.0, 0.0)), state, 9)
    assert torch.equal(state, alone_for(9, start(), numbers(N, 2, RANK)))


def test_pulled_all_the_way_all_stand_where_the_best_one_does():
    """T3."""
    state = start()
    swarm = pulled_all_the_way(state)
    for _ in meetings(swarm, state, 8):
        torch.testing.assert_close(state, swarm.best.place, rtol=0, atol=1e-6)  # x + (G - x) rounds
    places = everyones(state)
    torch.testing.assert_close(torch.tensor(places[0]), torch.tensor(places[-1]), rtol=0, atol=1e-6)


@each_memory
@pytest.mark.parametrize("exchange", PROMPT)
@pytest.mark.parametrize("preset", ["hull", "clerc"])
def test_everybody_holds_the_winners_bits(preset, exchange, memory):
    """T6, and that gathering all weights finds the same G as broadcasting the best worker's."""
    state = start(B)
    swarm = swarm_of(state, motion=MOTIONS[preset], exchange=exchange, memory=memory)
    personal, best = math.inf, math.inf
    for _ in meetings(swarm, state, 20):
        ends = everyones((digest(swarm.best.place), digest(swarm.personal.place), swarm.personal.fitness, swarm.best.fitness))
        lowest, winner = min((f, rank) for rank, (_, _, f, _) in enumerate(ends))
        assert len({(g, f_g) for g, _, _, f_g in ends}) == 1
        assert swarm.best.fitness == lowest
        if memory != "standard" or lowest < best:
            assert ends[0][0] == ends[winner][1]
            assert swarm.counts[2] == winner
        if memory == "standard":
            assert swarm.personal.fitness <= personal
            assert lowest <= best
        personal, best = swarm.personal.fitness, lowest


def test_both_ways_to_fetch_g_give_the_same_run():
    states = [start(B), start(B)]
    assert torch.equal(*(go(swarm_of(s, exchange=exchange), s, 12) for s, exchange in zip(states, PROMPT, strict=True)))


@each_memory
def test_delayed_a_move_knows_the_best_place_of_the_meeting_before(memory):
    """All stand at the G before the present one; the last one is taken when the run ends."""
    losses, state = numbers(8 * 6, 7).reshape(6, 8).abs(), start(B)
    swarm = pulled_all_the_way(state, Told(losses[:, RANK % 8].tolist()), exchange="delayed", memory=memory)
    best, place = math.inf, None
    for _ in meetings(swarm, state, 12):
        if place is None:
            assert not swarm.velocity.any(), "nothing is known yet"
        else:
            torch.testing.assert_close(state[:N], place, rtol=0, atol=1e-6)
        ends = everyones((swarm.personal.fitness, swarm.personal.place[:N].tolist()))
        lowest, winner = min((fitness, rank) for rank, (fitness, _) in enumerate(ends))
        if memory != "standard" or lowest < best:
            best, place = lowest, torch.tensor(ends[winner][1])
    swarm.close(12)
    torch.testing.assert_close(swarm.best.place[:N], place)
    assert swarm.best.fitness == best


def test_a_delayed_place_is_in_the_checkpoint():
    """A swarm that goes on from another one's tensors, in the middle of a phase, makes the same moves."""
    states, digests = [start(B), start(B)], []
    whole, first = (swarm_of(state, exchange="delayed") for state in states)
    go(whole, states[0], 9)
    go(first, states[1], 5)
    second = swarm_of(states[1], exchange="delayed")
    for name, tensor in second.tensors().items():
        tensor.copy_(first.tensors()[name])
    go(second, states[1], 4, first=5)
    for swarm, state in ((whole, states[0]), (second, states[1])):
        swarm.close(9)
        digests.append((digest(state), digest(swarm.best.place), swarm.best.fitness))
    assert digests[0] == digests[1]


@given(st.lists(st.lists(st.integers(1, 5), min_size=8, max_size=8), min_size=1, max_size=6))
def test_one_minloc_a_meeting_and_a_broadcast_only_for_a_new_g(table):
    """T11. table: losses by round and rank, many of them equal."""
    group, state, best = Counted(world()), start(), math.inf
    swarm = swarm_of(state, Told([float(row[RANK % 8]) for row in table]), group, period=3)
    for k, row in enumerate(table):
        group.calls.clear()
        go(swarm, state, 2, first=3 * k)
        assert not group.calls, "no messages between two meetings"
        go(swarm, state, 1, first=3 * k + 2)
        lowest = min(row[rank % 8] for rank in range(SIZE))
        improved = lowest < best
        assert group.calls == ["minloc", *["broadcast_"] * improved]
        if improved:
            assert swarm.counts[2] == min(rank for rank in range(SIZE) if row[rank % 8] == lowest), "ties: the lowest rank"
        best = min(best, lowest)
    assert swarm.best.fitness == best


@pytest.mark.parametrize(
    ("settings", "calls"),
    [
        ({}, ["minloc", "broadcast_", "sum_"]),
        ({"consensus": True}, ["minloc", "broadcast_", "broadcast_", "sum_"]),
        ({"exchange": "allgather"}, ["minloc", "gather_flat", "sum_"]),
        ({"exchange": "delayed"}, ["minloc", "start_broadcast_", "sum_"]),
    ],
)
def test_what_else_is_sent_and_how_many_bytes_that_is(settings, calls):
    group, state = Counted(world()), start(B)
    swarm = swarm_of(state, Told([1.0 + (RANK + 1) % SIZE]), group, **settings)  # the last rank wins
    go(swarm, state, 2)
    assert group.calls == calls
    wins, gathered = RANK == SIZE - 1, settings.get("exchange") == "allgather"
    floats = B + (N + B) * (gathered or wins) + N * (wins and "consensus" in settings)
    assert group.traffic.inside == (4 * floats if SIZE > 1 else 0)
    swarm.arrive()


def test_statistics_are_averaged_and_travel_with_the_places():
    state = start(B)
    swarm = swarm_of(state, motion=STILL)
    go(swarm, state, 2)
    mean = start(B)[N:] + 0.02 * (SIZE + 1) / 2
    torch.testing.assert_close(state[N:], mean)
    winner = int(swarm.counts[2])
    torch.testing.assert_close(swarm.best.place[N:], start(B)[N:] + 0.02 * (winner + 1))


@each_preset
def test_in_consensus_all_are_in_one_place_after_a_meeting(preset):
    """T12."""
    state, alone = start(), start()
    for _ in meetings(swarm_of(state, motion=MOTIONS[preset], consensus=True), state, 8):
        assert len(set(everyones(digest(state)))) == 1
    if SIZE == 1:
        assert torch.equal(go(swarm_of(alone, motion=MOTIONS[preset]), alone, 8), state)


@needs_two
@each_memory
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_never_wins(memory, bad):
    """T13: rank 0, which wins every tie."""
    state = start()
    swarm = swarm_of(state, Valley(state, lambda k: bad if RANK == 0 and k > 1 else None), memory=memory)
    go(swarm, state, 2)
    for _ in meetings(swarm, state, 8, first=2):
        assert math.isfinite(swarm.best.fitness)
        if memory == "fresh":
            assert swarm.counts[2] != 0
        assert (swarm.fitness == math.inf) == (RANK == 0)
    assert torch.isfinite(state).all()


@each_memory
def test_who_loses_its_weights_restarts_at_g_at_rest_and_without_momentum(memory):
    """T13."""
    state, victim = start(B), RANK == SIZE - 1
    swarm = swarm_of(state, motion=Motion(0.9, 0.9, 0.0, 0.0), memory=memory)
    swarm.velocity.fill_(0.01)
    go(swarm, state, 2)
    if victim:
        state[3] = torch.nan
    velocity = swarm.velocity.clone()
    renewed = list(train(swarm, state, 2, first=2))
    assert len(set(everyones(digest(swarm.best.place)))) == 1
    assert all(torch.isfinite(tensor).all() for tensor in (state, swarm.best.place, swarm.personal.place))
    if victim:
        assert torch.equal(state[:N], swarm.best.place[:N])
        assert not swarm.velocity.any()
    else:
        torch.testing.assert_close(swarm.velocity, 0.9 * velocity)
    assert renewed == [False, victim]
    assert swarm.counts[3] == victim


@each_memory
def test_where_all_are_lost_all_restart_at_the_last_g(memory):
    state = start()
    swarm = swarm_of(state, motion=STILL, memory=memory)
    go(swarm, state, 2)
    last = swarm.best.place.clone()
    state.fill_(torch.inf)
    go(swarm, state, 2, first=2)
    assert torch.equal(state, last)
    assert torch.equal(swarm.best.place, last)


@pytest.mark.parametrize("reset", [False, True])
def test_momentum_begins_anew_where_it_is_to(reset):
    state = start()
    assert list(train(swarm_of(state, reset=reset), state, 6)) == [False, reset] * 3


@each_preset
def test_the_same_seeds_give_the_same_history_of_g(preset):
    """T14; and another seed another one."""

    def history(seed):
        state = start(B)
        swarm = swarm_of(state, motion=MOTIONS[preset], seed=seed)
        hashes = [digest(swarm.best.place) for _ in train(swarm, state, 12)]
        return hashes, digest(state)

    assert history(0) == history(0)
    if SIZE > 1:
        assert any(a != b for a, b in zip(everyones(history(0)[1]), everyones(history(1)[1]), strict=True))


@needs_two
def test_every_worker_draws_factors_of_its_own_and_new_ones_every_time():
    swarm = swarm_of(start())
    drawn = [torch.cat(swarm.factors(k)) for k in (1, 2)]
    assert all(torch.equal(torch.cat(swarm.factors(k)), r) for k, r in zip((1, 2), drawn, strict=True))
    assert len(set(everyones(digest(drawn[0]))) | set(everyones(digest(drawn[1])))) == 2 * SIZE


@pytest.mark.skipif(SIZE <= 2, reason="one or two workers need not find it")
def test_swarming_finds_lower_ground_than_anybody_alone():
    """Valleys lie around a common one that only the probe shows."""
    state, mine = start(), COMMON + numbers(N, 4, RANK)
    swarm = swarm_of(state, period=1, memory="fresh", motion=Motion(0.0, 0.0, 0.0, 0.5))
    go(swarm, state, 40, centre=mine)
    assert swarm.best.fitness < min(everyones((alone_for(40, start(), mine) - COMMON).square().sum().item()))
