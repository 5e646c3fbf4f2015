"""How numbers and tables are written: the cells that tables, figures and the report share."""

import numpy as np
import pandas as pd
from records import Records

UNKNOWN = "–"
TEXT = {
    "data, model",
    "method",
    "ranks: populations",
    "remarks",
    "rate",
    "commit",
    "experiment / run",
    "state",
    "what happened",
}  # to the left

OLD_STATISTICS = 128  # images, where a record does not say how many
TEST_RULE = (
    "Test images were read once per run, at its end, by the code that writes summary.json; learning rates, leaders and every "
    "other decision rest on images held out of the training set."
)

# Above tables of cropped images whose pixels were not normalised, which none of the commands that make them asks for any more.
UNIT_PIXELS = (
    "> Made with pixels in [0, 1] instead of normalised ones, which is no longer the default; this table and its figures will "
    "be made again."
)
# Above tables with weights whose batch-norm statistics were measured on 128 plain images (docs/algorithms.md).
PLAIN_STATISTICS = (
    "> Made with batch-norm statistics of evaluated weights ({methods}) that were measured on 128 plain "
    "images, which cost them accuracy: they are measured on 2,000 augmented ones now. This table and its figures will be made "
    "again."
)
BATCH_NORM = ("wrn", "cnn")  # networks that have it
RUNNING = {  # methods that keep the running statistics of trained weights
    *("eoa", "eoa-reference", "constant", "cosine", "step", "onecycle", "linear", "sqrt", "replay"),
    *("salsa", "sls", "salsa-released"),
}


def statistics_note(rows: pd.DataFrame) -> list[str]:
    """What to put above a table of rows some of which were evaluated with statistics of few plain images."""
    measured = ~rows.method.isin(RUNNING) | rows.optimizers.str.contains("schedulefree")
    old = rows.settings.map(lambda s: s.get("statistics_images") == OLD_STATISTICS and s.get("model") in BATCH_NORM)
    wrong = rows[measured & old]
    return [PLAIN_STATISTICS.format(methods="; ".join(dict.fromkeys(wrong.title)))] if len(wrong) else []


def percent(row: pd.Series, name: str) -> str:
    """A fraction's mean over a row's runs in percent, with its standard deviation if there is one."""
    mean, sd = 100 * row[f"{name}_mean"], 100 * row[f"{name}_sd"]
    if not row.n:
        return UNKNOWN
    return f"{mean:.2f}" if row.n == 1 else f"{mean:.2f} ± {sd:.2f}"


def number(value: float, digits: int) -> str:
    return f"{value:,.{digits}f}" if np.isfinite(value) else UNKNOWN


def count(value: float) -> str:
    return number(value, 0)


def markdown(table: pd.DataFrame) -> str:
    """A pipe table; text to the left, numbers to the right."""
    rule = ["---" if c in TEXT else "---:" for c in table]
    lines = [list(table), rule, *table.astype(str).to_numpy().tolist()]
    return "\n".join(f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def regenerate(records: Records, script: str) -> str:
    """The command that makes a script's output again."""
    return f"python results/{script} {records.profile}"
