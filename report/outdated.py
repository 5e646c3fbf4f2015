"""What stands above a table some of whose records would come out differently now."""

import pandas as pd

BATCH_NORM = ("wrn", "cnn")  # networks that have it
ANNEALED = {  # methods whose last rates are near 0, where running statistics are those of the weights
    *("eoa", "eoa-reference", "cosine", "step", "onecycle", "linear", "sqrt", "replay"),
}
RUNNING = {*ANNEALED, "constant", "salsa", "sls", "salsa-released"}  # these kept the running statistics of trained weights
OLD_STATISTICS = 128  # images, of the others' records


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
    """Merged weights were measured on plain images once; the running statistics of a constant rate lag behind its weights."""
    old = ~rows.measured & rows.settings.map(lambda s: s.get("model") in BATCH_NORM)
    plain = rows.settings.map(lambda s: s.get("statistics_images") == OLD_STATISTICS)
    merged = ~rows.method.isin(RUNNING) | rows.optimizers.str.contains("schedulefree")
    running = ~merged & ~rows.method.isin(ANNEALED)
    return [
        f"batch-norm statistics ({'; '.join(dict.fromkeys(wrong.label))}) were {how}, now measured on 2,000 augmented images"
        for wrong, how in (
            (rows[old & merged & plain], "measured on 128 plain images"),
            (rows[old & running], "the running ones of a constant rate"),
        )
        if len(wrong)
    ]
