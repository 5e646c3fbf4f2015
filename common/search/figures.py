"""Figures of one search, drawn by Optuna: the best value so far, the value over each variable, and the curves of trials."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optuna

from common.search.search import Search
from common.search.space import Space
from common.search.tpe import study_of
from common.search.trial import State


def write_figures(folder: Path, search: Search, space: Space, title: str) -> list[Path]:
    """Write history.png, slices.png and, if trials have several steps, curves.png; nothing without a complete trial.

    Failed trials are left out. A variable on a logit scale is shown in logits. Returns the paths.
    """
    if not any(trial.state is State.COMPLETE for trial in search.trials):
        return []
    import matplotlib.pyplot as plt  # only here: a second to import

    plt.switch_backend("Agg")  # no window, whatever the desktop
    study = study_of(space, search.trials)
    draw = optuna.visualization.matplotlib
    plots: dict[str, Callable[[optuna.Study], Any]] = {"history": draw.plot_optimization_history, "slices": draw.plot_slice}
    if any(len(trial.curve) > 1 for trial in search.trials):
        plots["curves"] = draw.plot_intermediate_values
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, plot in plots.items():
        with warnings.catch_warnings(), plt.rc_context():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            figure = np.ravel(plot(study))[0].figure
        figure.suptitle(title)
        figure.set_layout_engine("constrained")
        paths.append(folder / f"{name}.png")
        figure.savefig(paths[-1], dpi=120)
        plt.close(figure)
    return paths
