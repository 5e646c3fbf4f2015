"""Figures of a profile, made from the records alone.

    python results/make_figures.py [smoke|cpu|gpu|paper]

Writes results/<profile>/figures/*.png: accuracy-* (validation accuracy of all methods), workers-* (learning rate and fitness of
every worker of one run), seconds-* (where the time went). Where methods were run with three base rates or periods or more:
start-* and period-* (test accuracy over them); of base rates the others then show the middle one. distance-*: how far
swarms are spread. search-*: the best so far of searches (searches.py). Where line searches are compared with rates: steps-*
(loss and accuracy) and first-step-* (accuracy over what they began with). Each file carries its title and caption as PNG text,
which make_report.py shows beside it.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import searches
from drawing import (
    COLOURS,
    METHOD_COLOURS,
    STYLES,
    WIDTH,
    Picture,
    commits,
    footnote,
    headline,
    ranks,
    seeds,
    slug,
    subject_title,
    test_cell,
)
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from names import SPECIES
from records import Records, count_ranks, from_command_line
from run_reading import PHASES
from step_figures import first_step, steps
from sweep_figures import distance, period, start

PHASE_COLOURS = dict(zip(PHASES, ("#C9CDD2", "#0072B2", "#E69F00", "#D55E00", "#CC79A7"), strict=True))


def draw(records: Records) -> Iterator[Picture]:
    """Every figure that the records allow."""
    sweeps, periods, compared = dict(records.sweeps()), dict(records.periods()), dict(records.steps())
    for subject, rows in records.groups():
        done = rows[rows.n > 0]
        if subject in periods:
            yield period(records, subject, periods[subject])
            if picture := distance(records, subject, periods[subject]):
                yield picture
            continue
        if subject in compared:
            yield steps(records, subject, compared[subject])
            if picture := first_step(records, subject, compared[subject]):
                yield picture
            continue
        if subject in sweeps:
            done = sweeps[subject]
            yield start(records, subject, done)
            done = done[done.asked == sorted(done.asked.unique())[done.asked.nunique() // 2]]
        if len(done):
            yield accuracy(records, subject, done)
            yield seconds(records, subject, done)
        for number, row in done.iterrows():
            alone = (done.method == row.method).sum() == 1
            picture = workers(records, f"{subject}-{row.method}" if alone else f"{subject}-{row.label}", number)
            if picture:
                yield picture


def accuracy(records: Records, subject: str, rows: pd.DataFrame) -> Picture:
    """Validation accuracy of every method against what it cost so far."""
    passes = rows.gradient_evaluations_mean / rows.train_images_mean
    same_cost = np.allclose(passes, passes.iloc[0])
    labels = [f"{row.label}: test {test_cell(row)}" for _, row in rows.iterrows()]
    columns = 2 if max(map(len, labels)) < 48 else 1
    figure = Figure((WIDTH, 4.1 + 0.2 * -(-len(rows) // columns)), layout="constrained")
    axes = figure.subplots()
    lows = []
    for i, number in enumerate(rows.index):
        look = _look(rows, i)
        curve = _curve(records, number)
        x = curve.index * (1 if same_cost else passes[number])
        line = {**look, "lw": 1.8 if len(curve) < 50 else 1.2, "zorder": 5 - 0.1 * i}
        axes.plot(x, 100 * curve["mean"], label=labels[i], **line)
        if (curve.high > curve.low).any():
            axes.fill_between(x, 100 * curve.low, 100 * curve.high, color=look["color"], alpha=0.1, lw=0)
        lows.append(100 * np.nanmin([*curve["mean"].iloc[len(curve) // 4 :], np.inf]))
    title = f"Validation accuracy during training, {subject_title(rows)}"
    axes.set_ylabel("validation accuracy, %")
    axes.set_xlabel("training images seen by all workers" if same_cost else "gradient evaluations (images × backward passes)")
    axes.xaxis.set_major_formatter(FuncFormatter(_thousands))
    axes.set_xlim(left=0)
    _focus(axes, lows)
    headline(figure, axes, title, columns)
    bands = _bands(rows)
    footnote(figure, [f"profile {records.profile}", ranks(rows), seeds(rows), f"commit {commits(rows)}", bands])
    caption = (
        "Validation accuracy after every round, of the workers' own weights before they are merged (of a population's smoothed "
        "ones where it forages). Line: mean over workers"
        f"{' and seeds' if rows.n.max() > 1 else ''}; {bands}. The axis leaves out what lies far below. In the legend: test "
        "accuracy of the merged weights, measured once, after the last round."
    )
    return Picture(f"accuracy-{slug(subject)}", title, caption, figure)


def workers(records: Records, subject: str, number: int) -> Picture | None:
    """Learning rate and fitness of every worker of a row's first run; None where all workers use the same rates."""
    row = records.rows.loc[number]
    run = records.counted(number).iloc[0]
    rounds = records.rounds_of(run.name)
    if not (rounds.groupby("round").lr.nunique() > 1).any():
        return None
    figure = Figure((WIDTH, 5.6), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    handles = []
    losses = bool((_finite(rounds.fitness) < 0).any())  # foraging compares losses, everybody else accuracies
    scale = 1 if losses else 100
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
    handles.append(Line2D([], [], label="leader", **marker))
    title = f"Every worker's rate and fitness: {row.label}, {subject_title(records.rows.loc[[number]])}"
    positive = rounds.lr[rounds.lr > 0]
    if len(positive) and positive.max() > 10 * positive.min():
        upper.set_yscale("log")
        upper.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if positive.max() < 100 * positive.min() else (1,)))
        upper.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
        upper.yaxis.set_minor_formatter(NullFormatter())
    upper.set_ylabel("learning rate")
    what = "fitness: minus loss on\nheld-out images" if losses else "fitness: accuracy on\nheld-out images, %"
    lower.set(xlabel="round", ylabel=what)
    lower.xaxis.set_major_locator(MaxNLocator(nbins=14, integer=True))
    if not losses:
        _focus(lower, [100 * _finite(rounds.fitness[rounds["round"] >= rounds["round"].max() // 4]).min()])
    headline(figure, upper, title, min(len(handles), 4), handles)
    others = f"seed {run.seed}" + (f" (of {row.seeds})" if row.n > 1 else "")
    footnote(
        figure, [f"profile {records.profile}", ranks(records.rows.loc[[number]]), others, f"commit {run.commit}", run.name]
    )
    caption = (
        "One thin line per worker, coloured by population; dots mark the leader whom all workers elect by fitness "
        "(then by higher rate) at the end of the round. The rate is the one the round was trained with, before warm-up."
    )
    return Picture(f"workers-{slug(subject)}", title, caption, figure)


def seconds(records: Records, subject: str, rows: pd.DataFrame) -> Picture:
    """Where the wall time of every row went."""
    figure = Figure((WIDTH, 2.0 + 0.36 * len(rows)), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(rows))[::-1]
    left = np.zeros(len(rows))
    for phase in PHASES:
        width = rows[f"seconds_{phase}_mean"].to_numpy()
        axes.barh(places, width, left=left, height=0.62, color=PHASE_COLOURS[phase], label=phase)
        left += width
    for place, end, share in zip(places, left, rows.sync_share_mean, strict=True):
        axes.text(end, place, f"  {100 * share:.1f} %", va="center", fontsize=9)
    alike = rows.ranks.nunique() == 1
    axes.set_yticks(
        places, [r.label if alike or " rank" in r.label else f"{r.label}, {count_ranks(r.ranks)}" for _, r in rows.iterrows()]
    )
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
    axes.set_xlim(0, 1.1 * left.max())
    axes.set_xlabel("wall time, s\nat the bars: (evaluate + exchange) / (train + evaluate + exchange)", loc="right")
    title = f"Where the time went, {subject_title(rows)}"
    headline(figure, axes, title, len(PHASES), side="right")
    hardware = "; ".join(dict.fromkeys(rows.hardware))
    footnote(figure, [f"profile {records.profile}", ranks(rows), seeds(rows), f"commit {commits(rows)}", hardware])
    caption = (
        f"Wall time by phase, mean over ranks{' and seeds' if rows.n.max() > 1 else ''}. Exchange includes election, the move "
        "of the rates and waiting for others; other is checkpoints and records. At each bar: the share of evaluate + exchange "
        "in train + evaluate + exchange."
    )
    return Picture(f"seconds-{slug(subject)}", title, caption, figure)


def _curve(records: Records, row: int) -> pd.DataFrame:
    """Validation accuracy by training images seen: `mean` over workers and runs, `low` and `high` over the workers of the
    only run, or over the runs' means where there are several. A round counts once every run of the row that got there has."""
    runs = records.counted(row).index
    metrics = records.metrics[records.metrics.run.isin(runs)]
    by_run = metrics.groupby(["images", "run"]).val_accuracy
    spread = by_run.mean() if len(runs) > 1 else metrics.set_index("images").val_accuracy
    groups = spread.groupby(level="images")
    return pd.DataFrame({"mean": by_run.mean().groupby(level="images").mean(), "low": groups.min(), "high": groups.max()})


def _bands(rows: pd.DataFrame) -> str:
    one, several = bool((rows.n == 1).any()), bool((rows.n > 1).any())
    over = ["workers"] * one + ["seeds"] * several
    return "band: lowest to highest of the " + (" (one seed) or ".join(over) if one and several else over[0])


def _look(rows: pd.DataFrame, i: int) -> dict[str, object]:
    """The method's own colour and dashes; the i-th of the palette where a method has several rows or no colour of its own, and
    other dashes when all its colours have been used.
    """
    method = rows.method.iloc[i]
    own = METHOD_COLOURS.get(method)
    if own and not rows.method.duplicated().any():
        return {"color": own, "ls": {"eoa-reference": (0, (6, 2)), "replay": (0, (4, 1.5))}.get(method, "-")}
    return {"color": COLOURS[i % len(COLOURS)], "ls": STYLES[i // len(COLOURS) % len(STYLES)]}


def _focus(axes: Axes, lows: list[float]) -> None:
    """Let the axis begin below the lowest accuracy after the first quarter, so that the end can be told apart."""
    lowest = min(lows, default=0.0)
    if np.isfinite(lowest):
        bottom = max(0.0, lowest - 0.15 * (100 - lowest))
        axes.set_ylim(bottom=bottom)
        axes.set_ylim(top=min(axes.get_ylim()[1], 100.4))


def _finite(values: pd.Series) -> pd.Series:
    """Fitness with gaps instead of -inf, which stands for lost weights."""
    return values.where(np.isfinite(values))


def _thousands(value: float, _: int) -> str:
    return f"{value:,.0f}"


def write(records: Records, folder: Path) -> list[Path]:
    """Draw everything, in place of what was there; returns the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.png"):
        old.unlink()
    return [picture.save(folder) for picture in (*draw(records), *searches.pictures(folder.parent))]


def main() -> None:
    records, folder = from_command_line(__doc__)
    for path in write(records, folder / "figures"):
        print(path)


if __name__ == "__main__":
    main()
