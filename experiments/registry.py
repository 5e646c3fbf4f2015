"""What an experiment, a table and a profile are. The profiles themselves: smoke.py, cpu.py, published.py.

A table names the experiments whose results it shows; the runner, the tables, the figures and the README blocks look it up here.
A new row of a table is one `Experiment` in the profile's file; a new table is one `Table`.
"""

import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results"

Kind = Literal["methods", "start", "periods", "steps", "search"]

PROFILES = {  # name: module of this package, and one sentence for the report
    "smoke": (
        "smoke",
        "Every experiment at the smallest size, on the handwritten digits of 8 x 8 pixels that ship with scikit-learn. It "
        "shows that everything works; it does not rank methods.",
    ),
    "cpu": (
        "cpu",
        "CIFAR-10 and CIFAR-100 at a size that two cores can do overnight. Networks and training are smaller than published, "
        "so these numbers are not comparable with those of the papers.",
    ),
    "gpu": ("published", "The published setting, WRN-22-8 (called 16-8 there) for 200 epochs, on the GPUs of one node."),
    "paper": (
        "published",
        "The published setting, WRN-22-8 (called 16-8 there) for 200 epochs, for several seeds; beside it the rules of the "
        "published scripts.",
    ),
}


@dataclass(frozen=True)
class Tune:
    """An option that is tuned: all values on seed 0, and the one with the highest validation accuracy on the other seeds."""

    option: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class Experiment:
    """One script with its options, run for every seed.

    name: unique in its profile; what `--only` takes, and the beginning of the names of its runs.
    label: the method, as tables and figures name it.
    script, options: what is run, without --preset, --seed, --out, --resume and the tuned option.
    at: value of the variable that its table varies: base rate (start), period in steps (periods; None: never), or first step.
    tune: the option that is tuned, if one is.
    replays: name of the experiment of the same seed whose learning rates it replays.
    seeds: at least so many seeds, whatever `--seeds` says.
    """

    name: str
    label: str
    script: str
    options: str = ""
    ranks: int = 1
    at: float | None = None
    tune: Tune | None = None
    replays: str = ""
    seeds: int = 1

    @property
    def values(self) -> tuple[str | None, ...]:
        """Of the tuned option; None alone where nothing is tuned."""
        return self.tune.values if self.tune else (None,)

    def run_name(self, value: str | None) -> str:
        """Name of the runs with this value, in records and folders."""
        return self.name if value is None else f"{self.name}-{value}"


@dataclass(frozen=True)
class Table:
    """Experiments that are compared with each other; their records lie in results/PROFILE/NAME/.

    kind: how it is shown. `methods`: a line per experiment; `start`: a line per label, a column per base rate; `periods`:
    likewise, a column per communication period; `steps`: a line per experiment, training losses beside accuracies;
    `search`: a line per strategy of hyper-parameter search.
    first_steps: of `steps`, experiments of a second table with a column per first step or learning rate; may repeat
    experiments and values of the first.
    """

    name: str
    kind: Kind
    title: str
    experiments: tuple[Experiment, ...] = ()
    first_steps: tuple[Experiment, ...] = ()


@dataclass(frozen=True)
class Profile:
    """The tables of one profile. preset: the scripts' --preset; seeds: how many are run where `--seeds` is not given."""

    name: str
    preset: str
    seeds: int
    tables: tuple[Table, ...]

    def experiments(self) -> Iterator[tuple[Table, Experiment]]:
        """Every experiment with its table, in order."""
        for table in self.tables:
            for experiment in (*table.experiments, *table.first_steps):
                yield table, experiment

    def table(self, name: str) -> Table:
        """The table of this name. Raises KeyError."""
        return {table.name: table for table in self.tables}[name]


def load_profile(name: str, ranks: int = 8) -> Profile:
    """A profile by name. ranks: workers of an ecosphere. Raises KeyError for a name that is not in PROFILES."""
    module = importlib.import_module(f"experiments.{PROFILES[name][0]}")
    return module.profile(name, ranks)
