"""Benchmark of the species: rounds to a far optimum, and drift of the rates when fitness carries no information.

    python benchmarks/species.py

No training: the fitness of a rate x is -(ln x - ln x*)^2, the quadratic in log rate, or a random number. Eight workers of one
population start around 1 (eta0, with k = 1), the base rate is the leader's (`--base-rate best`), without
damping (`--damping none`) and without limits on the rates. Writes results/benchmarks/species.md, species.csv and species.png.
"""

import csv
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from common.ecosphere.rates import EcosphereRates, EoaSettings
from common.ecosphere.species import SPECIES
from common.ecosphere.species.moves import SPACES, Rules
from common.ecosphere.standings import Standings
from common.options import PathText, read_options
from common.parallel import launch
from common.parallel.populations import PopulationSpec

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#8A9099", "#56B4E9")
COLOURS = dict(zip(SPECIES, cycle(PALETTE), strict=False))
NEAR = np.log(1.1)  # within 10 % of the optimum


@dataclass(frozen=True)
class Args:
    """What is simulated."""

    workers: int = 8
    """workers of the population"""
    rounds: int = 40
    """rounds of a run; the exploration range of wolves and whales falls to 0 over them"""
    factor: float = 30.0
    """factor by which the optimum of the table lies above, and below, the start"""
    seeds: int = 20
    """seeds of the table and the upper panels"""
    drifts: int = 200
    """runs without information, lower panels"""
    out: PathText = "results/benchmarks"
    """folder of the results"""


def search(args: Args, species: str, space: str, optimum: float, seed: int, informed: bool = True) -> np.ndarray:
    """ln of the leader's rate, shape (rounds,). informed: fitness is the quadratic, else noise."""
    settings = EoaSettings("best", Rules("none", space), limited=False)
    rates = EcosphereRates([PopulationSpec(species, args.workers, "sgd")], 1.0, args.rounds, [128.0], seed, settings)
    noise = np.random.default_rng(seed)
    x, leaders = rates.start, []
    for t in range(args.rounds):
        fitness = -np.square(np.log(x / optimum)) if informed else noise.random(args.workers)
        standings = Standings(fitness, x, [args.workers])
        leaders.append(np.log(standings.leader_rate))
        x = rates.next(t, standings, 0)
    return np.array(leaders)


def rounds_to(args: Args, species: str, space: str, optimum: float) -> np.ndarray:
    """Rounds until the leader's rate is first within 10 % of the optimum, per seed; NaN if never."""
    near = [np.abs(search(args, species, space, optimum, s) - np.log(optimum)) <= NEAR for s in range(args.seeds)]
    return np.array([hits.argmax() if hits.any() else np.nan for hits in near])


def table(args: Args) -> list[dict[str, object]]:
    """One line per species, space and side of the optimum."""
    lines: list[dict[str, object]] = []
    for space in SPACES:
        for species in SPECIES:
            for side, optimum in (("above", args.factor), ("below", 1 / args.factor)):
                needed = rounds_to(args, species, space, optimum)
                found = needed[np.isfinite(needed)]
                line = {"space": space, "species": species, "optimum": f"{args.factor:g} times {side}"}
                line |= {"found": f"{len(found)} of {args.seeds}"}
                line |= {"median": f"{np.median(found):.0f}" if len(found) else "-", "worst": "never"}
                if len(found) == args.seeds:
                    line["worst"] = f"{found.max():.0f}"
                lines.append(line)
    return lines


def draw(args: Args) -> Figure:
    """Above: final distance from a shifted optimum. Below: drift of the rates when fitness is noise."""
    figure = Figure((9, 6.2), layout="constrained")
    panels = figure.subplots(2, 2, sharey="row")
    shifts = np.linspace(-3, 3, 13)  # decades
    for column, space in enumerate(SPACES):
        upper, lower = panels[:, column]
        for species in SPECIES:
            ends = [
                [search(args, species, space, 10**shift, s)[-1] / np.log(10) - shift for s in range(args.seeds)]
                for shift in shifts
            ]
            style = {"color": COLOURS[species], "lw": 1.6, "label": species}
            upper.plot(shifts, np.median(np.abs(ends), axis=1), marker="o", ms=3, **style)
            drift = np.array([search(args, species, space, 1.0, s, informed=False) for s in range(args.drifts)]) / np.log(10)
            rounds = np.arange(args.rounds) + 1
            lower.plot(rounds, np.median(drift, axis=0), **style)
            lower.fill_between(rounds, *np.quantile(drift, [0.25, 0.75], axis=0), color=COLOURS[species], alpha=0.08, lw=0)
        upper.set_title(f"{space} space", loc="left", fontsize=10)
        upper.set_xlabel("optimum, decades from the start")
        lower.set_xlabel("round, fitness is noise")
        upper.set_yscale("symlog", linthresh=0.01)
        lower.set_ylim(-3.5, 3.5)
        for axes in (upper, lower):
            axes.grid(color="#E4E6EA")
            axes.spines[["top", "right"]].set_visible(False)
    panels[0, 0].set_ylabel("distance from the optimum at the end,\ndecades (median)")
    panels[1, 0].set_ylabel("leader's rate, decades from the start\n(median, quartiles)")
    figure.legend(
        *panels[0, 0].get_legend_handles_labels(), frameon=False, fontsize=8, ncols=len(SPECIES), loc="outside lower left"
    )
    figure.suptitle("Each species on shifted optima, and without an optimum", x=0.01, ha="left", fontsize=11)
    return figure


def main() -> None:
    """Simulate, print the table, write everything."""
    args = read_options(Args, __doc__)
    lines = table(args)
    columns = list(lines[0])
    text = [
        f"Rounds until the best rate is within 10 % of the optimum of a quadratic in log rate: {args.workers} workers, "
        f"{args.rounds} rounds, {args.seeds} seeds, start {args.factor:g} times too low or too high. Base rate `best`, no "
        "damping, no limits (a run keeps rates within 1/1000 and 10 times their start).",
        "",
        f"| {' | '.join(columns)} |",
        f"| {' | '.join('---' for _ in columns)} |",
        *(f"| {' | '.join(str(v) for v in line.values())} |" for line in lines),
        "",
        "Made by `python benchmarks/species.py`.",
    ]
    print("\n".join(text))
    folder = Path(args.out)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "species.md").write_text("\n".join(text) + "\n", encoding="utf-8")
    with open(folder / "species.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(lines)
    mpl.rcParams["font.size"] = 9
    draw(args).savefig(folder / "species.png", dpi=130)


if __name__ == "__main__":
    launch.run(main)
