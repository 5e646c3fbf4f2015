"""Tables of sweeps: methods by the base rate they were started with, and by how often they communicate."""

import json

import numpy as np
import pandas as pd
from cells import TEST_RULE, UNIT_PIXELS, UNKNOWN, count, markdown, number, percent, regenerate, statistics_note
from records import Records

PUBLISHED_ERRORS = {  # lowest test error on CIFAR-10 at tau 1, 4, 16, 64 with 4 workers, digitised from the paper's Fig. 2
    "eamsgd": ("17.2", "17.4", "16.9", "16.6"),
    "aeasgd": ("18.1", "18.2", "18.2", "17.7"),
    "mvadownpour": ("18.2", "19.0", "19.8", "23.9"),
    "downpour": ("18.7", "18.8", "20.5", "24.3"),
    "adownpour": ("18.9", "20.0", "23.2", "> 28"),
    "mdownpour": ("18.8",),
}


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
                "worst": number(means.min(), 2),
                "best": number(means.max(), 2),
                "evaluating, %": number(shares.mean(), 1),
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
        f"{count(rows.train_images_mean.max())} training images a run; weight optimizer {optimizers}.{diverged} Worst and "
        "best: of the means in the line. Evaluating: share of train + evaluate + exchange, the final validation and test "
        "included; without rates at which runs diverged.",
        f"Rows {rows.index.min()} to {rows.index.max()} of accuracy.csv and of the commands in accuracy.md. {TEST_RULE}",
    ]


def start_text(records: Records) -> str:
    """All of start.md; empty where no base rate was varied."""
    texts = []
    for _, rows in records.sweeps():
        heading = [f"## {rows.data.iloc[0]}, {rows.model.iloc[0]}", *statistics_note(rows)]
        texts += [*heading, markdown(start_table(rows)), *start_notes(records, rows)]
    made = f"Made by `{regenerate(records, 'make_tables.py')}`."
    title = f"# What a wrong base rate costs, profile {records.profile}"
    return "\n\n".join([title, *texts, made]) + "\n" if texts else ""


def period_name(period: float) -> str:
    """A period as tables and figures name it."""
    return f"τ = {period:g}" if np.isfinite(period) else "never"


def period_table(records: Records, rows: pd.DataFrame) -> pd.DataFrame:
    """Test accuracy of each method by its communication period, at the rate that was best on validation images."""
    chosen = rows[rows.chosen]
    lines = []
    for title, part in chosen.groupby("title", sort=False):
        cells = {row.period: f"{percent(row, 'test_accuracy')} (n = {row.n}; η {row.asked:g})" for _, row in part.iterrows()}
        tried = ", ".join(f"{rate:g}" for rate in sorted(rows[rows.title == title].asked.unique()))
        published = {} if has_own_images(rows) else PUBLISHED_ERRORS.get(part.method.iloc[0], {})
        lines.append(
            {
                "method": title,
                **{period_name(period): cells.get(period, UNKNOWN) for period in sorted(rows.period.unique())},
                "rates tried": tried,
                "published error, %, other protocol": " / ".join(published) or UNKNOWN,
            }
        )
    table = pd.DataFrame(lines)
    return table.drop(columns=table.columns[-1]) if (table[table.columns[-1]] == UNKNOWN).all() else table


def has_own_images(rows: pd.DataFrame) -> bool:
    """Whether each worker kept to images of its own."""
    return rows.family.iloc[0] == "own-images"


def is_made_without_normalisation(rows: pd.DataFrame) -> bool:
    """Whether some pixels were in [0, 1] where the methods of several scripts are compared; elastic averaging alone was
    published so.
    """
    return has_own_images(rows) and any(settings.get("pixels") == "unit" for settings in rows.settings)


def marks(rows: pd.DataFrame) -> list[str]:
    """What stands above a table some of whose records would come out differently now."""
    return [*([UNIT_PIXELS] if is_made_without_normalisation(rows) else []), *statistics_note(rows)]


def period_notes(records: Records, rows: pd.DataFrame) -> list[str]:
    """What a reader of a table of periods has to know."""
    chosen, lost = rows[rows.chosen], rows[rows.diverged > 0]
    settings, first = chosen.settings.iloc[0], chosen.iloc[0]
    reduced = (
        f"{settings.get('train_images') or 'all'} images, {first.rounds} rounds, batch {settings.get('worker_batch')} a worker"
    )
    names = "; ".join(f"{row.title} at {period_name(row.period)}, η {row.asked:g}" for _, row in lost.iterrows())
    diverged = f"Diverged: {names}." if names else "No run became non-finite."
    network = ""
    if has_own_images(rows):
        judged = (
            "the run's model (of elastic averaging the centre, of a swarm its best place G, of independent SGD the best worker)"
        )
        about = [
            "Each worker keeps to images of its own. Synchronous SGD averages gradients every step; τ is the steps of "
            "a worker between two averages, pulls or moves of a swarm. PSO-PS is our reconstruction: no figure of its paper "
            "could be obtained, and none of these reproduces it."
        ]
    else:
        judged = "the centre"
        network = " (the paper's network is EASGD-CNN-8, with dropout, on 50,000 images, batch 128 a worker)"
        about = [
            "Published: lowest test error at τ = 1 / 4 / 16 / 64 with 4 workers, read off the paper's Fig. 2 (arXiv 1412.6651, "
            "about ± 0.1): the full network and data, 180 minutes on 4 GPUs, best of 3 runs and of the rates by test error, so "
            "another protocol."
        ]
    return [
        f"Test accuracy in % of {judged}: mean ± standard deviation over n seeds, and the learning rate η, which had the best "
        f"validation accuracy of those tried on the first seed (which is in the mean). {first.data}, {first.model}{network}: "
        f"{reduced}, {count(chosen.train_images_mean.max())} images seen in a run. {diverged}",
        *about,
        f"Rows {rows.index.min()} to {rows.index.max()} of accuracy.csv and of the commands in accuracy.md. {TEST_RULE}",
    ]


def swarm_table(rows: pd.DataFrame) -> pd.DataFrame:
    """What a swarm came to, besides the accuracy of its best place, and workers that never met; rows of one sweep."""
    lines = []
    if not rows.new_best_share_mean.notna().any():
        return pd.DataFrame()
    swarms = rows[rows.chosen & rows.average_test_accuracy_mean.notna()]
    seconds = [f"seconds_{phase}_mean" for phase in ("train", "evaluate", "exchange")]
    place = {title: i for i, title in enumerate(dict.fromkeys(swarms.title))}
    for _, row in swarms.sort_values(["title", "period"], key=lambda c: c.map(place) if c.name == "title" else c).iterrows():
        lines.append(
            {
                "method": row.title,
                "τ": period_name(row.period).removeprefix("τ = "),
                "G": percent(row, "test_accuracy") if np.isfinite(row.new_best_share_mean) else UNKNOWN,
                "mean of the workers": percent(row, "average_test_accuracy"),
                "best worker": percent(row, "best_worker_test_accuracy"),
                "moves with a new G, %": number(100 * row.new_best_share_mean, 1),
                "distance to G": number(row.distance_mean, 2),
                "exchange, %": number(100 * row.seconds_exchange_mean / row[seconds].sum(), 1),
                "sent, MB": number(row.mb_inside_mean, 1),
            }
        )
    return pd.DataFrame(lines)


SWARM_NOTE = (
    "Swarms in the table above, PSO-PS (our reconstruction), and workers that never meet: test accuracy in % of the best "
    "place G (the run's model), of the mean of all workers' weights, and of the best worker by validation; share of the "
    "meetings that found a new G, the last one included, after which nobody moves; mean distance of a worker to G at the "
    "end (–: they have flown apart, further than single precision can square); share of train + evaluate + exchange that is "
    "exchange: meeting, waiting for each other, and the move; payload sent by all workers. Measuring places, and judging "
    "workers after every round for the record, is evaluation."
)


def period_title(rows: pd.DataFrame) -> str:
    """Data, network, and whose images, of a sweep over periods."""
    return f"{rows.data.iloc[0]}, {rows.model.iloc[0]}{', workers with images of their own' if has_own_images(rows) else ''}"


def period_text(records: Records) -> str:
    """All of periods.md; empty where no period was varied."""
    texts = []
    for _, rows in records.periods():
        above = marks(rows)
        texts += [
            f"## {period_title(rows)}",
            *above,
            markdown(period_table(records, rows)),
            *period_notes(records, rows),
        ]
        swarms = swarm_table(rows)
        texts += [*above, markdown(swarms), SWARM_NOTE] if len(swarms) else []
    made = f"Made by `{regenerate(records, 'make_tables.py')}`."
    return "\n\n".join([f"# Communication periods, profile {records.profile}", *texts, made]) + "\n" if texts else ""
