"""Importance of each variable: Optuna's fANOVA (Hutter et al. 2014) on the complete trials of a search."""

from collections.abc import Sequence

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

from common.search.space import Space, Value, Variable
from common.search.trial import State, Trial
from common.seeding import Purpose, stream

LEAST = 10  # complete trials, or two for each variable if that is more
INACTIVE = "does not exist"


def importance(space: Space, trials: list[Trial], seed: int = 0) -> dict[str, float] | None:
    """Variance of the value that each variable explains alone, over the sum of these; interactions are not included.

    Numbers enter by their position in the range, on its scale; absence is one more level of a conditional variable. None if
    there are fewer than max(10, 2 d) complete trials, d variables, or if nothing varies.
    """
    complete = [t for t in trials if t.state is State.COMPLETE and t.value is not None]
    if len(complete) < max(LEAST, 2 * len(space.variables)) or len({t.value for t in complete}) < 2:
        return None
    columns = {v.name: _column(v, complete) for v in space.variables}
    if all(len(set(column)) < 2 for _, column in columns.values()):
        return None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize")
    kinds = {name: kind for name, (kind, _) in columns.items()}
    for i, trial in enumerate(complete):
        own = {name: column[i] for name, (_, column) in columns.items()}
        study.add_trial(optuna.trial.create_trial(params=own, distributions=kinds, value=trial.value))
    forest = int(stream(seed, Purpose.IMPORTANCE).integers(2**32))  # scikit-learn takes 32 bits
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=forest)
    shares = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return {name: float(shares[name]) for name in space.names}


def _column(variable: Variable, trials: Sequence[Trial]) -> tuple[BaseDistribution, list[Value]]:
    """Distribution of a variable, and its values in all trials.

    Numbers lie in [0, 1]; trials without the variable lie below 0, in a part of the range as large as their share of trials.
    """
    name = variable.name
    missing = sum(name not in t.setting for t in trials)
    if not variable.is_numeric:
        choices = [*variable.choices, INACTIVE] if missing else variable.choices
        return CategoricalDistribution(choices), [t.setting.get(name, INACTIVE) for t in trials]
    below = missing / max(len(trials) - missing, 1)
    values: list[Value] = [variable.to_unit(t.setting[name]) if name in t.setting else -below / 2 for t in trials]
    return FloatDistribution(-below, 1.0), values
