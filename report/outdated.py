"""What stands above a table some of whose records would come out differently now."""

import pandas as pd

BATCH_NORM = ("wrn", "cnn")  # networks that have it
RUNNING = {  # methods that keep the running statistics of trained weights
    *("eoa", "eoa-reference", "constant", "cosine", "step", "onecycle", "linear", "sqrt", "replay"),
    *("salsa", "sls", "salsa-released"),
}
OLD_STATISTICS = 128  # images


def marks(rows: pd.DataFrame, table: str, profile: str) -> tuple[str, ...]:
    """One sentence per reason, and how the runs are made again; empty where nothing is out of date."""
    reasons = [*_options(rows), *_pixels(rows), *_statistics(rows)]
    again = f"`./run_all.sh --profile {profile} --only {table} --seeds {rows.n.max()} --fresh` makes them again."
    return (f"Out of date: {'; '.join(reasons)}. {again}",) if reasons else ()


def _options(rows: pd.DataFrame) -> list[str]:
    options = sorted({option for row in rows.outdated for option in row})
    count = int(rows.outdated.map(bool).sum())
    return [f"{count} of {len(rows)} rows differ from today's registry in {', '.join(options)}"] if count else []


def _pixels(rows: pd.DataFrame) -> list[str]:
    """Cropped images were not normalised once. Elastic averaging alone was published so, and asks for it."""
    unit = rows.settings.map(lambda s: s.get("pixels") == "unit" and not ("period" in s and s.get("shards") != "own"))
    return ["pixels were in [0, 1] and are normalised now"] if unit.any() else []


def _statistics(rows: pd.DataFrame) -> list[str]:
    measured = ~rows.method.isin(RUNNING) | rows.optimizers.str.contains("schedulefree")
    old = rows.settings.map(lambda s: s.get("statistics_images") == OLD_STATISTICS and s.get("model") in BATCH_NORM)
    wrong = rows[measured & old]
    if not len(wrong):
        return []
    labels = "; ".join(dict.fromkeys(wrong.label))
    return [f"batch-norm statistics ({labels}) were measured on 128 plain images, now on 2,000 augmented ones"]
