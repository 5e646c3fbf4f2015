"""Optuna's tree-structured Parzen estimator as a strategy under the same coordinator, for comparison.

Every proposal uses a fresh study of the known trials, with a sampler seeded from the proposal's generator: TPE depends on the
known trials alone, and can be resumed and run in lag order. Other trials count as running, at a poor value (Optuna's "constant
liar"), so that ranks do not all propose the same region.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from common.search.space import Space, Value, Variable, key_of
from common.search.steady_state import LAG, Asynchronous, Order
from common.search.strategies import GIVE_UP, Generators, Known, Proposal, draw_new
from common.search.trial import State, Trial

STATES = {State.COMPLETE: TrialState.COMPLETE, State.PRUNED: TrialState.PRUNED}


@dataclass(frozen=True)
class Tpe(Asynchronous):
    """TPE with Optuna's defaults: random settings until ten complete ones are known, in lag order up to trial 9 + W."""

    space: Space
    order: Order = LAG

    def propose(self, i: int, known: Known, generators: Generators) -> list[Proposal]:
        """One new setting."""
        rng = generators(i)
        ended = known.ended()
        seen = {t.id for t in ended}
        study = study_of(self.space, ended, running=[t for t in known.trials if t.id not in seen])
        for _ in range(GIVE_UP):
            study.sampler = optuna.samplers.TPESampler(seed=int(rng.integers(2**31)), constant_liar=True)
            trial = study.ask()
            setting = self.space.build(partial(suggest, trial))
            study.tell(trial, state=TrialState.FAIL)  # only its suggestion is needed
            if key_of(setting) not in known.keys:
                return [Proposal(setting)]
        return draw_new(self.space, known.keys, rng)


def study_of(space: Space, trials: Iterable[Trial], running: Iterable[Trial] = ()) -> optuna.Study:
    """An in-memory Optuna study of the complete and pruned ones of `trials`, and of those that count as running."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # not a line for every study
    study = optuna.create_study(direction="maximize")
    study.add_trials(_frozen(space, trial, STATES[trial.state]) for trial in trials if trial.state in STATES)
    study.add_trials(_frozen(space, trial, TrialState.RUNNING) for trial in running)
    return study


def _frozen(space: Space, trial: Trial, state: TrialState) -> FrozenTrial:
    variables = [v for v in space.variables if v.name in trial.setting]
    return create_trial(
        state=state,
        value=trial.value if state is TrialState.COMPLETE else None,
        params={v.name: to_optuna(v, trial.setting[v.name]) for v in variables},
        distributions={v.name: distribution(v) for v in variables},
        intermediate_values={} if state is TrialState.RUNNING else dict(enumerate(trial.curve, start=1)),
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
    match distribution(variable):
        case IntDistribution(low=low, high=high, log=log):
            return trial.suggest_int(variable.name, low, high, log=log)
        case FloatDistribution(low=low, high=high, log=log):
            value = trial.suggest_float(variable.name, low, high, log=log)
            return variable.from_scale(value if variable.scale == "logit" else variable.on_scale(value))
    choice = trial.suggest_categorical(variable.name, variable.choices)
    assert choice is not None
    return choice
