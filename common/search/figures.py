"""Figures of one search, as PNG: best so far, ranks, parallel coordinates, slices, importance, curves; from its trials."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from common.search.search import Search
from common.search.simulation import utilisation
from common.search.space import Space, Variable
from common.search.trial import State, Trial

WIDTH = 7.5  # inches
COLOURS = {State.COMPLETE: "#0072B2", State.PRUNED: "#E69F00", State.FAILED: "#D55E00"}  # other states are not drawn
GREY = "#5F6670"
STYLE: Any = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "savefig.dpi": 150,
}


def write_figures(folder: Path, search: Search, space: Space, shares: dict[str, float] | None, title: str) -> list[Path]:
    """Draw every figure that has data; returns the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    with mpl.rc_context(STYLE):
        for name, figure in _draw(search, space, shares, title):
            paths.append(folder / f"{name}.png")
            figure.savefig(paths[-1])
    return paths


def _draw(search: Search, space: Space, shares: dict[str, float] | None, title: str) -> Iterator[tuple[str, Figure]]:
    complete = [t for t in search.trials if t.state is State.COMPLETE]
    if complete:
        yield "best", best_so_far(complete, title)
        yield "parallel", parallel_coordinates(complete, space, title)
        yield "slices", slices(complete, space, title)
    if any(t.end is not None for t in search.trials):
        yield "ranks", gantt(search, title)
    if shares:
        yield "importance", bars(shares, title)
    if any(len(t.curve) > 1 for t in search.trials):
        yield "curves", curves(search.trials, title)


def _figure(title: str, height: float, width: float = WIDTH) -> tuple[Figure, Axes]:
    figure = Figure((width, height), layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    return figure, figure.subplots()


def best_so_far(complete: list[Trial], title: str) -> Figure:
    """The best value so far over complete trials, in order of completion, and over time."""
    figure = Figure((WIDTH, 3.4), layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    by_end = sorted(complete, key=lambda t: t.end or 0.0)
    values = np.array([t.value for t in by_end], dtype=float)
    ends = [t.end or 0.0 for t in by_end]
    left, right = figure.subplots(1, 2, sharey=True)
    for axes, x, label in ((left, range(1, len(values) + 1), "complete trials"), (right, ends, "seconds")):
        axes.plot(x, values, ".", color="#C9CDD2", label="trials")
        axes.step(x, np.maximum.accumulate(values), where="post", color=COLOURS[State.COMPLETE], lw=1.8, label="best so far")
        axes.set_xlabel(label)
        axes.set_xlim(left=0)
    left.set_ylabel("value")
    left.legend(loc="lower right", fontsize=9)
    return figure


def gantt(search: Search, title: str) -> Figure:
    """Trials of every worker over time; idle time is white."""
    share, workers = 100 * utilisation(search), max(workers for _, workers in search.sessions)
    figure, axes = _figure(f"{title}\n{share:.1f} % of the workers' time in trials", 1.4 + 0.22 * min(workers, 64))
    for state, colour in COLOURS.items():
        mine = [t for t in search.trials if t.state is state and t.start is not None and t.end is not None]
        if mine:
            starts = np.array([t.start for t in mine], dtype=float)
            lengths = np.array([t.end for t in mine], dtype=float) - starts
            rows = [t.worker or 0 for t in mine]
            axes.barh(rows, lengths, 0.8, left=starts, color=colour, edgecolor="white", lw=0.4, label=str(state))
    for moment, _ in search.sessions[1:]:
        axes.axvline(moment, color=GREY, lw=0.8, ls=":")
    axes.set_yticks(range(workers) if workers <= 32 else [0, workers - 1])
    axes.set_ylim(workers - 0.5, -0.5)
    axes.set_xlabel("seconds since the search began")
    axes.set_ylabel("worker")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, fontsize=9)
    return figure


ABSENT = -0.1  # height of a variable that does not exist in a trial
LABEL: Any = {"fontsize": 7.5, "color": GREY, "va": "center", "zorder": 5}
PLATE = {"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 0.8}  # background of labels that lines cross


def parallel_coordinates(complete: list[Trial], space: Space, title: str) -> Figure:
    """A line for every complete trial, coloured by its value, the best ones on top; each axis on its variable's scale.

    A variable that does not exist in a trial is drawn below the axis.
    """
    figure, axes = _figure(title, 3.8, max(WIDTH, 1.5 + 1.3 * len(space.variables)))
    values = np.array([t.value for t in complete], dtype=float)
    norm = mpl.colors.Normalize(values.min(), values.max() if np.ptp(values) else values.min() + 1e-9)
    colours = mpl.colormaps["viridis"]
    x = range(len(space.variables) + 1)
    for k in np.argsort(values, kind="stable"):
        heights = [_height(v, complete[k]) for v in space.variables]
        axes.plot(x, [*heights, float(norm(values[k]))], color=colours(norm(values[k])), lw=1.0, alpha=0.8)
    for place, variable in enumerate(space.variables):
        for height, text in _ticks(variable):
            axes.text(place + 0.03, height, text, bbox=PLATE, **LABEL)
        if variable.when:
            axes.text(place + 0.03, ABSENT, "inactive", bbox=PLATE, style="italic", **LABEL)
    axes.set_xticks(list(x), [*space.names, "value"], fontsize=8)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    figure.colorbar(mpl.cm.ScalarMappable(norm, colours), ax=axes, label="value")
    return figure


def slices(complete: list[Trial], space: Space, title: str) -> Figure:
    """The value over each variable, of the trials that have it; later ones are darker."""
    columns = min(3, len(space.variables))
    rows = -(-len(space.variables) // columns)
    figure = Figure((WIDTH, 0.6 + 2.0 * rows), layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    panels = list(figure.subplots(rows, columns, sharey=True, squeeze=False).flat)
    for variable, panel in zip(space.variables, panels, strict=False):
        mine = [t for t in complete if variable.name in t.setting]
        places, ids = [_height(variable, t) for t in mine], [t.id for t in mine]
        panel.scatter(places, [t.value for t in mine], s=12, c=ids, cmap="Blues", vmin=-len(complete) / 2)
        heights, texts = zip(*_ticks(variable), strict=True)
        panel.set_xticks(heights, texts, fontsize=8)
        panel.set_xlim(-0.06, 1.06)
        panel.set_xlabel(variable.name, fontsize=9)
    for panel in panels[len(space.variables) :]:
        panel.set_visible(False)
    figure.supylabel("value", fontsize=10)
    figure.supxlabel("darker: later trials", x=0.99, ha="right", fontsize=8, color=GREY)
    return figure


def _height(variable: Variable, trial: Trial) -> float:
    if variable.name not in trial.setting:
        return ABSENT
    value = trial.setting[variable.name]
    if variable.is_numeric:
        return variable.to_unit(value)
    return variable.choices.index(value) / max(len(variable.choices) - 1, 1)


def _ticks(variable: Variable) -> list[tuple[float, str]]:
    if variable.is_numeric:
        values = dict.fromkeys(variable.from_unit(u) for u in (0.0, 0.5, 1.0))  # integers lie half a unit further in
        return [(variable.to_unit(value), f"{float(value):.3g}") for value in values]
    return [(k / max(len(variable.choices) - 1, 1), str(choice)) for k, choice in enumerate(variable.choices)]


def bars(shares: dict[str, float], title: str) -> Figure:
    """Importance, the most important variable first."""
    figure, axes = _figure(title, 1.2 + 0.35 * len(shares))
    names = sorted(shares, key=lambda name: -shares[name])
    axes.barh(names, [shares[n] for n in names], color=COLOURS[State.COMPLETE])
    axes.invert_yaxis()
    axes.set_xlabel("variance explained by the variable alone, over the sum of these (fANOVA)")
    return figure


def curves(trials: list[Trial], title: str) -> Figure:
    """The value after every step of every trial; pruned ones are marked, since their last values are not comparable."""
    figure, axes = _figure(title, 3.6)
    shown: set[State] = set()
    for trial in trials:
        if trial.curve and trial.has_ended:
            label = str(trial.state) if trial.state not in shown else None
            end: Any = {"marker": "x", "markevery": [-1], "ms": 5} if trial.state is State.PRUNED else {}
            steps = range(1, len(trial.curve) + 1)
            axes.plot(steps, trial.curve, color=COLOURS[trial.state], lw=0.9, alpha=0.7, label=label, **end)
            shown.add(trial.state)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("step")
    axes.set_ylabel("value")
    axes.legend(fontsize=9)
    return figure
