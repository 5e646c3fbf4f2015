"""What all methods cost, which runs diverged, and the command of every row."""

from collections.abc import Iterator

import pandas as pd

from report.cells import number, seconds
from report.methods import data_and_model
from report.records import TableRecords
from report.section import Block, Section


def section(found: list[TableRecords]) -> Section:
    """Cost of all training runs; of tuned or swept experiments one line a method."""
    lines = [line for records in found if records.table.kind != "search" for line in _lines(records)]
    hardware = dict.fromkeys(h for records in found for h in records.runs.hardware)
    notes = (
        "Seconds of wall time, mean over ranks; in brackets where other runs shared the machine, so that they are no "
        "measurement. evaluate + exchange: their share of train + evaluate + exchange, waiting for other ranks included. "
        "Bytes: payload handed over, summed over ranks, inside communicators and across populations. Where a method was run at "
        "several rates or periods, the mean over them.",
        f"Measured on: {'; '.join(hardware)}.",
    )
    return Section("cost", "Cost", (Block(pd.DataFrame(lines), (), notes),))


def _lines(records: TableRecords) -> Iterator[dict[str, object]]:
    rows = all_rows(records)
    for label, part in rows.groupby("label", sort=False):
        mean = part.mean(numeric_only=True).astype(object)
        mean["side_by_side"] = part.side_by_side.any()
        yield {
            "method": label if len(part) == 1 else f"{label} ({len(part)} rows)",
            "data, model": data_and_model(part.iloc[0]),
            "n": part.n.sum(),
            "total, s": seconds(mean, "seconds_total_mean", 1),
            "training, s": seconds(mean, "seconds_train_mean", 1),
            "images/s": seconds(mean, "images_per_second_mean", 0),
            "evaluate + exchange, %": number(100 * mean.sync_share_mean, 1),
            "inside, MB": number(mean.mb_inside_mean, 1),
            "across, MB": number(mean.mb_across_mean, 2),
            "commit": ", ".join(dict.fromkeys(commit for text in part.commit for commit in text.split(", "))),
        }


def all_rows(records: TableRecords) -> pd.DataFrame:
    """Every row of a table once."""
    rows = records.rows((*records.table.experiments, *records.table.first_steps))
    return rows[~rows.index.duplicated()]


def diverged(found: list[TableRecords]) -> pd.DataFrame:
    """The runs that lost their finite weights."""
    lines = [
        {
            "run": run.Index,
            "what happened": f"diverged after {run.rounds_done} of {run.rounds} rounds; its last finite weights count",
            "test accuracy, %": number(100 * run.test_accuracy, 2),
        }
        for records in found
        for run in records.runs.itertuples()
        if run.diverged
    ]
    return pd.DataFrame(lines, columns=["run", "what happened", "test accuracy, %"])


def commands(records: TableRecords) -> Iterator[str]:
    """How each row of a table was made, as Markdown."""
    yield f"## {records.table.title}"
    for name, row in all_rows(records).iterrows():
        which = f"seeds {row.seeds}, command of the first" if "," in row.seeds else f"seed {row.seeds}"
        yield f"`{name}`: {row.label} ({which}; commit {row.commit})\n\n```\n{row.command}\n```"
