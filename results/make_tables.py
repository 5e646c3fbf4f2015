"""Tables of a profile, as Markdown for people and CSV for programs; made from the records alone.

    python results/make_tables.py [smoke|cpu|gpu|paper]

Writes results/<profile>/tables/: accuracy.md and cost.md (the rows of both carry the same numbers), start.md (methods by the
base rate they were started with, where that was varied; such rows are not in accuracy.md), accuracy.csv (all numbers,
unrounded) and runs.csv (one line per run directory, finished or not). Columns: results/README.md.
"""

import json
from pathlib import Path

import numpy as np
import pandas as pd
from records import NUMBERS, Records, from_command_line

KEYS = ("#", "data, model", "method")
TEXT = {
    *KEYS[1:],
    "rows",
    "ranks: populations",
    "remarks",
    "commit",
    "experiment / run",
    "state",
    "what happened",
}  # left-aligned
UNKNOWN = "–"

TEST_RULE = (
    "Test images were read once per run, at its end, by the code that writes summary.json; learning rates, leaders and every "
    "other decision rest on images held out of the training set."
)


def shown_rows(records: Records) -> pd.DataFrame:
    """The rows of accuracy.md: all but those of sweeps over the base rate."""
    return records.rows.drop(index=[number for _, _, rows in records.sweeps() for number in rows.index])


def accuracy_table(records: Records) -> pd.DataFrame:
    """What each method reached, and for how much training; without the rows of sweeps over the base rate."""
    rows = shown_rows(records)
    return pd.DataFrame(
        {
            **_keys(rows),
            "ranks: populations": rows.workers,
            "batch": [UNKNOWN if pd.isna(v) else v for v in rows.batch_size],
            "rounds": [UNKNOWN if pd.isna(v) else v for v in rows.rounds],
            "training images": [_count(v) for v in rows.train_images_mean],
            "gradient evaluations": [_count(v) for v in rows.gradient_evaluations_mean],
            "test accuracy, %": [f"{percent(r, 'test_accuracy')} (n = {r.n})" for _, r in rows.iterrows()],
            "validation, %": [percent(r, "validation_accuracy") for _, r in rows.iterrows()],
            "remarks": [_remarks(r) for _, r in rows.iterrows()],
        }
    )


def start_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Test accuracy of each method by the base rate it was started with, and what its evaluations cost; rows of one sweep."""
    seconds = [f"seconds_{phase}_mean" for phase in ("train", "evaluate", "exchange")]
    lines = []
    others = rows.settings.map(lambda s: json.dumps({k: v for k, v in s.items() if k != "learning_rate"}, sort_keys=True))
    rates = sorted(rows.asked.unique())
    main = {title: part.index[0] for title, part in rows.groupby("title")}  # the first of a method bears its name alone
    for (title, _), part in rows.groupby(["title", others], sort=False):
        by_rate = {row.asked: percent(row, "test_accuracy") for _, row in part.iterrows()}
        means = 100 * part.test_accuracy_mean
        whole = part[part.diverged == 0] if (part.diverged == 0).any() else part  # the others ended early
        shares = 100 * whole.seconds_evaluate_mean / whole[seconds].sum(axis=1)
        lines.append(
            {
                "method": title if main[title] in part.index else f"{title} (#{', #'.join(map(str, part.index))})",
                **{f"{rate:g}": by_rate.get(rate, UNKNOWN) for rate in rates},
                "worst": _number(means.min(), 2),
                "best": _number(means.max(), 2),
                "evaluating, %": _number(shares.mean(), 1),
            }
        )
    return pd.DataFrame(lines)


def start_notes(records: Records, rows: pd.DataFrame) -> list[str]:
    """What a reader of a table of base rates has to know."""
    deviation = " ± standard deviation (n - 1)" if rows.n.max() > 1 else ""
    seeds = "; ".join(dict.fromkeys(rows.seeds))
    lost = int(rows.diverged.sum())
    diverged = f" Of {rows.n.sum()} runs {lost} diverged, which count with what they ended with." if lost else ""
    optimizers = ", ".join(dict.fromkeys(rows.optimizers))
    return [
        f"Test accuracy in % by the base rate that was asked for (--learning-rate), mean{deviation} over seeds {seeds}; "
        f"{_count(rows.train_images_mean.max())} training images a run; weight optimizer {optimizers}.{diverged} Worst and "
        "best: of the means in the line. Evaluating: share of train + evaluate + exchange, the final validation and test "
        "included; without rates at which runs diverged.",
        f"Rows {rows.index.min()} to {rows.index.max()} of accuracy.csv and of the commands in accuracy.md. {TEST_RULE}",
    ]


def start_text(records: Records) -> str:
    """All of start.md; empty where no base rate was varied."""
    texts = []
    for _, _, rows in records.sweeps():
        texts += [f"## {rows.data.iloc[0]}, {rows.model.iloc[0]}", markdown(start_table(rows)), *start_notes(records, rows)]
    made = f"Made by `{regenerate(records, 'make_tables.py')}`."
    title = f"# What a wrong base rate costs, profile {records.profile}"
    return "\n\n".join([title, *texts, made]) + "\n" if texts else ""


def cost_table(records: Records) -> pd.DataFrame:
    """What each method cost; means over the same runs as in the table of accuracies."""
    rows = records.rows
    return pd.DataFrame(
        {
            **_keys(rows),
            "n": rows.n,
            "total, s": [_number(v, 1) for v in rows.seconds_total_mean],
            "training, s": [_number(v, 1) for v in rows.seconds_train_mean],
            "images/s": [_number(v, 0) for v in rows.images_per_second_mean],
            "evaluate + exchange, %": [_number(100 * v, 1) for v in rows.sync_share_mean],
            "inside, MB": [_number(v, 1) for v in rows.mb_inside_mean],
            "across, MB": [_number(v, 2) for v in rows.mb_across_mean],
            "commit": rows.commit,
        }
    )


def troubled_table(records: Records) -> pd.DataFrame:
    """The runs that did not simply finish."""
    runs = records.runs[records.runs.status != "finished"]
    return pd.DataFrame(
        {
            "#": runs.row,
            "experiment / run": runs.index,
            "state": runs.status,
            "what happened": runs.problem,
            "test accuracy, %": [_number(100 * float(v), 2) for v in runs.test_accuracy],
        }
    )


def commands(records: Records) -> list[dict[str, str]]:
    """How each row was made: number, label, command of the first seed, all seeds, commit, hardware."""
    columns = ["data", "model", "label", "command", "seeds", "commit", "hardware"]
    return [{"row": str(number), **line} for number, line in records.rows[columns].iterrows()]


def accuracy_notes(records: Records) -> list[str]:
    """What a reader of the table of accuracies has to know."""
    rows = shown_rows(records)
    if not len(rows):
        return [TEST_RULE]
    if rows.n.max() > 1:
        seeds = "Accuracies: mean ± standard deviation (n - 1) over n seeds; one seed has no deviation."
    else:
        seeds = "One seed per row, so no deviation is known and small differences are no findings."
    if rows.diverged.any():
        seeds += " Diverged runs count, with the accuracy of the last finite weights they ended with."
    if rows.optimizers.nunique() > 1:
        by_name = (
            f"{name} in {', '.join(f'#{i}' for i in part.index)}" for name, part in rows.groupby("optimizers", sort=False)
        )
        optimizers = f" Weight optimizers: {'; '.join(by_name)}."
    else:
        optimizers = f" Weight optimizer of all rows: {rows.optimizers.iloc[0]}."
    return [
        f"{seeds} Compare at equal gradient evaluations: images times backward passes, summed over all ranks (SAM and ASAM "
        f"make two per image).{optimizers}",
        TEST_RULE,
    ]


def cost_notes(records: Records) -> list[str]:
    """What a reader of the table of costs has to know."""
    hardware = "; ".join(dict.fromkeys(records.rows.hardware))
    return [
        "Seconds of wall time, mean over ranks. evaluate + exchange: their share of train + evaluate + exchange, waiting for "
        "others included. Bytes: payload handed over, summed over ranks, inside communicators and across populations.",
        f"Measured on: {hardware}.",
    ]


def regenerate(records: Records, script: str) -> str:
    """The command that makes a script's output again."""
    return f"python results/{script} {records.profile}"


def numbers_csv(records: Records) -> pd.DataFrame:
    """Both tables, unrounded, with commands and commits."""
    first = ["dataset", "model", "method", "setting", "optimizers", "ranks", "workers", "batch_size", "rounds"]
    counts = ["n", "diverged", "incomplete", "repeated", "seeds"]
    numbers = [f"{name}_{kind}" for name in NUMBERS for kind in ("mean", "sd")]
    return records.rows[[*first, *counts, *numbers, "commit", "hardware", "command"]]


def markdown(table: pd.DataFrame) -> str:
    """A pipe table; text to the left, numbers to the right."""
    rule = ["---" if c in TEXT else "---:" for c in table]
    lines = [list(table), rule, *table.astype(str).to_numpy().tolist()]
    return "\n".join(f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def write(records: Records, folder: Path) -> list[Path]:
    """Write all tables; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    made = f"Made by `{regenerate(records, 'make_tables.py')}`; columns are explained in results/README.md."
    accuracy = [f"# Accuracy, profile {records.profile}", markdown(accuracy_table(records)), *accuracy_notes(records), made]
    accuracy += ["## Commands", *(_command_entry(c) for c in commands(records))]
    troubled = troubled_table(records)
    if len(troubled):
        accuracy += ["## Runs that did not simply finish", markdown(troubled)]
    cost = [f"# Cost, profile {records.profile}", markdown(cost_table(records)), *cost_notes(records), made]
    texts = {
        "accuracy.md": "\n\n".join(accuracy) + "\n",
        "cost.md": "\n\n".join(cost) + "\n",
        "accuracy.csv": numbers_csv(records).to_csv(index_label="#", lineterminator="\n"),
        "runs.csv": records.runs.drop(columns="settings").to_csv(lineterminator="\n"),
    }
    if starts := start_text(records):
        texts["start.md"] = starts
    for name, text in texts.items():
        (folder / name).write_text(text)
    return [folder / name for name in texts]


def _command_entry(entry: dict[str, str]) -> str:
    seeds = entry["seeds"]
    which = f"seeds {seeds}, command of the first" if "," in seeds else f"seed {seeds}"
    indent = " " * (len(entry["row"]) + 2)
    return (
        f"{entry['row']}. {entry['data']}, {entry['model']}, {entry['label']} ({which}; commit {entry['commit']})\n\n"
        f"{indent}```\n{indent}{entry['command']}\n{indent}```"
    )


def _keys(rows: pd.DataFrame) -> dict[str, object]:
    method = [f"{t} ({s})" if s else t for t, s in zip(rows.title, rows.setting, strict=True)]
    return dict(zip(KEYS, (rows.index, rows.data + ", " + rows.model, method), strict=True))


def _remarks(row: pd.Series) -> str:
    """How many runs of the row did not simply finish; nothing if all did."""
    return ", ".join(f"{row[status]} {status}" for status in ("diverged", "incomplete", "repeated") if row[status])


def percent(row: pd.Series, name: str) -> str:
    """A fraction's mean over a row's runs in percent, with its standard deviation if there is one."""
    mean, sd = 100 * row[f"{name}_mean"], 100 * row[f"{name}_sd"]
    if not row.n:
        return UNKNOWN
    return f"{mean:.2f}" if row.n == 1 else f"{mean:.2f} ± {sd:.2f}"


def _number(value: float, digits: int) -> str:
    return f"{value:,.{digits}f}" if np.isfinite(value) else UNKNOWN


def _count(value: float) -> str:
    return _number(value, 0)


def main() -> None:
    records, folder = from_command_line(__doc__)
    for path in write(records, folder / "tables"):
        print(path)


if __name__ == "__main__":
    main()
