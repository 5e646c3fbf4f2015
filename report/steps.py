"""Tables of kind `steps`: line searches beside tuned rates, schedules, and optimizers that need no rate."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from report import outdated
from report.cells import TEST_RULE, UNKNOWN, count, number, percent, seconds
from report.drawing import COLOURS, DASHES, WIDTH, Picture, footer, headline, subject
from report.names import LINE_SEARCHES
from report.records import TableRecords
from report.section import Block, Section

# Final training losses as published (Kenneweg et al. 2024, their loss table): CIFAR-10 by ResNet-34, GPT-2 on its own text.
PUBLISHED_LOSSES = {
    "cifar10": {
        **{("constant", "adamw"): "0.01394", ("constant", "sgd"): "0.00982"},
        **{("sls", "salsa"): "0.0009508", ("sls", "salsa-sgd"): "0.05646"},
        **{("salsa", "salsa"): "0.003314", ("salsa", "salsa-sgd"): "0.003773"},
    },
    "topics": {
        **{("constant", "adamw"): "2.86", ("constant", "sgd"): "3.572"},
        **{("sls", "salsa"): "2.917", ("sls", "salsa-sgd"): "3.566"},
        **{("salsa", "salsa"): "2.772", ("salsa", "salsa-sgd"): "3.559"},
    },
}
PUBLISHED_CLAIM = "; over all tasks about 50 % lower loss, about 3 % overhead"  # of SaLSA over Adam
PUBLISHED = "published loss, other protocol"
BASELINE = ("constant", "adamw")  # what losses are compared with
RATE_OPTIONS = {
    "sgd": "learning_rate",
    "schedulefree-sgd": "learning_rate",
    "adamw": "adam_rate",
    "schedulefree-adamw": "adam_rate",
}
FIRST_STEP_NOTE = (
    "Test accuracy in % by the learning rate, or by the first step of a line search. Spread: highest minus lowest mean of the "
    "line, in points."
)


def section(records: TableRecords) -> Section:
    """Losses and accuracies by kind of step, and accuracies by the first step."""
    blocks, figures = [], []
    rows = records.rows(records.table.experiments)
    if len(rows):
        marks = outdated.marks(rows, records.table.name, records.profile)
        blocks.append(Block(table(rows), marks, tuple(notes(rows))))
        figures.append(by_kind(records, rows[rows.chosen]))
    swept = records.rows(records.table.first_steps)
    if len(swept):
        marks = outdated.marks(swept, records.table.name, records.profile)
        blocks.append(Block(first_steps(swept), marks, (FIRST_STEP_NOTE, f"{subject(swept)}. {TEST_RULE}")))
        figures.append(by_first_step(records, swept))
    return Section(records.table.name, records.table.title, tuple(blocks), tuple(figures))


def table(rows: pd.DataFrame) -> pd.DataFrame:
    """A line per kind of step, at the rate that was best on validation images."""
    chosen = rows[rows.chosen]
    kinds = list(zip(chosen.method, chosen.optimizers, strict=True))
    adam = chosen.train_loss_mean.iloc[kinds.index(BASELINE)] if BASELINE in kinds else np.nan
    lines = []
    for kind, (_, row) in zip(kinds, chosen.iterrows(), strict=True):
        published = PUBLISHED_LOSSES.get(row.dataset, {}).get(kind, UNKNOWN)
        lost = f", {row.diverged} diverged" if row.diverged else ""
        lines.append(
            {
                "method": row.label,
                "rate": _rate(rows, row),
                "training loss": _loss(row),
                "over constant Adam's, %": number(100 * (row.train_loss_mean / adam - 1), 0) if np.isfinite(adam) else UNKNOWN,
                "test accuracy, %": f"{percent(row, 'test_accuracy')} (n = {row.n}{lost})",
                "validation, %": percent(row, "validation_accuracy"),
                "extra forward, %": number(100 * row.extra_forward_mean, 1),
                "training, s": seconds(row, "seconds_train_mean", 0),
                PUBLISHED: published + PUBLISHED_CLAIM * (kind == ("salsa", "salsa")),
            }
        )
    found = pd.DataFrame(lines)
    silent = all(cell.startswith(UNKNOWN) for cell in found[PUBLISHED])
    return found.drop(columns=PUBLISHED) if silent else found


def _rate(rows: pd.DataFrame, row: pd.Series) -> str:
    """`0.01 of 0.001, 0.01, 0.1`; the rate alone where it was not tuned, `found` of a line search, a dash without a rate."""
    if row.method in LINE_SEARCHES:
        return "found"
    if np.isfinite(row.value):
        return f"{row.value:g} of {', '.join(f'{r:g}' for r in sorted(rows[rows.label == row.label].value))}"
    option = RATE_OPTIONS.get(row.optimizers)
    return f"{row.settings[option]:g}" if option else UNKNOWN


def _loss(row: pd.Series) -> str:
    """Three digits of the mean, one of the deviation."""
    mean, sd = row.train_loss_mean, row.train_loss_sd
    return (f"{mean:.3g}" if np.isfinite(mean) else UNKNOWN) + (f" ± {sd:.1g}" if np.isfinite(sd) else "")


def first_steps(rows: pd.DataFrame) -> pd.DataFrame:
    """A line per method, a column per learning rate or first step."""
    given = sorted(rows["at"].unique())
    lines = []
    for label, part in rows.groupby("label", sort=False):
        cells = {row["at"]: percent(row, "test_accuracy") for _, row in part.iterrows()}
        spread = np.ptp(100 * part.test_accuracy_mean)
        lines.append({"method": label, **{f"{x:g}": cells.get(x, UNKNOWN) for x in given}, "spread": number(spread, 1)})
    return pd.DataFrame(lines)


def notes(rows: pd.DataFrame) -> list[str]:
    """How to read the table of kinds of steps."""
    chosen = rows[rows.chosen]
    first, settings = chosen.iloc[0], chosen.settings.iloc[0]
    return [
        f"{subject(rows)}: {settings.get('train_images') or 'all'} training images, {first.rounds} rounds, batch "
        f"{first.batch_size}, {settings.get('precision', '?')}; neither label smoothing nor weight decay. Means ± standard "
        "deviations (n - 1) over n seeds. Training loss: mean over the last round, augmentation included. Rate: the one with "
        "the best validation accuracy on the first seed, of those tried; line searches and Prodigy are not tuned. Extra "
        "forward: trial points, as a share of the training's forward and backward passes. Up to "
        f"{count(chosen.train_images_mean.max())} images seen in a run. {TEST_RULE}"
    ]


def by_kind(records: TableRecords, chosen: pd.DataFrame) -> Picture:
    """Final training loss and test accuracy of every kind of step, a dot a seed."""
    figure = Figure((WIDTH, 1.7 + 0.3 * len(chosen)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    losses = np.concatenate([records.runs_of(name).train_loss.astype(float) for name in chosen.index])
    losses = losses[np.isfinite(losses) & (losses > 0)]
    # A rate that diverged on one seed has any loss.
    edge = 1.1 * losses[losses < 30 * np.median(losses)].max() if len(losses) else np.inf
    kinds = {"line search": COLOURS[1], "tuned rate": COLOURS[0], "no rate": COLOURS[2]}
    used = set()
    heights = np.arange(len(chosen))[::-1]
    for height, (name, row) in zip(heights, chosen.iterrows(), strict=True):
        kind = _kind(row)
        used.add(kind)
        _dots(left, right, records.runs_of(name), height, kinds[kind], edge)
    left.set_yticks(heights, chosen.label)
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
    handles = [left.plot([], [], "o", color=colour, label=kind)[0] for kind, colour in kinds.items() if kind in used]
    title = f"Line searches, tuned rates and optimizers without a rate, {subject(chosen)}"
    headline(figure, left, title, 3, handles)
    footer(figure, records.profile, chosen, "a dot a seed")
    caption = (
        "Training loss of the last round (without label smoothing or weight decay) and test accuracy at the end, a dot a seed; "
        "rates are those with the best validation accuracy of the ones tried, line searches are not tuned. A triangle: a loss "
        "beyond the edge, on some seed."
    )
    return Picture(records.table.name, title, caption, figure)


def _kind(row: pd.Series) -> str:
    if row.method in LINE_SEARCHES:
        return "line search"
    return "tuned rate" if row.optimizers in RATE_OPTIONS else "no rate"


def _dots(left: Axes, right: Axes, runs: pd.DataFrame, height: int, colour: str, edge: float) -> None:
    """One row of dots in both axes, joined by a line; a triangle for a loss beyond the edge."""
    loss = runs.train_loss.astype(float).fillna(np.inf)
    for axes, values in ((left, loss.clip(upper=edge)), (right, 100 * runs.test_accuracy.astype(float))):
        axes.plot([values.min(), values.max()], [height, height], color=colour, lw=1.2)
        axes.plot(values, [height] * len(values), "o", ms=5, mec="white", mew=0.6, color=colour)
    if (loss > edge).any():
        left.plot(edge, height, ">", ms=8, color=colour)


def by_first_step(records: TableRecords, rows: pd.DataFrame) -> Picture:
    """Test accuracy over the learning rate or the first step."""
    figure = Figure((WIDTH, 4.4), layout="constrained")
    axes = figure.subplots()
    for label, part in rows.groupby("label", sort=False):
        part = part.sort_values("at")
        accuracies = [100 * records.runs_of(name).test_accuracy.astype(float) for name in part.index]
        style: dict[str, Any] = {"ls": DASHES[0 if part.method.iloc[0] in LINE_SEARCHES else 1], "lw": 1.8}
        style["color"] = COLOURS[0] if part.optimizers.iloc[0] in ("sgd", "salsa-sgd") else COLOURS[1]
        axes.plot(part["at"], [a.mean() for a in accuracies], marker="o", ms=4, label=label, **style)
        low, high = ([f(a) for a in accuracies] for f in (np.min, np.max))
        axes.fill_between(part["at"], low, high, color=style["color"], alpha=0.12, lw=0)
    axes.set_xscale("log")
    axes.set(xlabel="learning rate, or first step of a line search", ylabel="test accuracy, %")
    title = f"What a wrong start does, {subject(rows)}"
    headline(figure, axes, title, 2)
    band = "band: lowest to highest seed, where there are several" if rows.n.max() > 1 else "one seed"
    footer(figure, records.profile, rows, band)
    caption = (
        "Test accuracy at the end over the learning rate, or over the first step that a line search tries, mean over seeds."
    )
    return Picture(f"{records.table.name}-first-steps", title, caption, figure)
