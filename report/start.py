"""Tables of kind `start`: methods by the base rate they were started with."""

import pandas as pd
from matplotlib.figure import Figure

from report import curves, outdated
from report.cells import TEST_RULE, UNKNOWN, count, number, percent
from report.drawing import WIDTH, Picture, footer, headline, look, subject
from report.records import TableRecords
from report.section import Block, Section


def section(records: TableRecords) -> Section:
    """Accuracies over base rates; curves and times of the middle one."""
    rows = records.rows(records.table.experiments)
    marks = outdated.marks(rows, records.table.name, records.profile)
    rates = sorted(rows["at"].unique())
    middle = rows[rows["at"] == rates[len(rates) // 2]]
    by_worker = (curves.workers(records, row) for _, row in middle.iterrows())
    figures = [over_rates(records, rows), curves.accuracy(records, middle), *(p for p in by_worker if p)]
    figures.append(curves.seconds(records, middle))
    return Section(records.table.name, records.table.title, (Block(table(rows), marks, tuple(notes(rows))),), tuple(figures))


def table(rows: pd.DataFrame) -> pd.DataFrame:
    """A line per method, a column per base rate; what its evaluations cost."""
    seconds = [f"seconds_{phase}_mean" for phase in ("train", "evaluate", "exchange")]
    rates = sorted(rows["at"].unique())
    lines = []
    for label, part in rows.groupby("label", sort=False):
        cells = {row["at"]: percent(row, "test_accuracy") for _, row in part.iterrows()}
        means = 100 * part.test_accuracy_mean
        whole = part[part.diverged == 0] if (part.diverged == 0).any() else part  # the others ended early
        shares = 100 * whole.seconds_evaluate_mean / whole[seconds].sum(axis=1)
        lines.append(
            {
                "method": label,
                **{f"{rate:g}": cells.get(rate, UNKNOWN) for rate in rates},
                "worst": number(means.min(), 2),
                "best": number(means.max(), 2),
                "evaluating, %": number(shares.mean(), 1),
            }
        )
    return pd.DataFrame(lines)


def notes(rows: pd.DataFrame) -> list[str]:
    """How to read the table."""
    deviation = " ± standard deviation (n - 1)" if rows.n.max() > 1 else ""
    seeds = "; ".join(dict.fromkeys(rows.seeds))
    lost = int(rows.diverged.sum())
    diverged = f" Of {rows.n.sum()} runs {lost} diverged; they count with their last finite weights." if lost else ""
    optimizers = ", ".join(dict.fromkeys(rows.optimizers))
    return [
        f"{subject(rows)}. Test accuracy in % by the base rate that was given (--learning-rate), mean{deviation} over seeds "
        f"{seeds}; {count(rows.train_images_mean.max())} training images a run; weight optimizer {optimizers}.{diverged} Worst "
        "and best: of the means in the line. Evaluating: evaluation / (training + evaluation + exchange), the final validation "
        f"and test included; without rates at which runs diverged. {TEST_RULE}"
    ]


def over_rates(records: TableRecords, rows: pd.DataFrame) -> Picture:
    """Test accuracy of every method over the base rate it was given."""
    figure = Figure((WIDTH, 4.4), layout="constrained")
    axes = figure.subplots()
    firsts = rows.drop_duplicates("label")
    for i, (label, part) in enumerate(rows.groupby("label", sort=False)):
        style = look(firsts, i)
        part = part.sort_values("at")
        accuracies = [100 * records.runs_of(name).test_accuracy.astype(float) for name in part.index]
        lost = int(part.diverged.sum())
        words = f"{label}{f' ({lost} of {part.n.sum()} runs diverged)' if lost else ''}"
        axes.plot(part["at"], [a.mean() for a in accuracies], marker="o", ms=4, lw=1.8, label=words, **style)
        low, high = [a.min() for a in accuracies], [a.max() for a in accuracies]
        axes.fill_between(part["at"], low, high, color=style["color"], alpha=0.12, lw=0)
    axes.set_xscale("log")
    axes.set_xlabel("base rate that was given (--learning-rate)")
    axes.set_ylabel("test accuracy, %")
    title = f"What a wrong base rate costs, {subject(rows)}"
    headline(figure, axes, title, 2)
    footer(figure, records.profile, rows, "band: lowest to highest seed" if rows.n.max() > 1 else "one seed")
    caption = (
        "Test accuracy of the final model over the base rate that the run was started with, mean over seeds. Diverged runs "
        "count with the last finite weights."
    )
    return Picture(records.table.name, title, caption, figure)
