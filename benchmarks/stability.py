"""Where round-robin ADMM diverges and elastic averaging does not: the figure of the EASGD paper's section 4, recomputed.

    python benchmarks/stability.py

The quadratic F(x) = x^2 / 2 without noise; p workers take turns. Above: the spectral radius of one round over learning rate
and penalty; it diverges above 1. Below: the centre over 20,000 rounds at eta = 0.001, rho = 2.5 from x^i = x~ = 1000.
Everything in float64, from the matrices of benchmarks/elastic_theory.py. Writes stability.md and stability.png into
results/benchmarks.
"""

from dataclasses import dataclass
from pathlib import Path

import elastic_theory as stability
import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure

from common.options import PathText, read_options
from common.parallel import launch

SHOWN = (3, 8)  # workers, one column each, as in the paper
ETA, RHO, START = 0.001, 2.5, 1000.0  # the paper's demonstration
COLOURS = {"ADMM": "#D55E00", "EASGD": "#0072B2"}


@dataclass(frozen=True)
class Args:
    """What is computed."""

    points: int = 99
    """grid points in each direction: eta up to 0.01, rho up to 10, both ends excluded"""
    rounds: int = 20000
    """rounds of the trajectories; a round is p activations"""
    out: PathText = "results/benchmarks"
    """folder of the results"""


def grid(args: Args) -> tuple[np.ndarray, np.ndarray]:
    """(etas, rhos), each of shape (points,)."""
    steps = np.arange(1, args.points + 1) / (args.points + 1)
    return 0.01 * steps, 10 * steps


def radii(args: Args, method: str, p: int) -> np.ndarray:
    """Spectral radius of one round, shape (points, points): rho down, eta across. EASGD moves by alpha = eta rho."""
    etas, rhos = grid(args)
    if method == "ADMM":
        rounds = [[stability.round_robin_admm(eta, rho, p) for eta in etas] for rho in rhos]
    else:
        rounds = [[stability.round_robin_easgd(eta, eta * rho, p) for eta in etas] for rho in rhos]
    return np.abs(np.linalg.eigvals(np.array(rounds))).max(axis=-1)


def centre_over_time(args: Args, method: str, p: int) -> np.ndarray:
    """x~ after every round, shape (rounds + 1,); multipliers begin at 0."""
    if method == "ADMM":
        state, turn = np.array([0.0, START] * p + [START]), stability.round_robin_admm(ETA, RHO, p)
    else:
        state, turn = np.full(p + 1, START), stability.round_robin_easgd(ETA, ETA * RHO, p)
    path = [state[-1]]
    for _ in range(args.rounds):
        state = turn @ state
        path.append(state[-1])
    return np.array(path)


def draw(args: Args, maps: dict[int, np.ndarray], paths: dict[tuple[str, int], np.ndarray]) -> Figure:
    """Maps of ADMM above, both methods' centres below."""
    figure = Figure((9, 6.6), layout="constrained")
    panels = figure.subplots(2, len(SHOWN))
    etas, rhos = grid(args)
    norm = TwoSlopeNorm(1.0, 1 - 2.5e-3, 1 + 2.5e-3)
    for column, p in enumerate(SHOWN):
        upper, lower = panels[:, column]
        mesh = upper.pcolormesh(1e3 * etas, rhos, maps[p], cmap="RdBu_r", norm=norm, shading="nearest", rasterized=True)
        upper.contour(1e3 * etas, rhos, maps[p], [1.0], colors="#303030", linewidths=1)
        upper.plot(1e3 * ETA, RHO, marker="x", color="#101010", ms=7, mew=2)
        upper.set_title(f"{p} workers: ADMM, spectral radius of a round", loc="left", fontsize=10)
        upper.set_xlabel("learning rate η, thousandths")
        for method in COLOURS:
            lower.plot(np.abs(paths[method, p]), color=COLOURS[method], lw=0.9, label=f"{method}")
        lower.set_title(f"{p} workers, η = {ETA}, ρ = {RHO} (the cross above)", loc="left", fontsize=10)
        lower.set_xlabel("round")
        _tidy(lower)
    panels[0, 0].set_ylabel("penalty ρ")
    panels[1, 0].set_ylabel("|centre|")
    panels[1, 0].legend(frameon=False, loc="lower left")
    figure.colorbar(mesh, ax=panels[0], label="> 1 diverges", extend="both", ticks=[0.998, 0.999, 1.0, 1.001, 1.002])
    figure.suptitle(
        "ADMM in turn diverges at small learning rates; elastic averaging does not anywhere here", x=0.01, ha="left"
    )
    return figure


def _tidy(axes: Axes) -> None:
    axes.set_yscale("log")
    axes.set_ylim(1e-8, 1e12)
    axes.grid(color="#E4E6EA")
    axes.spines[["top", "right"]].set_visible(False)


def main() -> None:
    """Compute, print the table, write everything."""
    args = read_options(Args, __doc__)
    mpl.rcParams["font.size"] = 9
    admm = {p: radii(args, "ADMM", p) for p in (2, 3, 4, 8)}
    paths = {(method, p): centre_over_time(args, method, p) for method in COLOURS for p in SHOWN}
    lines = [
        f"Round-robin methods on F(x) = x^2 / 2: the share of a grid of {args.points} x {args.points} points (η in (0, 0.01), "
        "ρ in (0, 10)) where one round has a spectral radius above 1, and the centre at η = 0.001, ρ = 2.5 from 1000.",
        "",
        "| workers | ADMM diverges | EASGD diverges | ADMM after 1,000 rounds | 20,000 | EASGD after 1,000 rounds | 20,000 |",
        "| ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for p, radius in admm.items():
        cells = [f"{np.mean(radius > 1):.1%}", f"{np.mean(radii(args, 'EASGD', p) > 1):.1%}"]
        for method in COLOURS:
            path = paths[method, p] if (method, p) in paths else centre_over_time(args, method, p)
            cells += [f"{path[min(t, args.rounds)]:.3g}" for t in (1000, 20000)]
        lines.append(f"| {p} | {' | '.join(cells)} |")
    lines += ["", "Made by `python benchmarks/stability.py`."]
    print("\n".join(lines))
    folder = Path(args.out)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "stability.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    draw(args, admm, paths).savefig(folder / "stability.png", dpi=130)


if __name__ == "__main__":
    launch.run(main)
