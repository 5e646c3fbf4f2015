"""Packed records: what is kept of the runs of one table, in results/PROFILE/TABLE/.

    runs.jsonl        one line per run: name, seed, script, ranks, options, side_by_side, config, environment, summary
    metrics.csv.gz    the rounds: a line per worker for the lowest seed of a name, a line per population (means) for the others
    trials.csv.gz     the trials of hyper-parameter searches

All three are sorted by name and seed, so the same runs give the same bytes, in whatever order they ended.
"""

import fcntl
import gzip
import io
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from common.errors import UsageError

PATHS = ("out", "data_dir", "resume", "replay")  # of a configuration: where a run was made, not what it is
AT_START = ("--preset", "--seed", "--out", "--resume")  # options that every run is given
RUNS, METRICS, TRIALS = "runs.jsonl", "metrics.csv.gz", "trials.csv.gz"


@dataclass(frozen=True)
class PackedRun:
    """One finished run.

    name, seed: which experiment, and value of a tuned option; unique in a table.
    script, ranks, options: what was run; options that were given, by name, without AT_START; `--replay` holds the name of
    the experiment whose rates were replayed.
    side_by_side: whether other runs shared the machine, so that its seconds are no measurement.
    config, environment, summary: the run's files (results/README.md), paths left out.
    """

    name: str
    seed: int
    script: str
    ranks: int
    options: dict[str, str]
    side_by_side: bool
    config: dict[str, Any]
    environment: dict[str, Any]
    summary: dict[str, Any]

    @property
    def id(self) -> str:
        """Unique in a profile; the name of the run's folder, and `run` of its rounds."""
        return f"{self.name}-seed{self.seed}"


def options_of(words: list[str]) -> dict[str, str]:
    """The options of a command line by name, without AT_START; a flag has the value ""."""
    options: dict[str, str] = {}
    name = ""
    for word in words:
        if word.startswith("--"):
            name, _, value = word.partition("=")
            options[name] = value
        else:
            options[name] = f"{options[name]} {word}".strip()
    return {name: value for name, value in options.items() if name not in AT_START}


def read_runs(folder: Path) -> list[PackedRun]:
    """The packed runs of a table's folder; [] where there are none. Raises UsageError for a damaged line."""
    path = folder / RUNS
    if not path.exists():
        return []
    with open(path, encoding="utf-8") as file:
        return [_run_of(line, path, number) for number, line in enumerate(file, start=1) if line.strip()]


def _run_of(line: str, path: Path, number: int) -> PackedRun:
    try:
        return PackedRun(**json.loads(line))
    except (ValueError, TypeError) as error:
        raise UsageError(f"{path}, line {number} is damaged ({error}): delete the line to make the run again") from None


def read_rounds(folder: Path, name: str = METRICS) -> pd.DataFrame:
    """Rounds (or trials) of the packed runs; columns `run` (PackedRun.id) and those of results/README.md."""
    path = folder / name
    return pd.read_csv(path, keep_default_na=False, na_values=["", "nan"]) if path.exists() else pd.DataFrame()


def pack(run: PackedRun, directory: Path, folder: Path) -> None:
    """Put one finished run into its table's records, in place of one of the same name and seed.

    directory: the run's own, for its metrics.csv or trials.csv. Files are replaced whole; one process at a time.
    """
    pack_all([(run, directory)], folder)


def pack_all(new: list[tuple[PackedRun, Path]], folder: Path) -> None:
    """Put several runs of one table into its records."""
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        runs = {(run.name, run.seed): run for run in read_runs(folder)}
        runs |= {(run.name, run.seed): run for run, _ in new}
        keys = sorted(runs)
        lowest_seeds = {name: runs[name, seed].id for name, seed in reversed(keys)}
        for file, packed in (("metrics.csv", METRICS), ("trials.csv", TRIALS)):
            frames = [_read(directory / file, run) for run, directory in new if (directory / file).exists()]
            if frames:
                _merge(folder / packed, frames, lowest_seeds)
        lines = (json.dumps(asdict(runs[key])) + "\n" for key in keys)
        _replace(folder / RUNS, "".join(lines).encode())


def restore(run: PackedRun, folder: Path, target: Path) -> None:
    """Write a packed run's configuration, summary and rounds as a run's own folder has them, for `--replay`."""
    target.mkdir(parents=True, exist_ok=True)
    for name, content in (("config", run.config), ("summary", run.summary)):
        (target / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    rounds = read_rounds(folder)
    rounds = rounds[rounds.run == run.id]
    if "workers" in rounds:  # a line per population stands for all its workers
        rounds = rounds.loc[rounds.index.repeat(rounds.workers.fillna(1).astype(int))]
    rounds.to_csv(target / "metrics.csv", index=False)


def _read(path: Path, run: PackedRun) -> pd.DataFrame:
    frame = pd.read_csv(path, keep_default_na=False, na_values=["", "nan"])
    frame.insert(0, "run", run.id)
    return frame


def _merge(path: Path, frames: list[pd.DataFrame], lowest_seeds: dict[str, str]) -> None:
    """Put rounds in place of those of the same run; of all but the lowest seed of a name one line a population is kept."""
    old = read_rounds(path.parent, path.name)
    if len(old):
        frames = [old[~old.run.isin({frame.run.iloc[0] for frame in frames if len(frame)})], *frames]
    table = pd.concat(frames, ignore_index=True)
    if "population" in table:
        whole = table.run.isin(lowest_seeds.values())
        table = pd.concat([table[whole], _populations(table[~whole])], ignore_index=True)
    order = [c for c in ("run", "round", "population", "rank", "id") if c in table]
    table = table[[*order, *sorted(set(table) - set(order))]]  # whatever columns the first run had
    text = io.StringIO()
    table.sort_values(order, kind="stable").to_csv(text, index=False, float_format="%.9g", lineterminator="\n")
    _replace(path, gzip.compress(text.getvalue().encode(), mtime=0))


def _populations(table: pd.DataFrame) -> pd.DataFrame:
    """One line per population and round: `workers` of them, means over those with a number; lines that are so already stay."""
    if "workers" not in table:
        table = table.assign(workers=float("nan"))
    done, table = table[table.workers.notna()], table[table.workers.isna()]
    if not len(table):
        return done
    keys = ["run", "round", "population"]
    numbers = [c for c in table.select_dtypes("number") if c not in (*keys, "rank", "workers")]
    words = [c for c in table if c not in (*keys, *numbers, "rank", "workers")]
    parts = table.groupby(keys, sort=False)
    means = parts.agg({**dict.fromkeys(numbers, "mean"), **dict.fromkeys(words, "first")})
    return pd.concat([done, means.assign(workers=parts.size()).reset_index()], ignore_index=True)


def _replace(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    with open(temporary, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One process at a time changes a table's records."""
    with open(folder / ".lock", "w", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
