"""How numbers and tables are written: the cells that tables, figures and the report page share."""

import numpy as np
import pandas as pd

UNKNOWN = "–"
TEXT = {  # columns to the left
    "data, model",
    "method",
    "ranks: populations",
    "remarks",
    "rate",
    "commit",
    "run",
    "what happened",
}
TEST_RULE = (
    "Test images are read once per run, at its end, by the code that writes summary.json; learning rates, leaders and every "
    "other decision rest on images held out of the training set."
)


def percent(row: pd.Series, name: str) -> str:
    """A fraction's mean over a row's runs in percent, with its standard deviation if there is one."""
    mean, sd = 100 * row[f"{name}_mean"], 100 * row[f"{name}_sd"]
    return f"{mean:.2f}" if row.n == 1 else f"{mean:.2f} ± {sd:.2f}"


def number(value: float, digits: int) -> str:
    """A number with so many digits after the point; a dash where it is not finite."""
    return f"{value:,.{digits}f}" if np.isfinite(value) else UNKNOWN


def count(value: float) -> str:
    """A whole number with separators."""
    return number(value, 0)


def count_ranks(n: int) -> str:
    """`1 rank`, `8 ranks`."""
    return f"{n} rank{'' if n == 1 else 's'}"


def seconds(row: pd.Series, name: str, digits: int) -> str:
    """Seconds; in brackets where runs shared the machine, so that they are no measurement."""
    text = number(row[name], digits)
    return f"({text})" if row.side_by_side else text


def markdown(table: pd.DataFrame) -> str:
    """A pipe table; text to the left, numbers to the right."""
    rule = ["---" if c in TEXT else "---:" for c in table]
    lines = [list(table), rule, *table.astype(str).to_numpy().tolist()]
    return "\n".join(f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in line)} |" for line in lines)
