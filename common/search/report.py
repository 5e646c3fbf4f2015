"""Output of a search besides its journal: trials.csv, best.json, and the command that trains the best setting.

    config.json  environment.json  journal.jsonl  trials.csv  best.json  summary.json  weights.safetensors  figures/*.png

Columns and keys: results/README.md.
"""

import csv
import json
import os
import shlex
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from common.data.options import is_text
from common.errors import UsageError
from common.models import without
from common.optim.options import without_effect
from common.options import flag
from common.search.journal import differences
from common.search.search import Search
from common.search.simulation import utilisation
from common.search.space import Space
from common.search.trial import ENDED, Trial
from common.training.eoa import EoaArgs
from common.training.options import SIZES, TEXT_SIZES, CommonArgs

COLUMNS = ("id", "state", "value", "steps", "worker", "start", "end", "cost", "seed", "attempts", "parents", "error")
ALWAYS = ("rounds", "batch_size", "optimizer", "fitness_images", "label_smoothing", "precision", "seed")  # differ by script
MAY_CHANGE = {"resume", "out", "data_dir", "trials", "time_budget", "target", "retries", "space_name"}  # between two sessions
NEVER = ("preset", "out", "resume")


def write_trials(path: Path, space: Space, trials: Iterable[Trial], seed_of: Callable[[int], int]) -> None:
    """One line per trial, by id; a variable that does not exist in a trial is left empty. seed_of: a trial's, by its id."""
    temporary = path.with_suffix(".tmp")
    with open(temporary, "w", newline="", encoding="utf-8", errors="backslashreplace") as file:  # errors may quote any path
        writer = csv.writer(file)
        writer.writerow([*COLUMNS, *space.names])
        writer.writerows(_line(trial, seed_of(trial.id), space.names) for trial in trials)
    os.replace(temporary, path)


def _line(trial: Trial, seed: int, names: list[str]) -> list[Any]:
    times = [None if moment is None else round(moment, 4) for moment in (trial.start, trial.end, trial.cost)]
    about = [trial.id, str(trial.state), trial.value, len(trial.curve), trial.worker, *times, seed, trial.attempts]
    return [*about, " ".join(map(str, trial.parents)), trial.error, *(trial.setting.get(name) for name in names)]


def totals(search: Search) -> dict[str, Any]:
    """Entries of summary.json on the whole search."""
    ended = [t for t in search.trials if t.has_ended]
    return {
        "trials": {str(state): search.count(state) for state in ENDED},
        "steps": sum(len(t.curve) for t in ended),
        "attempts_repeated": sum(t.attempts for t in search.trials),
        "trial_seconds": sum(t.cost for t in ended),
        "utilisation": utilisation(search),
        "workers": search.workers,
        "sessions": len(search.sessions),
        "exhausted": search.exhausted,
    }


def check_same_search(directory: Path, config: Mapping[str, Any]) -> None:
    """Check before resuming that the recorded search is this one, or a shorter one. Raises UsageError naming what differs."""
    path = directory / "config.json"
    if not path.exists():
        return
    recorded, given = json.loads(path.read_text(encoding="utf-8")), json.loads(json.dumps(config))
    was, now = ({name: value for name, value in c.items() if name not in MAY_CHANGE} for c in (recorded, given))
    if different := differences(was, now):
        raise UsageError(f"cannot resume {directory} with another search: {'; '.join(different)}")
    if given["trials"] < recorded["trials"]:
        raise UsageError(f"--trials {given['trials']}: the search in {directory} is of {recorded['trials']}, and may only grow")


def command_of(args: CommonArgs, searched: Collection[str], schedule: str, ranks: int, threads: int) -> str:
    """Command line that trains with these options, by the script they belong to.

    searched: options to include even at their default.
    """
    text = TEXT_SIZES[args.preset] if is_text(args.dataset) else {}
    preset: Mapping[str, Any] = {f.name: f.default for f in fields(EoaArgs)} | SIZES[args.preset] | text
    words = ["--preset", args.preset]
    if isinstance(args, EoaArgs):
        script = "EOA-SAM/EOASAM.py"
    else:
        script = "baselines/Baselines.py"
        words += ["--method", schedule]
    never = {*NEVER, *(() if isinstance(args, EoaArgs) else without_effect(args.optimizer))}  # which Baselines.py refuses
    never.update(without(args.model))
    for name, value in vars(args).items():
        if name not in never and (value != preset[name] or name in ALWAYS or name in searched):
            words += _option(name, value)
    start = f"mpirun --oversubscribe --bind-to none -np {ranks} " if ranks > 1 else ""
    return f"OMP_NUM_THREADS={threads} {start}python {script} {shlex.join(words)}"


def _option(name: str, value: Any) -> list[str]:
    """Command-line words of one option: flags without a value, floats in full precision."""
    return [flag(name if value else f"no_{name}")] if isinstance(value, bool) else [flag(name), str(value)]
