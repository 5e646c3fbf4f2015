"""Step sizes by backtracking: the Armijo test, its smoothed form, growth, and how often to search. Numbers in, numbers out.

Kenneweg, Kenneweg, Fumagalli, Hammer 2024 (SaLSA), after Vaswani et al. 2019. The symbols of docs/algorithms.md, SaLSA:

    f, f'   loss of the batch at w and at the trial point w + eta d; D = f - f' the decrease
    q       slope: -<g, d>
    h, s    moving averages of D and of q, with weight beta3 on the past

    plain     D >= c eta q
    smoothed  h = beta3 h' + (1 - beta3) D >= c eta s, s = beta3 s' + (1 - beta3) q

`decide` is one step of the whole: whether to search, the search, and what is to be taken.
"""

import math
from collections.abc import Callable
from dataclasses import astuple, dataclass, replace

TINY = 1e-8  # below it a loss or a slope is as good as zero: nothing is left to be tested
LONG_AGO = 2**40  # steps since the last search, before there was one
COUNTS = ("searches", "trials", "exhausted", "flat", "skipped")  # fields of `State` that are summed over a run
FAST, SLOW = 0.9, 0.99  # weights of the past in the two averages of eta


def _is_whole(number: float, least: int) -> bool:
    return number == int(number) and number >= least


@dataclass(frozen=True)
class Rules:
    """How steps are searched for. What was published, and where this departs from it: docs/algorithms.md.

    Attributes:
        eta0: the first step that is tried.
        c: share of the promised decrease that a step has to bring, in (0, 1).
        beta3: weight of the past in h and s, in [0, 1); 0 is the plain test.
        growth: factor on the step before each search, at least 1.
        shrink: factor on the step after each rejection, in (0, 1).
        limit: largest step.
        max_backtracks: trial points of one search.
        warmup_searches: so many first steps are all searched.
        interval: steps between two searches; 0 adapts them to how fast the step changes.
        max_interval: most steps between two searches where they adapt.
        climbs: the first search goes up as well as down, so that eta0 may be too low as it may be too high; ours.
        released: behave as the class `SaLSA` of the authors' code does where that differs from their paper.
    """

    eta0: float = 0.1
    c: float = 0.3
    beta3: float = 0.99
    growth: float = 1.1
    shrink: float = 0.8
    limit: float = 10.0
    max_backtracks: int = 100
    warmup_searches: int = 9
    interval: int = 0
    max_interval: int = 10
    climbs: bool = True
    released: bool = False

    def __post_init__(self) -> None:
        checks = {
            "limit": (self.limit > 0, "has to be positive"),
            "eta0": (0 < self.eta0 <= self.limit and self.eta0 < math.inf, f"has to lie in (0, {self.limit:g}], and be finite"),
            "c": (0 < self.c < 1, "has to lie between 0 and 1, both excluded; 0.1 to 0.7 is usual"),
            "beta3": (0 <= self.beta3 < 1, "has to lie in [0, 1)"),
            "growth": (1 <= self.growth < math.inf, "has to be at least 1, and finite"),
            "shrink": (0 < self.shrink < 1, "has to lie between 0 and 1, both excluded"),
            "max_backtracks": (_is_whole(self.max_backtracks, 1), "has to be a whole number, at least 1"),
            "warmup_searches": (_is_whole(self.warmup_searches, 0), "has to be a whole number, at least 0"),
            "interval": (_is_whole(self.interval, 0), "has to be a whole number, at least 0"),
            "max_interval": (_is_whole(self.max_interval, 1), "has to be a whole number, at least 1"),
        }
        for name, (holds, what) in checks.items():
            if not holds:
                raise ValueError(f"{name} {getattr(self, name)} {what}")


PAPER = Rules()
PLAIN = Rules(c=0.1, beta3=0.0)  # Vaswani et al.'s search
RELEASED = Rules(eta0=1.0, c=0.5, beta3=0.9, limit=math.inf, climbs=False, released=True)


@dataclass(frozen=True)
class State:
    """What a search remembers; plain numbers, the same on every rank.

    Attributes:
        eta: the step accepted last. h, s: see above. fast, slow: moving averages of eta.
        since: steps since the last search. steps: steps so far, those left out included.
        searches, trials: searches and trial points so far. exhausted: searches in which no trial passed.
        flat: searches without a test, for want of a loss or a slope. skipped: steps left out, loss or gradient not finite.
    """

    eta: float
    h: float = 0.0
    s: float = 0.0
    fast: float = TINY
    slow: float = TINY
    since: int = LONG_AGO
    steps: int = 0
    searches: int = 0
    trials: int = 0
    exhausted: int = 0
    flat: int = 0
    skipped: int = 0

    def numbers(self) -> list[float]:
        """All of it in order; integers below 2^53 stay what they are."""
        return [float(value) for value in astuple(self)]

    @classmethod
    def of(cls, numbers: list[float]) -> "State":
        """The state that gave these numbers."""
        kinds = [type(value) for value in astuple(cls(0.0))]
        return cls(*(kind(number) for kind, number in zip(kinds, numbers, strict=True)))


@dataclass(frozen=True)
class Step:
    """What to do at the end of a step: go from w by `eta`, which is 0 for staying there.

    Attributes:
        at_trial: whether eta is that of the last trial, which has left the weights there.
        decrease: D of the last trial; 0 where there was none. trials: trial points of this step. slope: q.
    """

    eta: float
    at_trial: bool = False
    decrease: float = 0.0
    trials: int = 0
    slope: float = 0.0


def average(old: float, new: float, weight: float) -> float:
    """Weight old + (1 - weight) new."""
    return weight * old + (1 - weight) * new


def is_sufficient(h: float, eta: float, s: float, c: float) -> bool:
    """The Armijo test h >= c eta s, on averages or, with h = D and s = q, on one batch; false where h is not a number."""
    return h >= c * eta * s


def grown(eta: float, rules: Rules) -> float:
    """The step that a search begins with."""
    return min(rules.growth * eta, rules.limit)


def period(state: State, rules: Rules) -> float:
    """L, steps between two searches: 1 / (r - 1), r the ratio of the fast and the slow average of eta, larger over smaller.

    Rounded to an integer in [1, longest]; the released class rounds nothing and only limits it from above.
    """
    if rules.interval:
        return rules.interval
    r = max(state.fast / state.slow, state.slow / state.fast)
    if rules.released:
        return min(rules.max_interval, 1 / (r - 1 + 1e-8))
    return min(rules.max_interval, max(1, round(1 / (r - 1)))) if r - 1 > 1 / (rules.max_interval + 1) else rules.max_interval


def is_due(state: State, rules: Rules) -> bool:
    """Whether the step that `state.steps` and `state.since` count already is one with a search."""
    return state.steps <= rules.warmup_searches or state.since >= period(state, rules)


def decide(state: State, f: float, q: float, trial: Callable[[float], float], rules: Rules) -> tuple[State, Step]:
    """One step: given the loss f at w and the slope q of the direction, the new state and what to do.

    trial: the loss at w + eta d, on the same samples and with the same randomness as f; called for searches only, and it may
    leave the weights where it has been. A trial's loss that is not finite is a rejection.
    """
    state = replace(state, steps=state.steps + 1, since=state.since + 1)
    if not is_due(state, rules):
        eta = grown(state.eta, rules) if rules.released else state.eta  # released: longer than what was accepted
        return _watched(state, rules, searched=False), Step(eta)
    s = average(state.s, q, rules.beta3)
    state = replace(state, since=0, s=s)
    eta = grown(state.eta, rules)
    if min(f, s) < TINY:
        state = replace(state, flat=state.flat + 1, eta=eta if rules.released else state.eta)
        return _watched(state, rules, searched=True), Step(state.eta)
    accepted, h, step = backtrack(eta, state.h, s, f, trial, rules)
    if rules.climbs and state.searches == 0 and accepted and step.trials == 1 and step.decrease > 0:
        h, step = climb(step, h, state.h, s, f, trial, rules)
    state = replace(state, eta=step.eta, h=h, searches=state.searches + 1, trials=state.trials + step.trials)
    if not accepted:
        state = replace(state, exhausted=state.exhausted + 1)
        step = replace(step, at_trial=True) if rules.released else replace(step, eta=0.0)  # released: stays where it was last
    return _watched(state, rules, searched=True), step


def backtrack(
    eta: float, h: float, s: float, f: float, trial: Callable[[float], float], rules: Rules
) -> tuple[bool, float, Step]:
    """Shrink eta until the test passes; returns whether it did, the new h, and the step, with the last eta that was tried.

    h: the average before this search, which every trial starts from; it moves with an accepted trial only. A decrease of
    exactly zero is accepted untested, and h stays: f and f' agree to the last digit, so there is nothing to compare.
    """
    decrease = 0.0
    for n in range(1, rules.max_backtracks + 1):
        there = trial(eta)
        decrease = f - there
        if decrease == 0:
            return True, h, Step(eta, True, decrease, n)
        tested = average(h, decrease, rules.beta3)
        if math.isfinite(there) and is_sufficient(tested, eta, s, rules.c):
            return True, tested, Step(eta, True, decrease, n)
        if n < rules.max_backtracks:
            eta *= rules.shrink
    return False, h, Step(eta, False, decrease, rules.max_backtracks)


def climb(
    step: Step, h: float, before: float, s: float, f: float, trial: Callable[[float], float], rules: Rules
) -> tuple[float, Step]:
    """After an eta that passed at once: lengthen it by 1 / shrink while the test passes; the last h and step that did.

    h: the average at the accepted step; before: the one ahead of this search. On a quadratic it ends where backtracking from
    above does, in (shrink B, B].
    """
    eta, trials = step.eta, step.trials
    while eta < rules.limit and trials < rules.max_backtracks:
        eta, trials = min(eta / rules.shrink, rules.limit), trials + 1
        there = trial(eta)
        tested = average(before, f - there, rules.beta3)
        if not (math.isfinite(there) and is_sufficient(tested, eta, s, rules.c)):
            break
        h, step = tested, Step(eta, False, f - there)
    return h, replace(step, at_trial=False, trials=trials)


def skip(state: State) -> State:
    """A step that is left out because its loss or gradient is not finite."""
    return replace(state, steps=state.steps + 1, since=state.since + 1, skipped=state.skipped + 1)


def _watched(state: State, rules: Rules, searched: bool) -> State:
    """The averages of eta, which move every step; those of the released class with every search."""
    if rules.released and not searched:
        return state
    return replace(state, fast=average(state.fast, state.eta, FAST), slow=average(state.slow, state.eta, SLOW))
