"""Figures of sweeps: over base rates and over communication periods, and how far swarms are spread."""

import numpy as np
import pandas as pd
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
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from records import Records
from sweep_tables import has_own_images


def start(records: Records, subject: str, rows: pd.DataFrame) -> Picture:
    """Test accuracy of every method over the base rate it was given."""
    figure = Figure((WIDTH, 4.4), layout="constrained")
    axes = figure.subplots()
    for i, (method, part) in enumerate(rows.groupby("method", sort=False)):
        colour = METHOD_COLOURS.get(str(method), COLOURS[i % len(COLOURS)])
        part = part.sort_values("asked")
        accuracies = [100 * records.counted(number).test_accuracy.astype(float) for number in part.index]
        lost = int(part.diverged.sum())
        label = f"{part.title.iloc[0]}{f' ({lost} of {part.n.sum()} runs diverged)' if lost else ''}"
        axes.plot(part.asked, [a.mean() for a in accuracies], marker="o", ms=4, color=colour, lw=1.8, label=label)
        axes.fill_between(
            part.asked, [a.min() for a in accuracies], [a.max() for a in accuracies], color=colour, alpha=0.12, lw=0
        )
    axes.set_xscale("log")
    axes.set_xlabel("base rate that was asked for (--learning-rate)")
    axes.set_ylabel("test accuracy, %")
    title = f"What a wrong base rate costs, {subject_title(rows)}"
    headline(figure, axes, title, 2)
    band = "band: lowest to highest seed" if rows.n.max() > 1 else "one seed"
    footnote(figure, [f"profile {records.profile}", ranks(rows), seeds(rows), f"commit {commits(rows)}", band])
    caption = (
        "Test accuracy of the final model over the base rate that the run was started with, mean over seeds. Diverged runs "
        "count with the last finite weights."
    )
    return Picture(f"start-{slug(subject)}", title, caption, figure)


def period(records: Records, subject: str, rows: pd.DataFrame) -> Picture:
    """Test accuracy of every method over its communication period, at the rate chosen for each."""
    figure = Figure((WIDTH, 4.6), layout="constrained")
    axes = figure.subplots()
    chosen = rows[rows.chosen]
    periods = sorted(p for p in chosen.period.unique() if np.isfinite(p))
    for i, (title, part) in enumerate(chosen.groupby("title", sort=False)):
        colour, style = COLOURS[i % len(COLOURS)], STYLES[i // len(COLOURS)]
        part = part.sort_values("period")
        accuracies = [100 * records.counted(number).test_accuracy.astype(float) for number in part.index]
        x, y, low, high = list(part.period), *([f(a) for a in accuracies] for f in (np.mean, np.min, np.max))
        line = {"color": colour, "lw": 1.8, "ls": style, "label": title}
        if x == [np.inf] or x == periods[:1]:  # nothing that a period changes: a level for all of them
            x, y, low, high = periods, y * len(periods), low * len(periods), high * len(periods)
            line |= {"ls": STYLES[2], "label": f"{title}: {'every step' if part.period.iloc[0] == 1 else 'never'}"}
        else:
            line |= {"marker": "o", "ms": 4}
        axes.plot(x, y, **line)
        axes.fill_between(x, low, high, color=colour, alpha=0.12, lw=0)
        if len(x) == 1:  # a band without a width
            axes.plot(x * 2, [*low, *high], color=colour, lw=1)
    axes.set_xscale("log", base=2)
    axes.set_xticks(periods, [f"{p:g}" for p in periods])
    axes.set_xlabel("communication period τ: steps of a worker between two exchanges")
    axes.set_ylabel("test accuracy, %")
    own = has_own_images(rows)
    title = f"Communicating rarely, {subject_title(rows)}{', workers with images of their own' if own else ''}"
    headline(figure, axes, title, 2)
    band = "band: lowest to highest seed" if chosen.n.max() > 1 else "one seed"
    footnote(figure, [f"profile {records.profile}", ranks(rows), seeds(chosen), f"commit {commits(chosen)}", band])
    caption = (
        f"Test accuracy of {'the final model' if own else 'the centre'} over the communication period, mean over seeds, at the "
        "learning rate with the best validation accuracy of those tried for each method and period."
    )
    return Picture(f"period-{slug(subject)}", title, caption, figure)


def distance(records: Records, subject: str, rows: pd.DataFrame) -> Picture | None:
    """How far a swarm's workers are from its best place over the rounds, by its coefficients; None without several of them."""
    swarms = rows[rows.chosen & rows.new_best_share_mean.notna()]
    if swarms.title.nunique() < 2:
        return None
    several = swarms.groupby("period").title.nunique()
    swarms = swarms[swarms.period == several.idxmax()]
    figure = Figure((WIDTH, 4.1), layout="constrained")
    axes = figure.subplots()
    apart = False
    for i, (number, row) in enumerate(swarms.iterrows()):
        for k, run in enumerate(records.counted(number).index):
            spread = records.rounds_of(run).groupby("round").distance.mean()
            near = spread[np.isfinite(spread)]
            line = {"color": COLOURS[i], "lw": 1.2, "marker": "o", "ms": 3}
            axes.plot(near.index + 1, near, label=_swarm_label(row) if k == 0 else None, **line)
            if len(near) < len(spread):
                apart = True
                axes.plot(near.index[-1:] + 1, near[-1:], "^", color=COLOURS[i], ms=9)
    axes.set_yscale("log")
    axes.set(xlabel="round", ylabel="mean distance of a worker to G")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=14, integer=True))
    title = f"How far a swarm is spread, {subject_title(rows)}: PSO-PS (our reconstruction)"
    headline(figure, axes, title, 2)
    parts = [f"profile {records.profile}", ranks(swarms), seeds(swarms), f"commit {commits(swarms)}"]
    footnote(figure, [*parts, f"τ = {swarms.period.iloc[0]:g}; a line a seed{'; ▲ then it flies apart' * apart}"])
    caption = (
        "Euclidean distance of a worker's weights to the best place of all, G, after every round: mean over workers, a line a "
        "seed, for each set of coefficients at the rate with the best validation accuracy. A line ends in a triangle where "
        "weights are then too far apart for single precision to square. In the legend: test accuracy of G."
    )
    return Picture(f"distance-{slug(subject)}", title, caption, figure)


def _swarm_label(row: pd.Series) -> str:
    return f"{row.settings.get('swarm', '?')}: test {test_cell(row)}"
