"""Tables of kind `methods`: what each method reached for how much training; curves, every worker's rate, wall time."""

import numpy as np
import pandas as pd

from report import curves, outdated
from report.cells import TEST_RULE, count, number, percent
from report.drawing import Picture
from report.names import DATASETS
from report.records import TableRecords
from report.section import Block, Section


def section(records: TableRecords) -> Section:
    """Accuracies of all methods, and the figures of curves.py."""
    rows = records.rows(records.table.experiments)
    rows = rows[rows.chosen]
    marks = outdated.marks(rows, records.table.name, records.profile)
    return Section(
        records.table.name, records.table.title, (Block(table(rows), marks, tuple(notes(rows))),), tuple(figures(records, rows))
    )


def table(rows: pd.DataFrame) -> pd.DataFrame:
    """A line per method."""
    return pd.DataFrame(
        {
            "method": rows.label,
            "data, model": [data_and_model(row) for _, row in rows.iterrows()],
            "ranks: populations": rows.workers,
            "batch": rows.batch_size,
            "rounds": rows.rounds,
            "training images": [count(v) for v in rows.train_images_mean],
            "gradient evaluations": [count(v) for v in rows.gradient_evaluations_mean],
            "test accuracy, %": [f"{percent(r, 'test_accuracy')} (n = {r.n})" for _, r in rows.iterrows()],
            "validation, %": [percent(r, "validation_accuracy") for _, r in rows.iterrows()],
            "remarks": [_remarks(r) for _, r in rows.iterrows()],
        }
    )


def data_and_model(row: pd.Series) -> str:
    """`CIFAR-10, WRN-16-1`."""
    return f"{DATASETS.get(row.dataset, row.dataset)}, {row.model}"


def _remarks(row: pd.Series) -> str:
    remarks = [f"{row.diverged} diverged"] if row.diverged else []
    if np.isfinite(row.value):
        remarks.append(f"tuned: {row.value:g}")
    if row.extra_forward_mean > 0:
        remarks.append(f"trial points: + {number(100 * row.extra_forward_mean, 1)} % of the training")
    return ", ".join(remarks)


def notes(rows: pd.DataFrame) -> list[str]:
    """How to read the table."""
    if rows.n.max() > 1:
        seeds = "Accuracies: mean ± standard deviation (n - 1) over n seeds; one seed has no deviation."
    else:
        seeds = "One seed per row, so no deviation is known and small differences are no findings."
    if rows.diverged.any():
        seeds += " Diverged runs count, with the accuracy of the last finite weights they ended with."
    by_optimizer = [f"{name} in {', '.join(part.label)}" for name, part in rows.groupby("optimizers", sort=False)]
    optimizers = f"of all rows: {rows.optimizers.iloc[0]}" if len(by_optimizer) == 1 else f"by row: {'; '.join(by_optimizer)}"
    return [
        f"{seeds} Compare at equal gradient evaluations: images times backward passes, summed over all ranks (SAM and ASAM "
        f"make two per image). Weight optimizer {optimizers}.",
        TEST_RULE,
    ]


def figures(records: TableRecords, rows: pd.DataFrame) -> list[Picture]:
    """Validation accuracy of all, rate and fitness of the workers of each, wall time."""
    by_worker = (curves.workers(records, row) for _, row in rows.iterrows())
    return [curves.accuracy(records, rows), *(p for p in by_worker if p), curves.seconds(records, rows)]
