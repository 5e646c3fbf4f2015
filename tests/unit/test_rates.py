"""Base rates, starts, limits, warm-up, and EOA's rates end to end against EOA-SAM/eoa_simple.py."""

from math import cos, pi

import numpy as np
import pytest
import torch
from eoa_cases import SLOW, Case, eoa_simple, numbers_needed
from hypothesis import given
from hypothesis import strategies as st

from common.ecosphere.rates import (
    REFERENCE,
    SHAPES,
    EcosphereRates,
    EoaSettings,
    ReplayedRates,
    ScheduledRates,
    base_rate,
    cosine,
    warmed_up,
)
from common.ecosphere.species import SPECIES
from common.ecosphere.species.moves import DAMPINGS, Moment, Rules
from common.ecosphere.standings import Standings
from common.parallel.populations import PopulationSpec
from common.seeding import Purpose, stream

CLOSE = {"rtol": 1e-12, "atol": 1e-14}  # the same float64 sums in another order

# The columns of the specification's tables (steps 3, 4 and 6), typed from there: base rule, then the variant of the moves.
COLUMNS = {
    "cifar10": ("best", {"damping": "annealed", "signed": False, "higher_rank_first": True, "world_prey": True}),
    "cifar100": ("blend", {"damping": "relative", "signed": True, "higher_rank_first": True, "absolute_leaders": True}),
    "vit": ("best", {"damping": "fixed", "signed": False, "higher_rank_first": True, "world_prey": True}),
    "imagenet": (
        "anneal",
        {"damping": "scaled", "signed": False, "higher_rank_first": True, "world_prey": True, "fold_prey": True},
    ),
}


def slow_base_rate(rule, leader_rate, eta0, k, t, rounds):
    """The table of step 4."""
    if rule == "best":
        return leader_rate
    if rule == "blend":
        return (leader_rate + k * eta0 * (1 + cos(pi * t / rounds)) / 2) / 2
    return 0.0 if t >= rounds - 1 else leader_rate * (1 + cos(pi * (t + 1) / rounds)) / (1 + cos(pi * t / rounds))


def pack(sizes, species=("gwo", "woa")):
    return [PopulationSpec(species[k % len(species)], m, "sgd") for k, m in enumerate(sizes)]


def some_standings(sizes, seed, tied=False):
    rng = np.random.default_rng(seed)
    N = sum(sizes)
    fitness = rng.choice([0.2, 0.5], N) if tied else rng.random(N)
    rates = rng.choice([0.1, 0.4], N) if tied else 10 ** rng.uniform(-7, 2.5, N)  # far apart: a beta' may turn negative
    return Standings(fitness, rates, list(sizes))


def slow_rates(standings, k, base, seed, t, rounds, **variant):
    """The rates of population k after round t by the slow moves, before any limit."""
    sizes = standings.sizes
    mine, spec = slice(sum(sizes[:k]), sum(sizes[: k + 1])), pack(sizes)[k]
    generator = stream(seed, Purpose.MOVE, t, k)
    numbers = [generator.random() for _ in range(numbers_needed(spec.species, spec.workers))]
    rates, fitness, world = list(standings.rates[mine]), list(standings.fitness[mine]), list(standings.rates)
    return SLOW[spec.species](Case(rates, fitness, base, t, rounds, numbers, **variant, world_rates=world))


@pytest.mark.parametrize("column", COLUMNS)
@given(
    sizes=st.lists(st.integers(1, 5), min_size=1, max_size=4).filter(lambda sizes: sum(sizes) > 1),
    seed=st.integers(0, 99),
    t=st.integers(0, 20),
    tied=st.booleans(),
)
def test_reference_rates_follow_the_columns_of_the_specification(column, sizes, seed, t, tied):
    rounds, eta0, N = 20, 0.1, sum(sizes)
    rule, variant = COLUMNS[column]
    standings = some_standings(sizes, seed, tied)
    rates = EcosphereRates(pack(sizes), eta0, rounds, [77.0] * len(sizes), seed, REFERENCE[column])
    best = max(range(N), key=lambda i: (standings.fitness[i], standings.rates[i], -i))
    b = slow_base_rate(rule, standings.rates[best], eta0, N, t, rounds)  # k = N, the number of workers
    for k in range(len(sizes)):
        expected = slow_rates(standings, k, b, seed, t, rounds, **variant)
        np.testing.assert_allclose(rates.next(t, standings, k), expected, **CLOSE)


@given(st.integers(0, 999), st.integers(0, 11), st.sampled_from(DAMPINGS), st.sampled_from(["best", "blend", "anneal"]))
def test_this_projects_rates_are_the_slow_moves_within_their_limits(seed, t, damping, rule):
    sizes, behind, rounds, eta0 = [3, 5], [96.0, 160.0], 12, 0.2
    standings = some_standings(sizes, seed)
    rates = EcosphereRates(pack(sizes), eta0, rounds, behind, seed, EoaSettings(rule, Rules(damping)))
    leader_rate = standings.rates[np.argmax(standings.fitness)]
    for k, start in enumerate((rates.start[:3], rates.start[3:])):
        b = slow_base_rate(rule, leader_rate, eta0, behind[k] / 128, t, rounds)
        expected = np.clip(slow_rates(standings, k, b, seed, t, rounds, damping=damping), 1e-3 * start, 10 * start)
        np.testing.assert_allclose(rates.next(t, standings, k), expected, **CLOSE)


@given(st.sampled_from(["best", "blend", "anneal"]), st.floats(1e-4, 10), st.floats(1e-3, 100), st.integers(1, 50), st.data())
def test_base_rates_follow_their_formulas_also_in_the_single_file(rule, leader_rate, k, rounds, data):
    t = data.draw(st.integers(0, rounds))
    expected = slow_base_rate(rule, leader_rate, 0.1, k, t, rounds)
    assert base_rate(rule, leader_rate, 0.1, k, Moment(t, rounds)) == pytest.approx(expected, rel=1e-12)
    assert eoa_simple.base_rate(rule, leader_rate, 0.1 * k, t, rounds) == pytest.approx(expected, rel=1e-12)


def test_an_unknown_base_rule_is_refused_by_name():
    with pytest.raises(ValueError, match=r"worst.*best, blend, anneal"):
        base_rate("worst", 0.1, 0.1, 1.0, Moment(0, 1))


@given(st.integers(2, 200), st.floats(1e-3, 10))
def test_annealed_base_rates_telescope_to_the_cosine_and_end_at_zero(rounds, rate):
    x = rate
    for t in range(rounds):
        x = base_rate("anneal", x, 0.1, 1.0, Moment(t, rounds))
        # A product of `rounds` quotients, and near the end a quotient of small differences: 1 + cos loses digits there.
        assert x == pytest.approx(rate * (1 + cos(pi * (t + 1) / rounds)) / 2, rel=1e-9, abs=1e-13 * rate)
    assert x == 0.0
    assert base_rate("anneal", rate, 0.1, 1.0, Moment(rounds, rounds)) == 0.0


@pytest.mark.parametrize("species", SPECIES)
@pytest.mark.parametrize("rule", ["best", "blend", "anneal"])
@pytest.mark.parametrize("settings", [EoaSettings(), REFERENCE["cifar10"], REFERENCE["imagenet"]])
def test_one_worker_in_all_follows_the_base_rate_without_move_noise_or_limits(species, rule, settings):
    rounds, eta0, k = 9, 0.1, 1.0 if settings.count_workers else 64 / 128
    settings = EoaSettings(rule, settings.rules, settings.count_workers, settings.limited)
    rates = EcosphereRates(pack([1], [species]), eta0, rounds, [64.0], 5, settings)
    x = eta0 * (k**0.5 if species == "woa" else k)
    assert rates.start == pytest.approx([x], rel=1e-15)
    for t in range(rounds):
        (given_rate,) = rates.next(t, Standings(np.array([0.1 * t]), np.array([x]), [1]), 0)
        x = slow_base_rate(rule, x, eta0, k, t, rounds)
        assert given_rate == pytest.approx(x, rel=1e-14)


@given(st.lists(st.integers(1, 6), min_size=1, max_size=4).filter(lambda sizes: sum(sizes) > 1), st.integers(0, 99))
def test_wolves_start_linearly_and_whales_by_square_root_with_up_to_a_tenth_of_noise(sizes, seed):
    behind = [40.0 * (k + 1) for k in range(len(sizes))]
    start = EcosphereRates(pack(sizes), 0.3, 10, behind, seed).start
    reference = EcosphereRates(pack(sizes), 0.3, 10, behind, seed, REFERENCE["cifar10"]).start
    N, noises = sum(sizes), []
    for k in range(len(sizes)):
        power = 1 if k % 2 == 0 else 0.5
        for i in range(sum(sizes[:k]), sum(sizes[: k + 1])):
            noise = start[i] / (0.3 * (behind[k] / 128) ** power) - 1
            assert -1e-12 <= noise < 0.1 + 1e-12
            assert reference[i] == pytest.approx(0.3 * N**power * (1 + noise), rel=1e-12)  # k = N, the same noise
            noises.append(round(noise, 12))
    assert len(set(noises)) == N, "every worker draws its own"


@given(st.integers(0, 2**31), st.integers(0, 30), st.integers(0, 2))
def test_proposals_depend_on_seed_round_and_population_alone(seed, t, population):
    sizes = [3, 3, 3]  # three equal packs, so that only the numbers differ
    x, f = np.tile([0.1, 0.2, 0.3], 3), np.tile([0.5, 0.6, 0.4], 3)

    def proposals(seed, t, population, first=()):
        rates = EcosphereRates(pack(sizes, ["gwo"]), 0.1, 10**6, [128.0] * 3, seed)
        for other in first:
            rates.next(t, Standings(f, x, sizes), other)
        return rates.next(t, Standings(f, x, sizes), population).tolist()

    mine = proposals(seed, t, population)
    assert proposals(seed, t, population, first=[0, 1, 2, population]) == mine
    assert proposals(seed + 1, t, population) != mine
    assert proposals(seed, t + 1, population) != mine
    assert proposals(seed, t, (population + 1) % 3) != mine


@given(st.floats(1e-3, 10), st.floats(1e-3, 10), st.floats(0.1, 5), st.floats(0, 1))
def test_warm_up_rises_linearly_from_the_lower_of_base_rate_and_rate(rate, eta0, epoch, fraction):
    expected = min(eta0, rate) * (1 - fraction) + rate * fraction
    assert warmed_up(rate, eta0, fraction * epoch, epoch) == pytest.approx(expected, rel=1e-12)
    assert warmed_up(rate, eta0, epoch * (1 + fraction), epoch) == rate


def test_warm_up_is_one_epoch_long_whatever_the_length_of_a_round():
    two_rounds_per_epoch = EcosphereRates(pack([4]), 0.1, 10, [512.0], 0, rounds_per_epoch=2.0)
    assert [two_rounds_per_epoch.at(0.5, done) for done in (0, 1, 2, 7)] == pytest.approx([0.1, 0.3, 0.5, 0.5])
    assert EcosphereRates(pack([4]), 0.1, 10, [512.0], 0, REFERENCE["cifar10"]).at(0.5, 0.0) == 0.5  # none there
    imagenet = EcosphereRates(pack([4]), 0.1, 90, [64.0], 0, REFERENCE["imagenet"])
    assert [imagenet.at(0.6, done) for done in (0, 1, 5)] == pytest.approx([0.1, 0.2, 0.6])  # five epochs


@given(st.integers(1, 30), st.integers(1, 4), st.floats(0, 1))
def test_a_scheduled_cosine_is_the_cosine_at_every_step(rounds, workers, fraction):
    schedule = ScheduledRates(lambda progress: cosine(1.0, progress), 0.4, 0.1, workers, rounds, warmup_rounds=0.5)
    assert schedule.start.tolist() == [0.4] * workers
    for t in range(rounds):
        standings = Standings(np.zeros(workers), np.full(workers, 9.0), [workers])
        following = 0.4 * (1 + cos(pi * (t + 1) / rounds)) / 2
        assert schedule.next(t, standings, 0) == pytest.approx([following] * workers, rel=1e-12, abs=1e-15)
        now = 0.4 * (1 + cos(pi * (t + fraction) / rounds)) / 2
        warmth = min(1.0, (t + fraction) / 0.5)
        expected = now if warmth == 1 else min(0.1, now) * (1 - warmth) + now * warmth
        assert schedule.at(123.0, t + fraction) == pytest.approx(expected, rel=1e-9, abs=1e-15)


def test_replayed_rates_are_the_files_one_a_round_and_then_its_last():
    replay = ReplayedRates([0.4, 0.3, 0.05], 0.1, 2, warmup_rounds=1.0)
    standings = Standings(np.zeros(2), np.full(2, 9.0), [2])
    rounds = [replay.start.tolist(), *(replay.next(t, standings, 0).tolist() for t in range(4))]
    assert rounds == [[0.4] * 2, [0.3] * 2, [0.05] * 2, [0.05] * 2, [0.05] * 2]
    assert [replay.at(0.4, 0.0), replay.at(0.4, 0.5), replay.at(0.3, 1.0)] == pytest.approx([0.1, 0.25, 0.3])


def test_one_cycle_is_torchs():
    steps = 1000
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    theirs = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1.0, total_steps=steps, cycle_momentum=False)
    for t in range(steps - 1):
        # torch counts the first step of the way up and the last of the way down in, so its curve lies up to a step beside ours
        near = [SHAPES["onecycle"](min(1.0, max(0.0, (t + shift) / steps))) for shift in (-1, 0, 1, 2)]
        rate = optimizer.param_groups[0]["lr"]
        assert min(near) - 1e-4 <= rate <= max(near) + 1e-4
        optimizer.step()
        theirs.step()
    assert SHAPES["onecycle"](0.0) == pytest.approx(1 / 25)
    assert SHAPES["onecycle"](0.3) == pytest.approx(1)
    assert SHAPES["onecycle"](1.0) == pytest.approx(1 / 25e4)


def test_steps_down_are_those_of_wide_resnets():
    """0.1, 0.02, 0.004, 0.0008 from epochs 0, 60, 120 and 160 of 200."""
    epochs = [0, 59, 60, 119, 120, 159, 160, 200]
    rates = [0.1 * SHAPES["step"](epoch / 200) for epoch in epochs]
    assert rates == pytest.approx([0.1, 0.1, 0.02, 0.02, 0.004, 0.004, 0.0008, 0.0008])


@given(name=st.sampled_from(list(SHAPES)), progress=st.floats(0, 1))
def test_a_schedule_stays_between_nothing_and_its_peak(name, progress):
    assert 0 <= SHAPES[name](progress) <= 1


@pytest.mark.parametrize("ranks", [2, 4, 7, 8])
def test_the_single_file_moves_the_rates_of_the_reference_script_alike(ranks, monkeypatch):
    """Whole rounds of eoa_simple.py with its own rules, given the random numbers of `EcosphereRates`."""
    half, rounds, seed = ranks // 2, eoa_simple.ROUNDS, 3
    specs = [PopulationSpec("gwo", half, "sgd"), PopulationSpec("woa", ranks - half, "sgd")]
    rates = EcosphereRates(specs, eoa_simple.ETA0, rounds, [1.0, 1.0], seed, REFERENCE["cifar100"])
    present, rng = rates.start.tolist(), np.random.default_rng(0)
    lowest = [(ranks if k < half else ranks**0.5) * eoa_simple.ETA0 for k in range(ranks)]
    assert all(low <= x <= 1.1 * low for low, x in zip(lowest, present, strict=True))
    assert all(low <= x <= 1.1 * low for low, x in zip(lowest, eoa_simple.starting_rates(ranks), strict=True))

    class Given:
        def __init__(self, address):
            _, t, kind = address.split()
            self.random = stream(seed, Purpose.MOVE, int(t), 0 if kind == "wolves" else 1).random

    monkeypatch.setattr(eoa_simple, "Random", Given)
    for t in range(rounds):
        fitness = rng.random(ranks).round(1)
        standings = Standings(fitness, np.array(present), [half, ranks - half])
        expected = np.concatenate([rates.next(t, standings, k) for k in range(2)])
        present = eoa_simple.next_rates(present, fitness.tolist(), t, eoa_simple.Rules())
        np.testing.assert_allclose(present, expected, **CLOSE)
