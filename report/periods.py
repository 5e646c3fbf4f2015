"""Tables of kind `periods`: methods that couple weights, by how often they communicate, at tuned rates."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from report import outdated
from report.cells import TEST_RULE, UNKNOWN, count, number, percent
from report.drawing import COLOURS, DASHES, WIDTH, Picture, footer, headline, subject, test_cell
from report.records import TableRecords, mean_over_workers
from report.section import Block, Section

PUBLISHED_ERRORS = {  # lowest test error on CIFAR-10 at tau 1, 4, 16, 64 with 4 workers, digitised from the paper's Fig. 2
    "eamsgd": ("17.2", "17.4", "16.9", "16.6"),
    "aeasgd": ("18.1", "18.2", "18.2", "17.7"),
    "mvadownpour": ("18.2", "19.0", "19.8", "23.9"),
    "downpour": ("18.7", "18.8", "20.5", "24.3"),
    "adownpour": ("18.9", "20.0", "23.2", "> 28"),
    "mdownpour": ("18.8",),
}
PUBLISHED = "published error, %, other protocol"
PUBLISHED_NOTE = (
    "Published: lowest test error at τ = 1 / 4 / 16 / 64 with 4 workers, read off the paper's Fig. 2 (arXiv 1412.6651, about "
    "± 0.1): EASGD-CNN-8 with dropout, 50,000 images, batch 128 a worker, 180 minutes on 4 GPUs, best of 3 runs and of the "
    "rates by test error, so another protocol."
)
LOCAL_NOTE = (
    "Each worker keeps to images of its own. Synchronous SGD averages gradients every step; τ is the steps of a worker between "
    "two averages, pulls or moves of a swarm. The run's model is the centre of EASGD, the best position G of a swarm, the best "
    "worker of independent SGD. PSO-PS is our reconstruction: no figure of its paper could be obtained, and none of these "
    "reproduces it."
)
SWARM_NOTE = (
    "Swarms in the table above, PSO-PS (our reconstruction), and independent workers: test accuracy in % of the best position "
    "G (the run's model), of the mean of all workers' weights, and of the best worker by validation; share of the meetings "
    "that found a new G, the last one included; mean distance of a worker to G at the end (–: it overflows float32); exchange "
    "/ (train + evaluate + exchange): meeting, waiting, and the move; payload sent by all workers. Measuring positions, and "
    "evaluating workers after every round for the record, is evaluation."
)


def section(records: TableRecords) -> Section:
    """Accuracies over periods, and what became of swarms."""
    rows = records.rows(records.table.experiments)
    rows = rows.assign(period=rows["at"].fillna(np.inf))
    marks = outdated.marks(rows, records.table.name, records.profile)
    blocks, figures = [Block(table(rows), marks, tuple(notes(rows)))], [over_periods(records, rows)]
    swarms = swarm_table(rows)
    if len(swarms):
        blocks.append(Block(swarms, marks, (SWARM_NOTE,)))
    if picture := distances(records, rows):
        figures.append(picture)
    return Section(records.table.name, records.table.title, tuple(blocks), tuple(figures))


def period_name(period: float) -> str:
    """A period as tables and figures name it."""
    return f"τ = {period:g}" if np.isfinite(period) else "never"


def table(rows: pd.DataFrame) -> pd.DataFrame:
    """A line per method, a column per period, at the rate that was best on validation images."""
    chosen = rows[rows.chosen]
    own = has_own_images(rows)
    lines = []
    for label, part in chosen.groupby("label", sort=False):
        cells = {row.period: f"{percent(row, 'test_accuracy')} (n = {row.n}; η {row.value:g})" for _, row in part.iterrows()}
        published = () if own else PUBLISHED_ERRORS.get(part.method.iloc[0], ())
        lines.append(
            {
                "method": label,
                **{period_name(period): cells.get(period, UNKNOWN) for period in sorted(rows.period.unique())},
                "rates tried": ", ".join(f"{rate:g}" for rate in sorted(rows[rows.label == label].value.unique())),
                PUBLISHED: " / ".join(published) or UNKNOWN,
            }
        )
    found = pd.DataFrame(lines)
    return found.drop(columns=PUBLISHED) if (found[PUBLISHED] == UNKNOWN).all() else found


def has_own_images(rows: pd.DataFrame) -> bool:
    """Whether each worker kept to images of its own."""
    return bool((rows.settings.map(lambda s: s.get("shards")) == "own").all())


def notes(rows: pd.DataFrame) -> list[str]:
    """How to read the table."""
    chosen, lost = rows[rows.chosen], rows[rows.diverged > 0]
    settings, first = chosen.settings.iloc[0], chosen.iloc[0]
    names = "; ".join(f"{row.label} at {period_name(row.period)}, η {row.value:g}" for _, row in lost.iterrows())
    return [
        f"{subject(rows)}. Test accuracy in % of the run's model{'' if has_own_images(rows) else ' (the center variable)'}: "
        "mean ± standard deviation over n seeds, and the learning rate η, which had the best validation accuracy of those "
        f"tried on the first seed (which is in the mean). {settings.get('train_images') or 'All'} images, {first.rounds} "
        f"rounds, batch {settings.get('worker_batch')} a worker, {count(chosen.train_images_mean.max())} images seen in a run. "
        f"{f'Diverged: {names}.' if names else 'No run diverged.'} {TEST_RULE}",
        LOCAL_NOTE if has_own_images(rows) else PUBLISHED_NOTE,
    ]


def swarm_table(rows: pd.DataFrame) -> pd.DataFrame:
    """What became of a swarm besides the accuracy of its best position, and of workers that never met."""
    if not rows.new_best_share_mean.notna().any():
        return pd.DataFrame()
    swarms = rows[rows.chosen & rows.average_test_accuracy_mean.notna()]
    seconds = [f"seconds_{phase}_mean" for phase in ("train", "evaluate", "exchange")]
    lines = []
    for _, part in swarms.groupby("label", sort=False):
        for _, row in part.sort_values("period").iterrows():
            lines.append(
                {
                    "method": row.label,
                    "τ": period_name(row.period).removeprefix("τ = "),
                    "G": percent(row, "test_accuracy") if np.isfinite(row.new_best_share_mean) else UNKNOWN,
                    "mean of the workers": percent(row, "average_test_accuracy"),
                    "best worker": percent(row, "best_worker_test_accuracy"),
                    "moves with a new G, %": number(100 * row.new_best_share_mean, 1),
                    "distance to G": number(row.distance_mean, 2),
                    "exchange, %": number(100 * row.seconds_exchange_mean / row[seconds].sum(), 1),
                    "sent, MB": number(row.mb_inside_mean, 1),
                }
            )
    return pd.DataFrame(lines)


def over_periods(records: TableRecords, rows: pd.DataFrame) -> Picture:
    """Test accuracy of every method over its communication period, at the rate chosen for each."""
    figure = Figure((WIDTH, 4.6), layout="constrained")
    axes = figure.subplots()
    chosen = rows[rows.chosen]
    periods = sorted(p for p in chosen.period.unique() if np.isfinite(p))
    for i, (label, part) in enumerate(chosen.groupby("label", sort=False)):
        colour, style = COLOURS[i % len(COLOURS)], DASHES[i // len(COLOURS)]
        part = part.sort_values("period")
        accuracies = [100 * records.runs_of(name).test_accuracy.astype(float) for name in part.index]
        x, y, low, high = list(part.period), *([f(a) for a in accuracies] for f in (np.mean, np.min, np.max))
        line = {"color": colour, "lw": 1.8, "ls": style, "label": label}
        if x == [np.inf] or x == periods[:1]:  # nothing that a period changes: a level for all of them
            x, y, low, high = periods, y * len(periods), low * len(periods), high * len(periods)
            line |= {"ls": DASHES[2], "label": f"{label}: {'every step' if part.period.iloc[0] == 1 else 'never'}"}
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
    title = f"Communicating rarely, {subject(rows)}{', workers with images of their own' if own else ''}"
    headline(figure, axes, title, 2)
    footer(figure, records.profile, chosen, "band: lowest to highest seed" if chosen.n.max() > 1 else "one seed")
    caption = (
        f"Test accuracy of {'the final model' if own else 'the center variable'} over the communication period, mean over "
        "seeds, at the learning rate with the best validation accuracy of those tried for each method and period."
    )
    return Picture(records.table.name, title, caption, figure)


def distances(records: TableRecords, rows: pd.DataFrame) -> Picture | None:
    """How far a swarm's workers are from its best position over the rounds, by its coefficients; None without several."""
    swarms = rows[rows.chosen & rows.new_best_share_mean.notna()]
    if swarms.label.nunique() < 2:
        return None
    several = swarms.groupby("period").label.nunique()
    swarms = swarms[swarms.period == several.idxmax()]
    figure = Figure((WIDTH, 4.1), layout="constrained")
    axes = figure.subplots()
    overflow = False
    for i, (name, row) in enumerate(swarms.iterrows()):
        for k, run in enumerate(records.runs_of(name).index):
            spread = mean_over_workers(records.rounds_of(run), "distance", "round")
            near = spread[np.isfinite(spread)]
            line = {"color": COLOURS[i], "lw": 1.2, "marker": "o", "ms": 3}
            label = f"{row.settings.get('swarm', '?')}: test {test_cell(row)}"
            axes.plot(near.index + 1, near, label=label if k == 0 else None, **line)
            if len(near) < len(spread):
                overflow = True
                axes.plot(near.index[-1:] + 1, near[-1:], "^", color=COLOURS[i], ms=9)
    axes.set_yscale("log")
    axes.set(xlabel="round", ylabel="mean distance of a worker to G")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=14, integer=True))
    title = f"How far a swarm is spread, {subject(rows)}: PSO-PS (our reconstruction)"
    headline(figure, axes, title, 2)
    words = f"τ = {swarms.period.iloc[0]:g}; a line a seed{'; ▲ then the distance overflows float32' * overflow}"
    footer(figure, records.profile, swarms, words)
    caption = (
        "Euclidean distance of a worker's weights to the best position of all, G, after every round: mean over workers, a line "
        "a seed, for each set of coefficients at the rate with the best validation accuracy. A line ends in a triangle where "
        "the distance overflows float32. In the legend: test accuracy of G."
    )
    return Picture(f"{records.table.name}-distance", title, caption, figure)
