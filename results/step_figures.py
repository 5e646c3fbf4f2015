"""Figures of steps: line searches beside tuned rates, and what a wrong start does to either."""

import numpy as np
import pandas as pd
from drawing import COLOURS, STYLES, WIDTH, Picture, commits, footnote, headline, ranks, seeds, slug, subject_title
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from names import SEARCHES
from records import LEAST_IN_A_SWEEP, Records


def steps(records: Records, subject: str, rows: pd.DataFrame) -> Picture:
    """Final training loss and test accuracy of every kind of step, a dot a seed."""
    chosen = rows[rows.chosen]
    figure = Figure((WIDTH, 1.7 + 0.3 * len(chosen)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    losses = np.concatenate([records.counted(number).train_loss.astype(float) for number in chosen.index])
    losses = losses[np.isfinite(losses) & (losses > 0)]
    # Of a rate that diverged on one seed the loss is anything.
    edge = 1.1 * losses[losses < 30 * np.median(losses)].max() if len(losses) else np.inf
    places, used = np.arange(len(chosen))[::-1], set()
    for place, (number, row) in zip(places, chosen.iterrows(), strict=True):
        runs = records.counted(number)
        colour = COLOURS[1] if row.method in SEARCHES else COLOURS[0] if np.isfinite(row.asked) else COLOURS[2]
        used.add(colour)
        loss = runs.train_loss.astype(float).fillna(np.inf)
        for axes, values in ((left, loss.clip(upper=edge)), (right, 100 * runs.test_accuracy.astype(float))):
            axes.plot([values.min(), values.max()], [place, place], color=colour, lw=1.2)
            axes.plot(values, [place] * len(values), "o", ms=5, mec="white", mew=0.6, color=colour)
        if (loss > edge).any():
            left.plot(edge, place, ">", ms=8, color=colour)
    left.set_yticks(places, chosen.title)
    left.set_ylim(-0.5, len(chosen) - 0.5)  # the outermost dots whole, however few there are
    if len(losses) and edge > 3 * losses.min():  # in a narrower range a log axis has no room for its numbers
        left.set_xscale("log")
        left.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        left.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
        left.xaxis.set_minor_formatter(NullFormatter())
    left.set_xlabel("training loss, last round")
    right.set_xlabel("test accuracy, %")
    for axes in (left, right):
        axes.tick_params(axis="y", length=0)
    kinds = {"line search": COLOURS[1], "tuned rate": COLOURS[0], "no rate": COLOURS[2]}
    handles = [left.plot([], [], "o", color=c, label=words)[0] for words, c in kinds.items() if c in used]
    title = f"Steps that find themselves and steps that are tuned, {subject_title(rows)}"
    headline(figure, left, title, 2, handles)
    footnote(figure, [f"profile {records.profile}", ranks(chosen), seeds(chosen), f"commit {commits(chosen)}", "a dot a seed"])
    caption = (
        "Training loss of the last round (without smoothed labels or decay) and test accuracy at the end, a dot a seed; rates "
        "are those with the best validation accuracy of the ones tried, line searches are not tuned. A triangle: a loss beyond "
        "the edge, on some seed."
    )
    return Picture(f"steps-{_slug(subject)}", title, caption, figure)


def first_step(records: Records, subject: str, rows: pd.DataFrame) -> Picture | None:
    """Test accuracy over the learning rate or the first step; None without a line search begun with several."""
    wide = rows.groupby("title").filter(lambda part: part.asked.nunique() >= LEAST_IN_A_SWEEP)
    wide = wide[wide.method.isin(SEARCHES) | ((wide.method == "constant") & wide.optimizers.isin(("sgd", "adamw")))]
    if not wide.method.isin(SEARCHES).any():
        return None
    figure = Figure((WIDTH, 4.4), layout="constrained")
    axes = figure.subplots()
    wide = wide.sort_values("method", key=lambda methods: ~methods.isin(SEARCHES), kind="stable")  # searches first
    for title, part in wide.groupby("title", sort=False):
        part = part.sort_values("asked")
        accuracies = [100 * records.counted(number).test_accuracy.astype(float) for number in part.index]
        colour = COLOURS[0] if part.optimizers.iloc[0] in ("sgd", "salsa-sgd") else COLOURS[1]
        style = {"salsa": STYLES[0], "constant": STYLES[1]}.get(part.method.iloc[0], STYLES[2])
        axes.plot(part.asked, [a.mean() for a in accuracies], marker="o", ms=4, color=colour, ls=style, lw=1.8, label=title)
        low, high = ([f(a) for a in accuracies] for f in (np.min, np.max))
        axes.fill_between(part.asked, low, high, color=colour, alpha=0.12, lw=0)
    axes.set_xscale("log")
    axes.set(xlabel="learning rate, or first step of a line search", ylabel="test accuracy, %")
    title = f"What a wrong start does, {subject_title(rows)}"
    headline(figure, axes, title, 2)
    band = "band: lowest to highest seed, where there are several" if wide.n.max() > 1 else "one seed"
    footnote(figure, [f"profile {records.profile}", ranks(wide), seeds(wide), f"commit {commits(wide)}", band])
    caption = (
        "Test accuracy at the end over the learning rate, or over the first step that a line search tries, mean over seeds."
    )
    return Picture(f"first-step-{_slug(subject)}", title, caption, figure)


def _slug(subject: str) -> str:
    return slug(subject.removesuffix("-steps"))
