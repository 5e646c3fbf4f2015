"""Hyper-parameter searches of a profile: their table and their figures, from the records under results/<profile>/dhpo.

    python results/searches.py [smoke|cpu|gpu|paper]

make_tables.py, make_figures.py and make_report.py show the same. Searches that differ in nothing but strategy and seed are
compared with each other. Columns: results/README.md.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from cells import UNIT_PIXELS, UNKNOWN, markdown, number
from drawing import OWN, WIDTH, Picture, headline
from matplotlib.figure import Figure
from names import DATASETS
from records import command_line, count_ranks, write_text
from run_reading import with_pixels

FOLDER = "dhpo"
STRATEGIES = {  # as tables and figures name them, in their order
    "grid": "grid",
    "random": "random",
    "evolution": "evolution (μ + μ)",
    "async-evolution": "asynchronous evolution",
    "tpe": "TPE (Optuna)",
}
STRATEGY_COLOURS = dict(zip(STRATEGIES, OWN, strict=False))
PUBLISHED = {  # accuracy on the test set, in percent; the reference project's
    "mnist": {"grid": "93.97", "random": "94.03", "evolution": "94.67"},
    "cifar10": {"grid": "77.32", "random": "78.08", "evolution": "79.51"},
}
NOT_COMPARED = {"seed", "out", "data_dir", "resume", "strategy", "method", "grid_size", "population", "order", "lag", "preset"}
OF_A_STRATEGY = {  # options that tell searches by one strategy from others by it
    "grid": ("grid_size",),
    "evolution": ("population",),
    "async-evolution": ("population", "order", "lag"),
    "tpe": ("order", "lag"),
}
NOTE = (
    "All trials of a search are trained with one seed. Settings are chosen by the accuracy on held-out training images "
    "(validation: the winner's, which luck has helped); the winner is trained again, and test images are read once, for it. "
    "Mean ± standard deviation (n - 1) over n seeds; time in trials: share of the ranks' time. Published: Distributed "
    "Hyper-Parameters Optimization (2019), another protocol: settings chosen by the very test accuracy that is given, with all "
    "training images, and for CIFAR-10 a network of 2.9 million parameters."
)


@dataclass(frozen=True)
class Group:
    """Searches that are compared; title: what they have in common. runs: one line for each, with its trials."""

    name: str
    title: str
    runs: pd.DataFrame

    def methods(self) -> Iterator[tuple[str, str, pd.DataFrame]]:
        """(strategy, name, runs) of every strategy; its own options are named where it was run with several."""
        order = list(STRATEGIES)
        for strategy, part in sorted(self.runs.groupby("strategy"), key=lambda item: order.index(item[0])):
            for own, runs in part.groupby("own", sort=False):
                name = STRATEGIES[strategy]
                yield strategy, f"{name} ({own})" if part.own.nunique() > 1 else name, runs.sort_values("seed")


def load(folder: Path) -> list[Group]:
    """All searches of a profile's folder; those without a summary are left out here and counted by `unfinished`."""
    lines = [_read(d) for d in sorted(folder.glob(f"{FOLDER}/*")) if (d / "summary.json").exists()]
    if not lines:
        return []
    runs = pd.DataFrame(lines)
    groups = []
    for _, part in runs.groupby("key", sort=False):
        first = part.iloc[0]
        name = f"{first.dataset}-{first.model.lower()}"
        taken = sum(g.name.startswith(name) for g in groups)
        data = DATASETS.get(first.dataset, first.dataset)
        images = f" of {first.images:,} images" if first.images else ""
        epochs = f"{first.rounds} epoch{'s' if first.rounds > 1 else ''}{images}"
        title = f"{data}, {first.model}: {first.planned} trials of {epochs}, space {first.space_name}"
        groups.append(Group(f"{name}-{taken + 1}" if taken else name, title, part))
    return groups


def unfinished(folder: Path) -> list[str]:
    """Searches that have begun and not ended."""
    return [
        d.name for d in sorted(folder.glob(f"{FOLDER}/*")) if (d / "config.json").exists() and not (d / "summary.json").exists()
    ]


def _read(directory: Path) -> dict[str, Any]:
    """One search."""
    config, summary, environment = (
        json.loads((directory / f"{name}.json").read_text(encoding="utf-8")) for name in ("config", "summary", "environment")
    )
    config = with_pixels(config)
    key = {k: v for k, v in config.items() if k not in NOT_COMPARED} | {"ranks": summary["ranks"]}
    own = ", ".join(f"{k.replace('_', '-')} {config[k]}" for k in OF_A_STRATEGY.get(config["strategy"], ()))
    return {
        "run": directory.name,
        "key": json.dumps(key, sort_keys=True),
        "own": own,
        **{k: config[k] for k in ("strategy", "dataset", "seed", "rounds", "space_name")},
        **{k: summary[k] for k in ("model", "ranks", "steps", "validation_accuracy", "test_accuracy", "commit")},
        "planned": config["trials"],
        "images": config["train_images"],
        "pixels": config["pixels"],
        **summary["trials"],
        "seconds": summary["seconds"]["search"],
        "busy": summary["trial_seconds"] / (summary["workers"] * summary["seconds"]["search"]),
        "command": environment["command"],
        "best": summary["best"]["setting"],
        "trials": pd.read_csv(directory / "trials.csv"),
    }


def table(group: Group) -> pd.DataFrame:
    """What each strategy found, and what it cost."""
    lines = []
    for strategy, name, runs in group.methods():
        lines.append(
            {
                "method": name,
                "n": len(runs),
                "complete / pruned / failed": " / ".join(f"{runs[s].mean():g}" for s in ("complete", "pruned", "failed")),
                "epochs": f"{runs.steps.mean():.0f}",
                "validation, %": _percent(runs.validation_accuracy),
                "test, %": _percent(runs.test_accuracy),
                "published, other protocol": PUBLISHED.get(runs.dataset.iloc[0], {}).get(strategy, UNKNOWN),
                "search, s": number(runs.seconds.mean(), 0),
                "time in trials, %": number(100 * runs.busy.mean(), 1),
                "commit": ", ".join(dict.fromkeys(runs.commit)),
            }
        )
    return pd.DataFrame(lines)


def _percent(fractions: pd.Series) -> str:
    mean, sd = 100 * fractions.mean(), 100 * fractions.std(ddof=1)
    return f"{mean:.2f} ± {sd:.2f}" if len(fractions) > 1 else f"{mean:.2f}"


def text(folder: Path) -> str:
    """All of search.md; empty where there are no searches."""
    groups = load(folder)
    if not groups:
        return ""
    parts = [f"# Hyper-parameter search, profile {folder.name}"]
    for group in groups:
        parts += [f"## {group.title}", f"{count_ranks(group.runs.ranks.iloc[0])} in every search."]
        parts += [*([UNIT_PIXELS] if (group.runs.pixels == "unit").any() else []), markdown(table(group))]
    parts.append(NOTE)
    if names := unfinished(folder):
        parts.append(f"Not finished, and not counted: {', '.join(names)}.")
    parts.append("## Commands")
    for group in groups:
        for _, name, runs in group.methods():
            seeds = ", ".join(map(str, runs.seed))
            parts.append(f"{group.title}, {name} (seeds {seeds}, command of the first)\n\n```\n{runs.command.iloc[0]}\n```")
    parts.append(f"Made by `python results/searches.py {folder.name}`; columns are explained in results/README.md.")
    return "\n\n".join(parts) + "\n"


def pictures(folder: Path) -> Iterator[Picture]:
    """Of every group the best so far over evaluations."""
    for group in load(folder):
        figure = Figure((WIDTH, 4.0), layout="constrained")
        axes = figure.subplots()
        shown = []  # what the axis has to hold: the last two thirds, since a first trial may be as bad as guessing
        for strategy, name, runs in group.methods():
            curves = [_best_so_far(trials) for trials in runs.trials]
            shortest = min(map(len, curves))
            best = 100 * np.array([c[:shortest] for c in curves])
            x = range(1, shortest + 1)
            colour, low, high = STRATEGY_COLOURS[strategy], best.min(axis=0), best.max(axis=0)
            axes.step(x, best.mean(axis=0), where="post", color=colour, lw=1.8, label=name)
            axes.fill_between(x, low, high, step="post", color=colour, alpha=0.12, lw=0)
            shown += [np.nanmin(best[:, shortest // 3 :]), np.nanmax(best)]
        axes.set_ylim(min(shown) - 0.5, max(shown) + 0.5)
        axes.set_xlabel("trials that have ended")
        axes.set_ylabel("best validation accuracy so far, %")
        headline(figure, axes, group.title, 3)
        seeds = group.runs.seed.nunique()
        caption = f"Best accuracy so far on held-out images, mean over {seeds} seed{'s'[: seeds > 1]}; band: lowest to highest."
        yield Picture(f"search-{group.name}", group.title, caption, figure)


def _best_so_far(trials: pd.DataFrame) -> np.ndarray:
    """After each ended trial the best value of a complete one; NaN before there is any."""
    ended = trials.dropna(subset=["end"]).sort_values("end", kind="stable")
    return ended.value.where(ended.state == "complete").astype(float).cummax().ffill().to_numpy()


def main() -> None:
    parser, root, profile = command_line(__doc__)
    folder = root / profile
    words = text(folder)
    if not words:
        parser.error(f"no finished searches under {folder / FOLDER}")
    for name in ("tables", "figures"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    write_text(folder / "tables" / "search.md", words)
    print(folder / "tables" / "search.md")
    for picture in pictures(folder):
        print(picture.save(folder / "figures"))


if __name__ == "__main__":
    main()
