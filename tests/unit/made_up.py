"""Packed records of made-up runs whose means can be worked out by hand, and registry tables for them."""

import json

import numpy as np
import pandas as pd

from experiments.packed import PackedRun, options_of, pack
from experiments.registry import Experiment, Table, Tune
from report.records import TableRecords

EOA = ({"species": "gwo", "workers": 2, "optimizer": "asam"}, {"species": "woa", "workers": 2, "optimizer": "asam"})
ROUNDS, ROUND_IMAGES = 4, 5 * 8


def one_population(method, optimizer="sgd", workers=4):
    """The only population of a baseline."""
    return ({"species": method, "workers": workers, "optimizer": optimizer},)


def add_run(folder, name, seed=0, test=0.9, method="eoa", populations=EOA, diverged_after=None, **more):
    """One run of four ranks: ROUNDS rounds of five steps of eight images. more: `change` (of its rounds, a function),
    `summary`, `environment` (keys to add), `options` (of the script), `side_by_side`; the rest goes into its configuration.
    """
    rounds = ROUNDS if diverged_after is None else diverged_after
    change, options = more.pop("change", lambda frame: frame), more.pop("options", "")
    added, environment, beside = more.pop("summary", {}), more.pop("environment", {}), more.pop("side_by_side", False)
    ranks = sum(p["workers"] for p in populations)
    config = {
        **{"method": method, "dataset": "digits", "model": "cnn", "width": 2, "seed": seed, "ranks": ranks},
        **{
            "rounds": ROUNDS,
            "population_list": list(populations),
            "batch_size": 8,
            "round_steps": 5,
            "statistics_images": 2000,
        },
        **more,
    }
    told = {
        **{"command": f"mpirun -np 4 python EOA-SAM/EOASAM.py --seed {seed}", "device": "cpu"},
        **{"processor": "Example", "cores": 2, "memory_gib": 8.0, **environment},
    }
    rates = change(rounds_of(populations, rounds, test, method))
    directory = folder / "runs" / f"{name}-seed{seed}"
    directory.mkdir(parents=True)
    rates.to_csv(directory / "metrics.csv", index=False)
    summary = summary_of(config, populations, rounds, test, seed, diverged_after) | added
    run = PackedRun(name, seed, "EOA-SAM/EOASAM.py", ranks, options_of(options.split()), beside, config, told, summary)
    pack(run, directory, folder)
    return run


def add_baseline(folder, name, method, optimizer="sgd", workers=4, **more):
    """One run of a baseline; more: as of `add_run`."""
    return add_run(folder, name, method=method, populations=one_population(method, optimizer, workers), **more)


def summary_of(config, populations, rounds, test, seed, diverged_after):
    """7 seconds of training and one more per seed."""
    passes = 2 if populations[0]["optimizer"] == "asam" else 1
    seconds = {"setup": 1.0, "train": 6.0 + seed, "evaluate": 0.5, "exchange": 1.5, "other": 0.25}
    return {
        **{"method": config["method"], "dataset": config["dataset"], "model": "CNN-2", "ranks": config["ranks"]},
        **{"rounds": rounds, "diverged": diverged_after is not None, "commit": "abc1234", "images_per_second": 100.0},
        **{"train_images": rounds * ROUND_IMAGES, "gradient_evaluations": passes * rounds * ROUND_IMAGES},
        **{"validation_accuracy": test - 0.05, "test_accuracy": test, "train_loss": 0.3},
        **{"seconds": {"total": sum(seconds.values()), **seconds}, "bytes_sent": {"inside": 3_000_000, "across": 250_000}},
    }


def rounds_of(populations, rounds, test, method):
    """Fitness rises with the rounds and falls with (rank + t) mod 4; of the ecosphere rates differ by rank."""
    workers = [(k, p) for k, p in enumerate(populations) for _ in range(p["workers"])]
    lines = [
        {
            **{"round": t, "rank": rank, "population": k, "species": p["species"], "optimizer": p["optimizer"]},
            **{"lr": 0.1 / (t + 1) * (1 + 0.1 * rank * (method == "eoa"))},
            **dict.fromkeys(("fitness", "val_accuracy"), round(test - 0.3 / (t + 1) - 0.01 * ((rank + t) % 4), 6)),
        }
        for t in range(rounds)
        for rank, (k, p) in enumerate(workers)
    ]
    columns = ("round", "rank", "population", "species", "optimizer", "lr", "fitness", "val_accuracy")
    return pd.DataFrame(lines, columns=list(columns))


def add_search(folder, strategy, seed=0, test=0.9, **config):
    """Four trials on two ranks, the last of which failed; 0.5, 0.7 and 0.6 in the order of their ends."""
    config = {
        "strategy": strategy,
        "dataset": "mnist",
        "trials": 4,
        "rounds": 1,
        "train_images": 5000,
        "space_name": "mnist",
        **config,
    }
    summary = {"method": strategy, "dataset": "mnist", "model": "DHPO-CNN-1", "ranks": 2, "workers": 2, "steps": 3}
    summary |= {"validation_accuracy": test + 0.01, "test_accuracy": test, "trial_seconds": 72.0, "commit": "abc1234"}
    summary |= {
        "trials": {"complete": 3, "pruned": 0, "failed": 1},
        "seconds": {"setup": 1, "search": 40.0 + seed, "winner": 2},
    }
    directory = folder / "runs" / f"search-{strategy}-seed{seed}"
    directory.mkdir(parents=True)
    trials = {
        "id": range(4),
        "state": ["complete"] * 3 + ["failed"],
        "value": [0.7, 0.5, 0.6, np.nan],
        "end": [2.0, 1.0, 3.0, 4.0],
    }
    pd.DataFrame({**trials, "seed": 0}).to_csv(directory / "trials.csv", index=False)
    told = {"command": f"python DHPO.py {seed}", "processor": "Example", "cores": 2, "memory_gib": 8.0}
    pack(PackedRun(f"search-{strategy}", seed, "DHPO/DHPO.py", 2, {}, False, config, told, summary), directory, folder)


def table(kind, *experiments, first_steps=()):
    """A registry table named like its kind."""
    return Table(kind, kind, f"A table of kind {kind}", experiments, first_steps)


def experiment(name, label, at=None, rates=(), options="", ranks=4):
    """A registry row; rates: of --learning-rate, to be tuned."""
    tune = Tune("--learning-rate", tuple(rates)) if rates else None
    return Experiment(name, label, "EOA-SAM/EOASAM.py", options, ranks, at, tune)


def records(folder, registered, profile="smoke"):
    """The records of one table."""
    from experiments.packed import read_runs

    return TableRecords(profile, registered, tuple(read_runs(folder)), folder)


def lines_of(path):
    """The packed runs of a file, as dictionaries."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
