"""Tables of kind `search`: strategies of hyper-parameter search, and the best so far over trials."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from report import outdated
from report.cells import UNKNOWN, count_ranks, number, percent
from report.drawing import COLOURS, WIDTH, Picture, headline
from report.names import DATASETS
from report.records import TableRecords
from report.section import Block, Section

PUBLISHED = {  # accuracy on the test set, in percent; the reference project's
    "mnist": {"grid": "93.97", "random": "94.03", "evolution": "94.67"},
    "cifar10": {"grid": "77.32", "random": "78.08", "evolution": "79.51"},
}
COLUMN = "published, other protocol"
NOTE = (
    "All trials of a search are trained with one seed. Settings are chosen by the accuracy on held-out training images "
    "(validation: the winner's, which luck has helped); the winner is trained again, and test images are read once, for it. "
    "Mean ± standard deviation (n - 1) over n seeds; time in trials: share of the ranks' time."
)
PUBLISHED_NOTE = (
    "Published: Distributed Hyper-Parameters Optimization (2019), another protocol: settings chosen by the very test accuracy "
    "that is given, with all training images, and for CIFAR-10 a network of 2.9 million parameters."
)


def section(records: TableRecords) -> Section:
    """What each strategy found, and its best so far."""
    rows = records.rows(records.table.experiments)
    found = table(records, rows)
    notes = (about(rows), NOTE, *([PUBLISHED_NOTE] if COLUMN in found else []))
    marks = outdated.marks(rows, records.table.name, records.profile)
    return Section(records.table.name, records.table.title, (Block(found, marks, notes),), (best_so_far(records, rows),))


def about(rows: pd.DataFrame) -> str:
    """What all searches of the table have in common."""
    row, config = rows.iloc[0], rows.settings.iloc[0]
    epochs = f"{config['rounds']} epoch{'s' if config['rounds'] > 1 else ''}"
    images = f" of {config['train_images']:,} images" if config["train_images"] else ""
    data = DATASETS.get(row.dataset, row.dataset)
    space = config["space_name"]
    return f"{data}, {row.model}: {config['trials']} trials of {epochs}{images}, space {space}; {count_ranks(row.ranks)}."


def table(records: TableRecords, rows: pd.DataFrame) -> pd.DataFrame:
    """A line per strategy."""
    lines = []
    for name, row in rows.iterrows():
        summaries = [run.summary for run in records.packed if run.name == name]
        trials = [np.mean([s["trials"][state] for s in summaries]) for state in ("complete", "pruned", "failed")]
        busy = [s["trial_seconds"] / (s["workers"] * s["seconds"]["search"]) for s in summaries]
        lines.append(
            {
                "method": row.label,
                "n": row.n,
                "complete / pruned / failed": " / ".join(f"{mean:g}" for mean in trials),
                "epochs": f"{np.mean([s['steps'] for s in summaries]):.0f}",
                "validation, %": percent(row, "validation_accuracy"),
                "test, %": percent(row, "test_accuracy"),
                COLUMN: PUBLISHED.get(row.dataset, {}).get(row.settings["strategy"], UNKNOWN),
                "search, s": number(np.mean([s["seconds"]["search"] for s in summaries]), 0),
                "time in trials, %": number(100 * np.mean(busy), 1),
                "commit": row.commit,
            }
        )
    found = pd.DataFrame(lines)
    return found.drop(columns=COLUMN) if (found[COLUMN] == UNKNOWN).all() else found


def best_so_far(records: TableRecords, rows: pd.DataFrame) -> Picture:
    """The best value after every ended trial, by strategy."""
    figure = Figure((WIDTH, 4.0), layout="constrained")
    axes = figure.subplots()
    shown = []  # what the axis has to hold: the last two thirds, since a first trial may be as bad as guessing
    for i, (name, row) in enumerate(rows.iterrows()):
        best = 100 * np.array(list(_curves(records, name)))
        x = range(1, best.shape[1] + 1)
        axes.step(x, best.mean(axis=0), where="post", color=COLOURS[i], lw=1.8, label=row.label)
        axes.fill_between(x, best.min(axis=0), best.max(axis=0), step="post", color=COLOURS[i], alpha=0.12, lw=0)
        shown += [np.nanmin(best[:, best.shape[1] // 3 :]), np.nanmax(best)]
    axes.set_ylim(min(shown) - 0.5, max(shown) + 0.5)
    axes.set_xlabel("trials that have ended")
    axes.set_ylabel("best validation accuracy so far, %")
    title = about(rows).rstrip(".")
    headline(figure, axes, title, 3)
    seeds = int(rows.n.max())
    caption = f"Best accuracy so far on held-out images, mean over {seeds} seed{'s'[: seeds > 1]}; band: lowest to highest."
    return Picture(records.table.name, title, caption, figure)


def _curves(records: TableRecords, name: str) -> Iterator[np.ndarray]:
    """Of every search of a row the best value of a complete trial after each ended one; all as long as the shortest."""
    curves = []
    for run in records.runs_of(name).index:
        trials = records.trials[records.trials.run == run]
        ended = trials.dropna(subset=["end"]).sort_values("end", kind="stable")
        curves.append(ended.value.where(ended.state == "complete").astype(float).cummax().ffill().to_numpy())
    shortest = min(map(len, curves))
    yield from (curve[:shortest] for curve in curves)
