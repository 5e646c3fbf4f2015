"""Tables of a profile, as Markdown for people and CSV for programs; made from the records alone.

    python results/make_tables.py [smoke|cpu|gpu|paper]

Writes results/<profile>/tables/: accuracy.md and cost.md (rows carry the same numbers in both); where there is something to
say, start.md (methods by the base rate they were started with), periods.md (by communication period) and steps.md (line
searches and what they are compared to), whose rows are not in accuracy.md, and search.md (of searches.py); accuracy.csv (all
numbers, unrounded) and runs.csv (one line per run directory, finished or not). Columns: results/README.md.
"""

from pathlib import Path

import pandas as pd
import searches
from cells import TEST_RULE, UNKNOWN, count, markdown, number, percent, regenerate
from records import NUMBERS, Records, from_command_line, write_text
from step_tables import steps_text
from sweep_tables import period_text, start_text

KEYS = ("#", "data, model", "method")


def shown_rows(records: Records) -> pd.DataFrame:
    """The rows of accuracy.md: all but those of sweeps over base rates or periods, and of comparisons of steps."""
    elsewhere = [*records.sweeps(), *records.periods(), *records.steps()]
    return records.rows.drop(index=[row for _, rows in elsewhere for row in rows.index])


def accuracy_table(records: Records) -> pd.DataFrame:
    """What each method reached, and for how much training; without the rows of sweeps over base rates or periods."""
    rows = shown_rows(records)
    return pd.DataFrame(
        {
            **_keys(rows),
            "ranks: populations": rows.workers,
            "batch": [UNKNOWN if pd.isna(v) else v for v in rows.batch_size],
            "rounds": [UNKNOWN if pd.isna(v) else v for v in rows.rounds],
            "training images": [count(v) for v in rows.train_images_mean],
            "gradient evaluations": [count(v) for v in rows.gradient_evaluations_mean],
            "test accuracy, %": [f"{percent(r, 'test_accuracy')} (n = {r.n})" for _, r in rows.iterrows()],
            "validation, %": [percent(r, "validation_accuracy") for _, r in rows.iterrows()],
            "remarks": [_remarks(r) for _, r in rows.iterrows()],
        }
    )


def cost_table(records: Records) -> pd.DataFrame:
    """What each method cost; means over the same runs as in the table of accuracies, sweeps with one line a method."""
    shown = shown_rows(records)
    lines = [_cost_line(shown.loc[[number]], method) for number, method in zip(shown.index, _methods(shown), strict=True)]
    for _, rows in [*records.sweeps(), *records.periods(), *records.steps()]:
        lines += [_cost_line(part, f"{title}, all of its sweep") for title, part in rows.groupby("title", sort=False)]
    return pd.DataFrame(lines)


def _cost_line(rows: pd.DataFrame, label: str) -> dict[str, object]:
    """The mean over some rows of one method."""
    first, mean = rows.iloc[0], rows.mean(numeric_only=True)
    numbers = str(rows.index[0]) if len(rows) == 1 else f"{rows.index.min()} to {rows.index.max()}"
    return {
        **dict(zip(KEYS, (numbers, f"{first.data}, {first.model}", label), strict=True)),
        "n": rows.n.sum(),
        "total, s": number(mean.seconds_total_mean, 1),
        "training, s": number(mean.seconds_train_mean, 1),
        "images/s": number(mean.images_per_second_mean, 0),
        "evaluate + exchange, %": number(100 * mean.sync_share_mean, 1),
        "inside, MB": number(mean.mb_inside_mean, 1),
        "across, MB": number(mean.mb_across_mean, 2),
        "commit": ", ".join(dict.fromkeys(commit for text in rows.commit for commit in text.split(", "))),
    }


def troubled_table(records: Records) -> pd.DataFrame:
    """The runs that did not simply finish."""
    runs = records.runs[records.runs.status != "finished"]
    return pd.DataFrame(
        {
            "#": runs.row,
            "experiment / run": runs.index,
            "state": runs.status,
            "what happened": runs.problem,
            "test accuracy, %": [number(100 * float(v), 2) for v in runs.test_accuracy],
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
        "others included. Bytes: payload handed over, summed over ranks, inside communicators and across populations. All of "
        "its sweep: the mean over a method's rows, whatever their rate or period (bytes go with one over the period).",
        f"Measured on: {hardware}.",
    ]


def numbers_csv(records: Records) -> pd.DataFrame:
    """Both tables, unrounded, with commands and commits."""
    first = ["dataset", "model", "method", "setting", "optimizers", "ranks", "workers", "batch_size", "rounds"]
    counts = ["n", "diverged", "incomplete", "repeated", "seeds"]
    numbers = [f"{name}_{kind}" for name in NUMBERS for kind in ("mean", "sd")]
    return records.rows[[*first, *counts, *numbers, "commit", "hardware", "command"]]


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
    more = {"start.md": start_text, "periods.md": period_text, "steps.md": steps_text}
    texts |= {name: text for name, make in more.items() if (text := make(records))}
    texts |= {name: text for name, text in (("search.md", searches.text(folder.parent)),) if text}
    for name, text in texts.items():
        write_text(folder / name, text)
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
    return dict(zip(KEYS, (rows.index, rows.data + ", " + rows.model, _methods(rows)), strict=True))


def _methods(rows: pd.DataFrame) -> list[str]:
    """Names of methods, with the options that tell a row from others of its method."""
    return [f"{t} ({s})" if s else t for t, s in zip(rows.title, rows.setting, strict=True)]


def _remarks(row: pd.Series) -> str:
    """How many runs of the row did not simply finish, and what a line search tried besides; nothing if there is neither."""
    remarks = [f"{row[status]} {status}" for status in ("diverged", "incomplete", "repeated") if row[status]]
    if row.extra_forward_mean > 0:
        remarks.append(f"trial points: + {number(100 * row.extra_forward_mean, 1)} % of the training")
    return ", ".join(remarks)


def main() -> None:
    records, folder = from_command_line(__doc__)
    for path in write(records, folder / "tables"):
        print(path)


if __name__ == "__main__":
    main()
