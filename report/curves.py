"""Figures of training runs: validation accuracy of all methods, rate and fitness of every worker, wall time by phase."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from report.cells import count_ranks
from report.drawing import COLOURS, WIDTH, Picture, footer, headline, look, subject, test_cell
from report.names import SPECIES
from report.records import PHASES, TableRecords, mean_over_workers

PHASE_COLOURS = dict(zip(PHASES, ("#C9CDD2", "#0072B2", "#E69F00", "#D55E00", "#CC79A7"), strict=True))


def accuracy(records: TableRecords, rows: pd.DataFrame) -> Picture:
    """Validation accuracy of every method against what it cost so far."""
    passes = rows.gradient_evaluations_mean / rows.train_images_mean
    same_cost = np.allclose(passes, passes.iloc[0])
    labels = [f"{row.label}: test {test_cell(row)}" for _, row in rows.iterrows()]
    columns = 2 if max(map(len, labels)) < 48 else 1
    figure = Figure((WIDTH, 4.1 + 0.2 * -(-len(rows) // columns)), layout="constrained")
    axes = figure.subplots()
    lows = []
    for i, name in enumerate(rows.index):
        style = look(rows, i)
        mean, low, high = curve(records, name)
        cost = 1 if same_cost else passes[name]
        line = {**style, "lw": 1.8 if len(mean) < 50 else 1.2, "zorder": 5 - 0.1 * i}
        axes.plot(mean.index * cost, 100 * mean, label=labels[i], **line)
        if (high > low).any():
            axes.fill_between(low.index * cost, 100 * low, 100 * high, color=style["color"], alpha=0.1, lw=0)
        lows.append(100 * np.nanmin([*mean.iloc[len(mean) // 4 :], np.inf]))
    title = f"Validation accuracy during training, {subject(rows)}"
    axes.set_ylabel("validation accuracy, %")
    axes.set_xlabel("training images seen by all workers" if same_cost else "gradient evaluations (images × backward passes)")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.set_xlim(left=0)
    _focus(axes, lows)
    headline(figure, axes, title, columns)
    bands = _bands(rows)
    footer(figure, records.profile, rows, bands)
    caption = (
        "Validation accuracy after every round, of the workers' own weights before they are merged (under foraging: of a "
        f"population's smoothed weights). Line: mean over workers{' and seeds' if rows.n.max() > 1 else ''}; {bands}. The axis "
        "leaves out what lies far below. In the legend: test accuracy of the merged weights, measured once, at the end."
    )
    return Picture(f"{records.table.name}-accuracy", title, caption, figure)


def curve(records: TableRecords, row: str) -> tuple[pd.Series, pd.Series, pd.Series]:
    """Validation accuracy of a row by training images seen: mean over workers and runs, lowest, highest.

    The band is over the workers of the only run, or over the runs' means where there are several.
    """
    runs = records.runs_of(row).index
    means = [mean_over_workers(records.rounds_of(run), "val_accuracy", "images") for run in runs]
    if len(means) == 1:
        spread = records.rounds_of(runs[0]).set_index("images").val_accuracy
    else:
        spread = pd.concat(means)
    groups = spread.groupby(level=0)
    return pd.concat(means).groupby(level=0).mean(), groups.min(), groups.max()


def workers(records: TableRecords, row: pd.Series) -> Picture | None:
    """Learning rate and fitness of every worker of a row's first run; None where all workers use the same rates."""
    run = records.runs_of(row.name).iloc[0]
    rounds = records.rounds_of(run.name)
    if not (rounds.groupby("round").lr.nunique() > 1).any():
        return None
    figure = Figure((WIDTH, 5.6), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    losses = bool((_finite(rounds.fitness) < 0).any())  # foraging compares losses, other rules accuracies
    scale = 1 if losses else 100
    handles = _worker_lines(upper, lower, rounds, scale)
    title = f"Every worker's rate and fitness: {row.label}, {subject(row.to_frame().T)}"
    _rate_axis(upper, rounds.lr[rounds.lr > 0])
    what = "fitness: minus loss on\nheld-out images" if losses else "fitness: accuracy on\nheld-out images, %"
    lower.set(xlabel="round", ylabel=what)
    lower.xaxis.set_major_locator(MaxNLocator(nbins=14, integer=True))
    if not losses:
        _focus(lower, [100 * _finite(rounds.fitness[rounds["round"] >= rounds["round"].max() // 4]).min()])
    headline(figure, upper, title, min(len(handles), 4), handles)
    footer(figure, records.profile, row.to_frame().T.assign(seeds=str(run.seed)), run.name)
    caption = (
        "One thin line per worker, coloured by population; dots mark the leader that all workers elect by fitness "
        "(then by higher rate) at the end of the round. The rate is the one the round was trained with, before warm-up."
    )
    return Picture(f"{records.table.name}-workers-{row.name}", title, caption, figure)


def _worker_lines(upper: Axes, lower: Axes, rounds: pd.DataFrame, scale: float) -> list[Line2D]:
    """A line per worker in both axes, dots at the leaders; returns the entries of the legend."""
    handles = []
    for (index, species), part in rounds.groupby(["population", "species"]):
        colour = COLOURS[index % len(COLOURS)]
        for _, worker in part.groupby("rank"):
            style = {"color": colour, "lw": 0.9, "alpha": 0.75}
            upper.plot(worker["round"] + 1, worker.lr, **style)
            lower.plot(worker["round"] + 1, scale * _finite(worker.fitness), **style)
        label = f"population {index}: {part['rank'].nunique()} {SPECIES.get(species, species)}"
        handles.append(Line2D([], [], color=colour, lw=2, label=label))
    leaders = rounds[rounds.leader]
    size, edge = (26, 0.7) if len(leaders) <= 40 else (10, 0.4)
    dots = {"s": size, "linewidths": edge, "edgecolors": "black", "c": [COLOURS[p % len(COLOURS)] for p in leaders.population]}
    upper.scatter(leaders["round"] + 1, leaders.lr, zorder=5, **dots)
    lower.scatter(leaders["round"] + 1, scale * _finite(leaders.fitness), zorder=5, **dots)
    marker = {"marker": "o", "ls": "", "markerfacecolor": "white", "markeredgecolor": "black", "markersize": 5}
    return [*handles, Line2D([], [], label="leader", **marker)]


def _rate_axis(axes: Axes, rates: pd.Series) -> None:
    """Logarithmic where rates differ by more than a factor of 10."""
    axes.set_ylabel("learning rate")
    if len(rates) and rates.max() > 10 * rates.min():
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if rates.max() < 100 * rates.min() else (1,)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())


def seconds(records: TableRecords, rows: pd.DataFrame) -> Picture:
    """Where the wall time of every row went."""
    figure = Figure((WIDTH, 2.0 + 0.36 * len(rows)), layout="constrained")
    axes = figure.subplots()
    bars = np.arange(len(rows))[::-1]
    left = np.zeros(len(rows))
    for phase in PHASES:
        width = rows[f"seconds_{phase}_mean"].to_numpy(dtype=float)
        axes.barh(bars, width, left=left, height=0.62, color=PHASE_COLOURS[phase], label=phase)
        left += width
    for bar, end, (_, row) in zip(bars, left, rows.iterrows(), strict=True):
        beside = ", beside other runs" if row.side_by_side else ""
        axes.text(end, bar, f"  {100 * row.sync_share_mean:.1f} %{beside}", va="center", fontsize=9)
    axes.set_yticks(bars, [f"{row.label}, {count_ranks(row.ranks)}" for _, row in rows.iterrows()])
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
    axes.set_xlim(0, (1.6 if rows.side_by_side.any() else 1.1) * left.max())
    axes.set_xlabel("wall time, s\nat the bars: (evaluate + exchange) / (train + evaluate + exchange)", loc="right")
    title = f"Where the time went, {subject(rows)}"
    headline(figure, axes, title, len(PHASES), side="right")
    footer(figure, records.profile, rows, "; ".join(dict.fromkeys(rows.hardware)))
    caption = (
        f"Wall time by phase, mean over ranks{' and seeds' if rows.n.max() > 1 else ''}. Exchange includes election, the move "
        "of the rates and waiting for other ranks; other is checkpoints and records. At each bar: the share of evaluate + "
        "exchange in train + evaluate + exchange. Seconds of runs beside other runs are no measurement."
    )
    return Picture(f"{records.table.name}-seconds", title, caption, figure)


def _bands(rows: pd.DataFrame) -> str:
    one, several = bool((rows.n == 1).any()), bool((rows.n > 1).any())
    over = ["workers"] * one + ["seeds"] * several
    return "band: lowest to highest of the " + (" (one seed) or ".join(over) if one and several else over[0])


def _focus(axes: Axes, lows: list[float]) -> None:
    """Let the axis begin below the lowest accuracy after the first quarter, so that the end can be told apart."""
    lowest = min(lows, default=0.0)
    if np.isfinite(lowest):
        axes.set_ylim(bottom=max(0.0, lowest - 0.15 * (100 - lowest)))
        axes.set_ylim(top=min(axes.get_ylim()[1], 100.4))


def _finite(values: pd.Series) -> pd.Series:
    """Fitness with gaps instead of -inf, which stands for lost weights."""
    return values.where(np.isfinite(values))
