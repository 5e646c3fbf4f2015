"""Step sizes by a backtracking line search: Armijo test, its smoothed form, growth, and search interval. Scalars only.

Kenneweg, Kenneweg, Fumagalli, Hammer 2024 (SaLSA), after Vaswani et al. 2019. Symbols as in docs/algorithms.md, SaLSA:

    f, f'   loss of the batch at w and at the trial point w + eta d; D = f - f' the decrease
    q       slope: -<g, d>
    h, s    moving averages of D and of q, with weight beta3 on the past

    plain     D >= c eta q
    smoothed  h = beta3 h' + (1 - beta3) D >= c eta s, s = beta3 s' + (1 - beta3) q

`decide` is one step: whether a line search is due, the line search, and the step to take.
"""

import math
from collections.abc import Callable
from dataclasses import astuple, dataclass, replace

TINY = 1e-8  # with a loss or slope below this value no line search is made
LONG_AGO = 2**40  # steps since the last line search, before the first one
COUNTS = ("searches", "trials", "exhausted", "flat", "skipped")  # fields of `State` that are summed over a run
FAST, SLOW = 0.9, 0.99  # weights of the past in the two averages of eta


def _is_whole(number: float, least: int) -> bool:
    return number == int(number) and number >= least


@dataclass(frozen=True)
class Rules:
    """Line-search settings. Differences from the published method: docs/algorithms.md.

    Attributes:
        eta0: initial step size.
        c: share of the predicted decrease that a step must reach, in (0, 1).
        beta3: weight of the past in h and s, in [0, 1); 0 is the plain test.
        growth: factor on the step size before each line search, at least 1.
        shrink: factor on the step size after each rejection, in (0, 1).
        limit: largest step size.
        max_backtracks: most trial points of one line search.
        warmup_searches: number of first steps that all make a line search.
        interval: steps between two line searches; 0 adapts it to the rate of change of the step size.
        max_interval: largest adaptive interval.
        climbs: the first line search may also grow the step (ours), since eta0 may be too low.
        released: follow the class `SaLSA` of the authors' code where it differs from their paper.
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
PLAIN = Rules(c=0.1, beta3=0.0)  # Vaswani et al.'s line search
RELEASED = Rules(eta0=1.0, c=0.5, beta3=0.9, limit=math.inf, climbs=False, released=True)


@dataclass(frozen=True)
class State:
    """Line-search state; scalars, the same on every rank.

    Attributes:
        eta: last accepted step size. h, s: see above. fast, slow: moving averages of eta.
        since: steps since the last line search. steps: steps so far, skipped ones included.
        searches, trials: line searches and trial points so far. exhausted: line searches in which no trial point passed.
        flat: line searches omitted because loss or slope is below TINY. skipped: steps with a non-finite loss or gradient.
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

    @classmethod
    def of(cls, numbers: list[float]) -> "State":
        """The state from all its fields as floats, in order; exact for integers below 2^53."""
        kinds = [type(value) for value in astuple(cls(0.0))]
        return cls(*(kind(number) for kind, number in zip(kinds, numbers, strict=True)))


@dataclass(frozen=True)
class Step:
    """Result of `decide`: move from w by `eta`; 0 for no step.

    Attributes:
        at_trial: whether eta is that of the last trial point, where the weights are now.
        decrease: D at the last trial point; 0 if there was none. trials: trial points of this step. slope: q.
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
    """The Armijo test h >= c eta s, on averages or, with h = D and s = q, on one batch; false where h is not finite."""
    return c * eta * s <= h < math.inf


def period(state: State, rules: Rules) -> float:
    """L, steps between two line searches: 1 / (r - 1), r the ratio of the fast and slow average of eta, larger over smaller.

    Rounded to an integer in [1, max_interval]; `released` does not round, and only limits it from above.
    """
    if rules.interval:
        return rules.interval
    r = max(state.fast / state.slow, state.slow / state.fast)
    if rules.released:
        return min(rules.max_interval, 1 / (r - 1 + 1e-8))
    return min(rules.max_interval, max(1, round(1 / (r - 1)))) if r - 1 > 1 / (rules.max_interval + 1) else rules.max_interval


def is_due(state: State, rules: Rules) -> bool:
    """Whether the current step, already counted in `state.steps` and `state.since`, makes a line search."""
    return state.steps <= rules.warmup_searches or state.since >= period(state, rules)


def decide(state: State, f: float, q: float, trial: Callable[[float], float], rules: Rules) -> tuple[State, Step]:
    """One step: from the loss f at w and the slope q of the direction, the new state and the step to take.

    trial: the loss at w + eta d, on the same samples and with the same random numbers as f; called in line searches only, and
    may leave the weights at the trial point. A non-finite loss at a trial point is a rejection.
    """
    state = replace(state, steps=state.steps + 1, since=state.since + 1)
    eta = min(rules.growth * state.eta, rules.limit)
    if not is_due(state, rules):
        if rules.released:  # longer than the accepted step, and not averaged
            return state, Step(eta)
        return _watched(state), Step(state.eta)
    s = average(state.s, q, rules.beta3)
    state = replace(state, since=0, s=s)
    if min(f, s) < TINY:
        state = replace(state, flat=state.flat + 1, eta=eta if rules.released else state.eta)
        return _watched(state), Step(state.eta)
    accepted, h, step = backtrack(eta, state.h, s, f, trial, rules)
    if rules.climbs and state.searches == 0 and accepted and step.trials == 1 and step.decrease > 0:
        h, step = climb(step, h, state.h, s, f, trial, rules)
    state = replace(state, eta=step.eta, h=h, searches=state.searches + 1, trials=state.trials + step.trials)
    if not accepted:
        state = replace(state, exhausted=state.exhausted + 1)
        step = replace(step, at_trial=True) if rules.released else replace(step, eta=0.0)  # released: stays there
    return _watched(state), step


def backtrack(
    eta: float, h: float, s: float, f: float, trial: Callable[[float], float], rules: Rules
) -> tuple[bool, float, Step]:
    """Shrink eta until the test passes; returns whether it did, the new h, and the step, with the last eta tried.

    h: average before this line search; updated by an accepted trial point only. A decrease of exactly zero is accepted without
    a test and leaves h unchanged: f and f' are equal, so there is nothing to compare.
    """
    decrease = 0.0
    for n in range(1, rules.max_backtracks + 1):
        decrease = f - trial(eta)
        if decrease == 0:
            return True, h, Step(eta, True, decrease, n)
        tested = average(h, decrease, rules.beta3)
        if is_sufficient(tested, eta, s, rules.c):
            return True, tested, Step(eta, True, decrease, n)
        if n < rules.max_backtracks:
            eta *= rules.shrink
    return False, h, Step(eta, False, decrease, rules.max_backtracks)


def climb(
    step: Step, h: float, before: float, s: float, f: float, trial: Callable[[float], float], rules: Rules
) -> tuple[float, Step]:
    """Grow an eta that passed at once by 1 / shrink while the test passes; returns the last h and step that passed.

    h: average at the accepted step. before: average before this line search. On a quadratic the result is in (shrink B, B], as
    with backtracking from above.
    """
    eta, trials = step.eta, step.trials
    while eta < rules.limit and trials < rules.max_backtracks:
        eta, trials = min(eta / rules.shrink, rules.limit), trials + 1
        decrease = f - trial(eta)
        tested = average(before, decrease, rules.beta3)
        if not is_sufficient(tested, eta, s, rules.c):
            break
        h, step = tested, Step(eta, False, decrease)
    return h, replace(step, at_trial=False, trials=trials)


def skip(state: State) -> State:
    """Count a step that is skipped because its loss or gradient is not finite."""
    return replace(state, steps=state.steps + 1, since=state.since + 1, skipped=state.skipped + 1)


def _watched(state: State) -> State:
    """Update the averages of eta."""
    return replace(state, fast=average(state.fast, state.eta, FAST), slow=average(state.slow, state.eta, SLOW))
