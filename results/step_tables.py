"""Tables of steps: line searches beside tuned rates, schedules, and optimizers that need none."""

import numpy as np
import pandas as pd
from cells import TEST_RULE, UNKNOWN, count, markdown, number, percent, regenerate, statistics_note
from records import Records

# Final training losses as published (Kenneweg et al. 2024, their loss table): CIFAR-10 by ResNet-34, GPT-2 on its own text.
PUBLISHED_LOSSES = {
    "cifar10": {
        **{("constant", "adamw"): "0.01394", ("constant", "sgd"): "0.00982"},
        **{("sls", "salsa"): "0.0009508", ("sls", "salsa-sgd"): "0.05646"},
        **{("salsa", "salsa"): "0.003314", ("salsa", "salsa-sgd"): "0.003773"},
    },
    "topics": {
        **{("constant", "adamw"): "2.86", ("constant", "sgd"): "3.572"},
        **{("sls", "salsa"): "2.917", ("sls", "salsa-sgd"): "3.566"},
        **{("salsa", "salsa"): "2.772", ("salsa", "salsa-sgd"): "3.559"},
    },
}
PUBLISHED_CLAIM = "; over all tasks about 50 % lower loss, about 3 % overhead"  # of SaLSA over Adam
YARDSTICK = ("constant", "adamw")


def steps_table(rows: pd.DataFrame) -> pd.DataFrame:
    """What each kind of step came to, at the rate that was best on validation images; rows of one comparison."""
    chosen = rows[rows.chosen]
    kinds = list(zip(chosen.method, chosen.optimizers, strict=True))
    adam = chosen.train_loss_mean.iloc[kinds.index(YARDSTICK)] if YARDSTICK in kinds else np.nan
    lines = []
    for kind, (_, row) in zip(kinds, chosen.iterrows(), strict=True):
        tried = sorted(rows[rows.title == row.title].asked.dropna().unique())
        untuned = kind[0] in ("salsa", "sls", "salsa-released")
        rate = (
            UNKNOWN if np.isnan(row.asked) else "found" if untuned else f"{row.asked:g} of {', '.join(f'{r:g}' for r in tried)}"
        )
        published = PUBLISHED_LOSSES.get(row.dataset, {}).get(kind, UNKNOWN)
        lines.append(
            {
                "method": row.title,
                "rate": rate,
                "training loss": _loss(row),
                "over constant Adam's, %": number(100 * (row.train_loss_mean / adam - 1), 0) if np.isfinite(adam) else UNKNOWN,
                "test accuracy, %": f"{percent(row, 'test_accuracy')} (n = {row.n}{_lost(row)})",
                "validation, %": percent(row, "validation_accuracy"),
                "extra forward, %": number(100 * row.extra_forward_mean, 1),
                "training, s": number(row.seconds_train_mean, 0),
                "published loss, other protocol": published + PUBLISHED_CLAIM * (kind == ("salsa", "salsa")),
            }
        )
    table = pd.DataFrame(lines)
    silent = all(cell.startswith(UNKNOWN) for cell in table[table.columns[-1]])
    return table.drop(columns=table.columns[-1]) if silent else table


def _lost(row: pd.Series) -> str:
    return f", {row.diverged} diverged" if row.diverged else ""


def _loss(row: pd.Series) -> str:
    mean, sd = row.train_loss_mean, row.train_loss_sd
    return f"{mean:.3g} ± {sd:.1g}" if np.isfinite(sd) else number(mean, 4) if not np.isfinite(mean) else f"{mean:.3g}"


def first_step_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Test accuracy of each kind of step by the rate or first step it was given, where there were several."""
    given = sorted(rows.asked.dropna().unique())
    lines = []
    for title, part in rows.groupby("title", sort=False):
        if part.asked.nunique() < 2:
            continue
        cells = {row.asked: percent(row, "test_accuracy") for _, row in part.iterrows()}
        means = 100 * part.test_accuracy_mean
        lines.append({"method": title, **{f"{x:g}": cells.get(x, UNKNOWN) for x in given}, "spread": number(np.ptp(means), 1)})
    return pd.DataFrame(lines)


def steps_notes(records: Records, rows: pd.DataFrame) -> list[str]:
    """What a reader of these tables has to know."""
    chosen = rows[rows.chosen]
    first, settings = chosen.iloc[0], chosen.settings.iloc[0]
    return [
        f"{first.data}, {first.model}: {settings.get('train_images') or 'all'} training images, {first.rounds} rounds, batch "
        f"{first.batch_size}, {settings.get('precision', '?')}; neither labels are smoothed nor weights decayed. Means ± "
        "standard deviations (n - 1) over n seeds. Training loss: mean over the last round, augmentation included. Rate: the "
        "one with the best validation accuracy on the first seed, of those tried; line searches and Prodigy were not tuned. "
        "Extra forward: trial points, as a share of the training's forward and backward passes.",
        f"Up to {count(chosen.train_images_mean.max())} images seen in a run. Rows {rows.index.min()} to {rows.index.max()} of "
        f"accuracy.csv and of the commands in accuracy.md. {TEST_RULE}",
    ]


FIRST_STEP_NOTE = (
    "Test accuracy in % by the learning rate, or by the first step of a line search. Spread: highest minus lowest mean of the "
    "line, in points."
)


def steps_text(records: Records) -> str:
    """All of steps.md; empty where no line search was run."""
    texts = []
    for _, rows in records.steps():
        heading = [f"## {rows.data.iloc[0]}, {rows.model.iloc[0]}", *statistics_note(rows)]
        texts += [*heading, markdown(steps_table(rows)), *steps_notes(records, rows)]
        swept = first_step_table(rows)
        texts += [markdown(swept), FIRST_STEP_NOTE] if len(swept) else []
    made = f"Made by `{regenerate(records, 'make_tables.py')}`."
    return "\n\n".join([f"# Steps that find themselves, profile {records.profile}", *texts, made]) + "\n" if texts else ""
