"""Optuna's tree-structured Parzen estimator as a strategy under the same coordinator, for comparison.

Every proposal uses a fresh study of the known trials, with a sampler seeded from the proposal's generator: TPE depends on the
known trials alone, and can be resumed and run in lag order. Other trials count as running, at a poor value (Optuna's "constant
liar"), so that ranks do not all propose the same region.
"""

import datetime
from collections.abc import Iterable
from dataclasses import dataclass

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from common.search.space import Space, Value, Variable, key_of
from common.search.steady_state import LAG, Order
from common.search.strategies import GIVE_UP, Generators, Known, Proposal, draw_new
from common.search.trial import State, Trial

STATES = {State.COMPLETE: optuna.trial.TrialState.COMPLETE, State.PRUNED: optuna.trial.TrialState.PRUNED}


@dataclass(frozen=True)
class Tpe:
    """TPE with Optuna's defaults: random settings until ten complete ones are known, in lag order up to trial 9 + W."""

    space: Space
    order: Order = LAG
    static = False

    def needs(self, i: int) -> int | None:
        """See `Order.needs`."""
        return self.order.needs(i)

    def propose(self, i: int, known: Known, generators: Generators) -> list[Proposal]:
        """One new setting."""
        rng = generators(i)
        ended = known.ended()
        seen = {t.id for t in ended}
        study = study_of(self.space, [*ended, *(t for t in known.trials if t.id not in seen)], seen)
        for _ in range(GIVE_UP):
            study.sampler = optuna.samplers.TPESampler(seed=int(rng.integers(2**31)), constant_liar=True)
            trial = study.ask()
            setting = self.space.build(lambda variable, _, trial=trial: suggest(trial, variable))  # type: ignore[misc]
            study.tell(trial, state=optuna.trial.TrialState.FAIL)  # only its suggestion is needed
            if key_of(setting) not in known.keys:
                return [Proposal(setting)]
        fallback = draw_new(self.space, known.keys, rng)
        return [] if fallback is None else [Proposal(fallback)]


def study_of(space: Space, trials: Iterable[Trial], known: set[int]) -> optuna.Study:
    """An in-memory Optuna study of these trials; those not among `known` are running."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # not a line for every study
    study = optuna.create_study(direction="maximize", storage=optuna.storages.InMemoryStorage())
    for trial in trials:
        if trial.id not in known:
            study.add_trial(_frozen(space, trial, optuna.trial.TrialState.RUNNING))
        elif trial.state in STATES:
            study.add_trial(_frozen(space, trial, STATES[trial.state]))
    return study


def _frozen(space: Space, trial: Trial, state: optuna.trial.TrialState) -> optuna.trial.FrozenTrial:
    variables = [v for v in space.variables if v.name in trial.setting]
    running = state is optuna.trial.TrialState.RUNNING
    now = datetime.datetime(2000, 1, 1)  # a required field without effect
    return optuna.trial.FrozenTrial(
        number=trial.id,
        trial_id=trial.id,
        state=state,
        value=trial.value if state is optuna.trial.TrialState.COMPLETE else None,
        datetime_start=now,
        datetime_complete=None if running else now,
        params={v.name: to_optuna(v, trial.setting[v.name]) for v in variables},
        distributions={v.name: distribution(v) for v in variables},
        user_attrs={},
        system_attrs={},
        intermediate_values={} if running else dict(enumerate(trial.curve, start=1)),
    )


def distribution(variable: Variable) -> BaseDistribution:
    """Optuna's distribution of a variable; a logit scale, which Optuna lacks, as a range of logits."""
    if not variable.is_numeric:
        return CategoricalDistribution(variable.choices)
    if variable.kind == "int":
        return IntDistribution(int(variable.low), int(variable.high), log=variable.scale == "log")
    if variable.scale == "logit":
        return FloatDistribution(*variable.ends)
    return FloatDistribution(variable.low, variable.high, log=variable.scale == "log")


def to_optuna(variable: Variable, value: Value) -> Value:
    """A value in the terms of `distribution`."""
    return variable.on_scale(float(value)) if variable.scale == "logit" else value


def suggest(trial: optuna.Trial, variable: Variable) -> Value:
    """Optuna's suggestion, rounded as ours are."""
    if not variable.is_numeric:
        choice = trial.suggest_categorical(variable.name, variable.choices)
        assert choice is not None
        return choice
    logarithmic = variable.scale == "log"
    if variable.kind == "int":
        return trial.suggest_int(variable.name, int(variable.low), int(variable.high), log=logarithmic)
    if variable.scale == "logit":
        return variable.from_scale(trial.suggest_float(variable.name, *variable.ends))
    return variable.from_scale(
        variable.on_scale(trial.suggest_float(variable.name, variable.low, variable.high, log=logarithmic))
    )
