"""How much each variable matters: Optuna's fANOVA (Hutter et al. 2014) on the complete trials of a search."""

import optuna

from common.search.space import Space
from common.search.tpe import study_of
from common.search.trial import State, Trial

LEAST = 10  # complete trials, or two for each variable if that is more


def importance(space: Space, trials: list[Trial], seed: int = 0) -> dict[str, float] | None:
    """Share of the variance of the value that each variable explains by itself; the shares add up to one.

    Variables that do not exist in all complete trials are left out. None where there are fewer than max(10, 2 d) complete
    trials, or nothing varies.
    """
    complete = [t for t in trials if t.state is State.COMPLETE]
    names = [v.name for v in space.variables if all(v.name in t.setting for t in complete)]
    varying = [n for n in names if len({t.setting[n] for t in complete}) > 1]
    if len(complete) < max(LEAST, 2 * len(space.variables)) or not varying or len({t.value for t in complete}) < 2:
        return None
    study = study_of(space, complete, {t.id for t in complete})
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=seed)
    shares = optuna.importance.get_param_importances(study, evaluator=evaluator, params=varying)
    return {name: float(shares.get(name, 0.0)) for name in names}
