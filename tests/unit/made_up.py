"""Packed records of made-up runs whose means can be worked out by hand, and registry tables for them."""

import json

import numpy as np
import pandas as pd

from experiments.packed import PackedRun, options_of, pack, read_runs
from experiments.registry import Experiment, Table, Tune
from report.records import TableRecords

EOA = ({"species": "gwo", "workers": 2, "optimizer": "asam"}, {"species": "woa", "workers": 2, "optimizer": "asam"})
ROUNDS, ROUND_IMAGES = 4, 5 * 8
MACHINE = {"processor": "Example", "cores": 2, "memory_gib": 8.0}
COLUMNS = ["round", "rank", "population", "species", "optimizer", "lr", "fitness", "val_accuracy"]


def one_population(method, optimizer="sgd", workers=4):
    """The only population of a baseline."""
    return ({"species": method, "workers": workers, "optimizer": optimizer},)


def add_run(
    folder,
    name,
    seed=0,
    test=0.9,
    method="eoa",
    populations=EOA,
    diverged_after=None,
    change=lambda rounds: rounds,
    options="",
    side_by_side=False,
    summary=(),
    environment=(),
    **config,
):
    """One run of four ranks: ROUNDS rounds of five steps of eight images. change: of its rounds; options: of the script;
    summary, environment, config: keys to add.
    """
    rounds = ROUNDS if diverged_after is None else diverged_after
    ranks = sum(p["workers"] for p in populations)
    whole = {"method": method, "dataset": "digits", "model": "cnn", "width": 2, "seed": seed, "ranks": ranks, "rounds": ROUNDS}
    whole |= {"population_list": list(populations), "batch_size": 8, "round_steps": 5, **config}
    told = {"command": f"mpirun -np 4 python EOA-SAM/EOASAM.py --seed {seed}", "device": "cpu", **MACHINE, **dict(environment)}
    ended = summary_of(whole, populations, rounds, test, seed, diverged_after) | dict(summary)
    run = PackedRun(name, seed, "EOA-SAM/EOASAM.py", ranks, options_of(options.split()), side_by_side, whole, told, ended)
    directory = folder / "runs" / run.id
    directory.mkdir(parents=True)
    change(rounds_of(populations, rounds, test, method)).to_csv(directory / "metrics.csv", index=False)
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
        **{"validation_accuracy": test - 0.05, "test_accuracy": test, "train_loss": 0.3, "weights_sha256": f"{seed:064x}"},
        "statistics_images": 2000,
        **{"seconds": {"total": sum(seconds.values()), **seconds}, "bytes_sent": {"inside": 3_000_000, "across": 250_000}},
    }


def rounds_of(populations, rounds, test, method):
    """Fitness rises with the rounds and falls with (rank + t) mod 4; of the ecosphere rates differ by rank."""
    workers = [(k, p["species"], p["optimizer"]) for k, p in enumerate(populations) for _ in range(p["workers"])]
    lines = []
    for t in range(rounds):
        for rank, worker in enumerate(workers):
            fitness = round(test - 0.3 / (t + 1) - 0.01 * ((rank + t) % 4), 6)
            lines.append((t, rank, *worker, 0.1 / (t + 1) * (1 + 0.1 * rank * (method == "eoa")), fitness, fitness))
    return pd.DataFrame(lines, columns=COLUMNS)


def add_search(folder, strategy, seed=0, test=0.9, **config):
    """Four trials on two ranks, the last of which failed; 0.5, 0.7 and 0.6 in the order of their ends."""
    whole = {"strategy": strategy, "dataset": "mnist", "trials": 4, "rounds": 1, "train_images": 5000, "space_name": "mnist"}
    summary = {"method": strategy, "dataset": "mnist", "model": "DHPO-CNN-1", "ranks": 2, "workers": 2, "steps": 3}
    summary |= {"validation_accuracy": test + 0.01, "test_accuracy": test, "trial_seconds": 72.0, "commit": "abc1234"}
    summary["trials"] = {"complete": 3, "pruned": 0, "failed": 1}
    summary["seconds"] = {"setup": 1, "search": 40.0 + seed, "winner": 2}
    told = {"command": f"python DHPO.py {seed}", **MACHINE}
    run = PackedRun(f"search-{strategy}", seed, "DHPO/DHPO.py", 2, {}, False, {**whole, **config}, told, summary)
    directory = folder / "runs" / run.id
    directory.mkdir(parents=True)
    trials = {"id": range(4), "state": ["complete"] * 3 + ["failed"], "value": [0.7, 0.5, 0.6, np.nan]}
    pd.DataFrame({**trials, "end": [2.0, 1.0, 3.0, 4.0], "seed": 0}).to_csv(directory / "trials.csv", index=False)
    pack(run, directory, folder)


def table(kind, *experiments, first_steps=()):
    """A registry table named like its kind."""
    return Table(kind, kind, f"A table of kind {kind}", experiments, first_steps)


def experiment(name, label, at=None, rates=(), options="", ranks=4):
    """A registry row; rates: of --learning-rate, to be tuned."""
    tune = Tune("--learning-rate", tuple(rates)) if rates else None
    return Experiment(name, label, "EOA-SAM/EOASAM.py", options, ranks, at, tune)


def records(folder, registered, profile="smoke"):
    """The records of one table."""
    return TableRecords(profile, registered, tuple(read_runs(folder)), folder)


def lines_of(path):
    """The packed runs of a file, as dictionaries."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
