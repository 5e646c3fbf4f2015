"""Figures of a profile, made from the records alone.

    python results/make_figures.py [smoke|cpu|gpu|paper]

Writes results/<profile>/figures/*.png: accuracy-* (validation accuracy of all methods), workers-* (learning rate and fitness of
every worker of one run), seconds-* (where the time went). Where methods were run with three base rates or periods or more:
start-* and period-* (test accuracy over them); of base rates the others then show the middle one. distance-*: how far
swarms are spread. search-*: the best so far of searches (searches.py). Each file carries its title
and caption as PNG text, which make_report.py shows beside it.
"""

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from textwrap import fill

import matplotlib as mpl
import numpy as np
import pandas as pd
import searches
from cells import percent
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from PIL import Image, PngImagePlugin
from records import ECOSPHERE, ELASTIC, PHASES, SEARCHES, SPECIES, Records, count_ranks, from_command_line
from sweep_tables import has_own_images

# Okabe & Ito's palette, told apart by colour-blind readers as well.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
OWN = ("#0072B2", "#56B4E9", "#E69F00", "#000000", "#D55E00", "#009E73", "#CC79A7")
THEIRS = ("#882255", "#44AA99", "#999933")  # Tol's, beside the palette that is used up
METHOD_COLOURS = {
    **dict(zip(ECOSPHERE, OWN, strict=True)),
    **dict(zip(SEARCHES, THEIRS, strict=True)),
    **dict(zip(ELASTIC, cycle(COLOURS), strict=False)),
}
STYLES = ("-", (0, (4, 1.5)), (0, (1, 1.2)))  # of those that come after each colour has been used once
PHASE_COLOURS = dict(zip(PHASES, ("#C9CDD2", "#0072B2", "#E69F00", "#D55E00", "#CC79A7"), strict=True))
GREY = "#5F6670"
WIDTH = 7.5  # inches; at 150 dots per inch a little more than the 900 pixels of a README

mpl.rcParams.update(
    {
        "font.size": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": "#E4E6EA",
        "legend.frameon": False,
        "savefig.dpi": 150,
    }
)


@dataclass(frozen=True)
class Picture:
    """A figure with what is said about it: `name` of the file, `title`, and a caption on how to read it."""

    name: str
    title: str
    caption: str
    figure: Figure

    def save(self, folder: Path) -> Path:
        """Write the PNG, in few colours to keep it small; equal records give equal files."""
        path, pixels, words = folder / f"{self.name}.png", io.BytesIO(), PngImagePlugin.PngInfo()
        self.figure.savefig(pixels)
        words.add_itxt("Title", self.title)
        words.add_itxt("Description", self.caption)
        small = Image.open(pixels).convert("RGB").quantize(128, dither=Image.Dither.NONE)
        small.save(path, pnginfo=words, optimize=True)
        return path


def draw(records: Records) -> Iterator[Picture]:
    """Every figure that the records allow."""
    sweeps, periods = dict(records.sweeps()), dict(records.periods())
    for subject, rows in records.groups():
        done = rows[rows.n > 0]
        if subject in periods:
            yield period(records, subject, periods[subject])
            if picture := distance(records, subject, periods[subject]):
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
    labels = [f"{row.label}: test {_test(row)}" for _, row in rows.iterrows()]
    columns = 2 if max(map(len, labels)) < 48 else 1
    figure = Figure((WIDTH, 4.1 + 0.2 * -(-len(rows) // columns)), layout="constrained")
    axes = figure.subplots()
    lows = []
    for i, (number, row) in enumerate(rows.iterrows()):
        colour = _colour(rows, i)
        curve = _curve(records, number)
        x = curve.index * (1 if same_cost else passes[number])
        line = {"color": colour, "lw": 1.8 if len(curve) < 50 else 1.2, "ls": _dashes(row.method), "zorder": 5 - 0.1 * i}
        axes.plot(x, 100 * curve["mean"], label=labels[i], **line)
        if (curve.high > curve.low).any():
            axes.fill_between(x, 100 * curve.low, 100 * curve.high, color=colour, alpha=0.1, lw=0)
        lows.append(100 * np.nanmin([*curve["mean"].iloc[len(curve) // 4 :], np.inf]))
    title = f"Validation accuracy during training, {subject_title(rows)}"
    axes.set_ylabel("validation accuracy, %")
    axes.set_xlabel("training images seen by all workers" if same_cost else "gradient evaluations (images × backward passes)")
    axes.xaxis.set_major_formatter(FuncFormatter(_thousands))
    axes.set_xlim(left=0)
    _focus(axes, lows)
    _headline(figure, axes, title, columns)
    bands = _bands(rows)
    _footnote(figure, [f"profile {records.profile}", _ranks(rows), _seeds(rows), f"commit {_commits(rows)}", bands])
    caption = (
        "Validation accuracy after every round, of the workers' own weights before they are merged (of a population's smoothed "
        "ones where it forages). Line: mean over workers"
        f"{' and seeds' if rows.n.max() > 1 else ''}; {bands}. The axis leaves out what lies far below. In the legend: test "
        "accuracy of the merged weights, measured once, after the last round."
    )
    return Picture(f"accuracy-{_slug(subject)}", title, caption, figure)


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
    _headline(figure, axes, title, 2)
    band = "band: lowest to highest seed" if rows.n.max() > 1 else "one seed"
    _footnote(figure, [f"profile {records.profile}", _ranks(rows), _seeds(rows), f"commit {_commits(rows)}", band])
    caption = (
        "Test accuracy of the final model over the base rate that the run was started with, mean over seeds. Diverged runs "
        "count with the last finite weights."
    )
    return Picture(f"start-{_slug(subject)}", title, caption, figure)


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
    axes.set_xscale("log", base=2)
    axes.set_xticks(periods, [f"{p:g}" for p in periods])
    axes.set_xlabel("communication period τ: steps of a worker between two exchanges")
    axes.set_ylabel("test accuracy, %")
    own = has_own_images(rows)
    title = f"Communicating rarely, {subject_title(rows)}{', workers with images of their own' if own else ''}"
    _headline(figure, axes, title, 2)
    band = "band: lowest to highest seed" if chosen.n.max() > 1 else "one seed"
    _footnote(figure, [f"profile {records.profile}", _ranks(rows), _seeds(chosen), f"commit {_commits(chosen)}", band])
    caption = (
        f"Test accuracy of {'the final model' if own else 'the centre'} over the communication period, mean over seeds, at the "
        "learning rate with the best validation accuracy of those tried for each method and period."
    )
    return Picture(f"period-{_slug(subject)}", title, caption, figure)


def distance(records: Records, subject: str, rows: pd.DataFrame) -> Picture | None:
    """How far a swarm's workers are from its best place over the rounds, by its coefficients; None without several of them."""
    swarms = rows[rows.chosen & rows.distance_mean.notna()]
    if swarms.title.nunique() < 2:
        return None
    several = swarms.groupby("period").title.nunique()
    swarms = swarms[swarms.period == several.idxmax()]
    figure = Figure((WIDTH, 4.1), layout="constrained")
    axes = figure.subplots()
    for i, (number, row) in enumerate(swarms.iterrows()):
        metrics = records.metrics[records.metrics.run.isin(records.counted(number).index)]
        by_run = metrics.groupby(["round", "run"]).distance.mean()
        spread = by_run.groupby(level="round")
        axes.plot(spread.mean().index + 1, spread.mean(), color=COLOURS[i], lw=1.8, marker="o", ms=3, label=_swarm_label(row))
        axes.fill_between(spread.min().index + 1, spread.min(), spread.max(), color=COLOURS[i], alpha=0.12, lw=0)
    axes.set_yscale("log")
    axes.set(xlabel="round", ylabel="mean distance of a worker to G")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=14, integer=True))
    title = f"How far a swarm is spread, {subject_title(rows)}: PSO-PS (our reconstruction)"
    _headline(figure, axes, title, 2)
    parts = [f"profile {records.profile}", _ranks(swarms), _seeds(swarms), f"commit {_commits(swarms)}"]
    _footnote(figure, [*parts, f"τ = {swarms.period.iloc[0]:g}; band: lowest to highest seed"])
    caption = (
        "Euclidean distance of a worker's weights to the best place of all, G, after every round: mean over workers and seeds, "
        "for each set of coefficients at the rate with the best validation accuracy. In the legend: test accuracy of G."
    )
    return Picture(f"distance-{_slug(subject)}", title, caption, figure)


def _swarm_label(row: pd.Series) -> str:
    return f"{row.settings.get('swarm', '?')}: test {_test(row)}"


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
    _headline(figure, upper, title, min(len(handles), 4), handles)
    others = f"seed {run.seed}" + (f" (of {row.seeds})" if row.n > 1 else "")
    _footnote(
        figure, [f"profile {records.profile}", _ranks(records.rows.loc[[number]]), others, f"commit {run.commit}", run.name]
    )
    caption = (
        "One thin line per worker, coloured by population; dots mark the leader whom all workers elect by fitness "
        "(then by higher rate) at the end of the round. The rate is the one the round was trained with, before warm-up."
    )
    return Picture(f"workers-{_slug(subject)}", title, caption, figure)


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
    _headline(figure, axes, title, len(PHASES), side="right")
    hardware = "; ".join(dict.fromkeys(rows.hardware))
    _footnote(figure, [f"profile {records.profile}", _ranks(rows), _seeds(rows), f"commit {_commits(rows)}", hardware])
    caption = (
        f"Wall time by phase, mean over ranks{' and seeds' if rows.n.max() > 1 else ''}. Exchange includes election, the move "
        "of the rates and waiting for others; other is checkpoints and records. At each bar: the share of evaluate + exchange "
        "in train + evaluate + exchange."
    )
    return Picture(f"seconds-{_slug(subject)}", title, caption, figure)


def subject_title(rows: pd.DataFrame) -> str:
    """`CIFAR-10 (WRN-16-1)`."""
    return f"{rows.data.iloc[0]} ({rows.model.iloc[0]})"


def _curve(records: Records, row: int) -> pd.DataFrame:
    """Validation accuracy by training images seen: `mean` over workers and runs, `low` and `high` over the workers of the
    only run, or over the runs' means where there are several. A round counts once every run of the row that got there has."""
    runs = records.counted(row).index
    metrics = records.metrics[records.metrics.run.isin(runs)]
    by_run = metrics.groupby(["images", "run"]).val_accuracy
    spread = by_run.mean() if len(runs) > 1 else metrics.set_index("images").val_accuracy
    groups = spread.groupby(level="images")
    return pd.DataFrame({"mean": by_run.mean().groupby(level="images").mean(), "low": groups.min(), "high": groups.max()})


def _test(row: pd.Series) -> str:
    lost = f", {row.diverged} diverged" if row.diverged else ""
    seeds = f" (n = {row.n}{lost})" if row.n > 1 else " (diverged)" if row.diverged else ""
    return f"{percent(row, 'test_accuracy')} %{seeds}"


def _bands(rows: pd.DataFrame) -> str:
    one, several = bool((rows.n == 1).any()), bool((rows.n > 1).any())
    over = ["workers"] * one + ["seeds"] * several
    return "band: lowest to highest of the " + (" (one seed) or ".join(over) if one and several else over[0])


def _colour(rows: pd.DataFrame, i: int) -> str:
    """The method's own colour; the i-th of the palette where a method has several rows or no colour of its own."""
    method = rows.method.iloc[i]
    own = METHOD_COLOURS.get(method)
    return own if own and not rows.method.duplicated().any() else COLOURS[i % len(COLOURS)]


def _dashes(method: str) -> str | tuple[int, tuple[int, ...]]:
    styles = {"eoa-reference": (0, (6, 2)), "replay": (0, (4, 1.5))}
    styles |= {name: STYLES[i // len(COLOURS)] for i, name in enumerate(ELASTIC)}
    return styles.get(method, "-")


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


def _seeds(rows: pd.DataFrame) -> str:
    seeds = sorted({int(s) for text in rows.seeds for s in text.split(", ")})
    return f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"


def _ranks(rows: pd.DataFrame) -> str:
    counts = sorted(set(rows.ranks))
    return f"{', '.join(map(str, counts[:-1]))}{' and ' * (len(counts) > 1)}{count_ranks(counts[-1])}"


def _commits(rows: pd.DataFrame) -> str:
    return ", ".join(dict.fromkeys(c for text in rows.commit for c in text.split(", ")))


def _thousands(value: float, _: int) -> str:
    return f"{value:,.0f}"


def _headline(
    figure: Figure, axes: Axes, title: str, columns: int, handles: list[Line2D] | None = None, side: str = "left"
) -> None:
    """Title at the figure's left edge, legend between it and the axes."""
    figure.suptitle(fill(title, 80), x=0.01, ha="left", fontsize=11, fontweight="bold")
    handles = handles or axes.get_legend_handles_labels()[0]
    place = {"loc": f"lower {side}", "bbox_to_anchor": (-0.01 if side == "left" else 1.0, 1.0)}
    axes.legend(handles=handles, ncols=columns, fontsize=9, columnspacing=1.4, handlelength=1.6, **place)


def _footnote(figure: Figure, parts: list[str]) -> None:
    figure.supxlabel("  ·  ".join(parts), x=0.01, ha="left", fontsize=7.5, color=GREY)


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def write(records: Records, folder: Path) -> list[Path]:
    """Draw everything, in place of what was there; returns the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.png"):
        old.unlink()
    found = (Picture(*parts) for parts in searches.pictures(folder.parent))
    return [picture.save(folder) for picture in (*draw(records), *found)]


def main() -> None:
    records, folder = from_command_line(__doc__)
    for path in write(records, folder / "figures"):
        print(path)


if __name__ == "__main__":
    main()
