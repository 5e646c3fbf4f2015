#!/usr/bin/env python
"""Run a fixed list of small runs at a base commit and in this checkout, and compare what they computed, to the bit.

    python scripts/compare_commits.py BASE                    # all runs: 10 minutes on two quiet cores
    python scripts/compare_commits.py BASE --only 'eoa-*'     # by name
    python scripts/compare_commits.py BASE --list

For changes that must not change results. Both sides run on this machine, with one thread per rank. All records are compared
(weights_sha256, metrics, rates, trials, summary, best) except times, memory and the commit; of asynchronous methods, which are
not reproducible, only the counts. The base's records are kept under --work and made once per commit. Exit code 1 if anything
differs. Both sides get the same options: a base before an option was renamed cannot run it.
"""

import argparse
import csv
import fnmatch
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
TINY = "--preset smoke --rounds 3 --round-steps 4 --batch-size 48"
LOCAL = "--preset smoke --rounds 3 --round-steps 6 --worker-batch 16"
SWARM = "--preset smoke --rounds 2 --round-steps 6 --worker-batch 16 --period 3"
SEARCH = "--preset smoke --trials 6"
TOPICS = "--preset smoke --dataset topics --rounds 2 --round-steps 4"
MIXED, THREE = "--populations gwo:2:sam,woa:2:sgd", "--populations gwo,woa,gwo"
EOA, EOA100, VIT = (f"EOA-{name} {TINY}" for name in ("SAM/EOASAM.py", "SAM/EOASAM-cifar100.py", "ViT/EOAViT.py"))
BASELINE, LOCALLY = f"baselines/Baselines.py {TINY}", f"baselines/Baselines.py {LOCAL}"
EASGD, SALSA = f"EASGD/EASGD.py {LOCAL}", f"SaLSA/SaLSA.py {TINY}"

# name: ranks, script and options. RUN: folder of the runs of the same side, for runs that read the record of another.
RUNS: dict[str, tuple[int, str]] = {
    "eoa-1": (1, EOA),
    "eoa-2": (2, f"{EOA} --seed 3"),
    "eoa-8": (8, EOA),
    "eoa-cifar100-4": (4, EOA100),
    "eoa-vit-2": (2, f"{VIT} --accumulate 2"),
    "eoa-reference-3": (3, f"{EOA} --reference"),
    "eoa-cifar100-reference-2": (2, f"{EOA100} --reference --model wrn --depth 10 --width 1"),
    "eoa-vit-reference-2": (2, f"{VIT} --reference"),
    "eoa-best": (4, f"{EOA} {MIXED} --exchange best --damping none --base-rate best --momentum reset"),
    "eoa-migrate": (3, f"{EOA} {THREE} --exchange migrate --damping relative --base-rate anneal --optimizer sam"),
    "eoa-ring": (3, f"{EOA} --populations gwo:2,woa:1 --exchange ring --ring-weight 0.3 --damping annealed --scope world"),
    "eoa-species": (8, f"{EOA} --populations gwo:2:sam,woa:2:adamw,pso:2:sgd,de:2:sam --lr-space log --exchange kin"),
    "eoa-controls": (4, f"{EOA} --populations cmaes:2:muon,hold:1:sgd,random:1:asam+adamw --clip-norm 1 --accumulate 3"),
    "eoa-exploit": (4, f"{EOA} --populations gwo,woa,hold,random --exchange exploit"),
    "eoa-none": (2, f"{EOA} --populations gwo,woa --exchange none --optimizer sgd"),
    "eoa-inside-easgd": (4, f"{EOA} --populations gwo:3,woa:1 --intra-coupling easgd --period 2 --optimizer nesterov"),
    "eoa-inside-average": (4, f"{EOA} --intra-coupling average --period 3"),
    "eoa-wrn-bf16": (2, f"{EOA} --model wrn --depth 10 --width 1 --precision bfloat16 --dropout 0.1 --damping scaled"),
    "eoa-schedulefree": (3, f"{EOA} --populations gwo:2,woa:1 --optimizer schedulefree-sgd"),
    "eoa-salsa": (3, f"{EOA} --populations gwo:1:sgd,hold:2:salsa"),
    "foraging-4": (4, f"{EOA} --base-rate forage --optimizer sgd"),
    "foraging-mixed": (2, f"{EOA} --populations gwo:1:sgd,woa:1:adamw --base-rate forage"),
    "cosine": (1, BASELINE),
    "constant-schedulefree": (1, f"{BASELINE} --optimizer schedulefree-adamw"),
    "constant-prodigy": (1, f"{BASELINE} --method constant --optimizer prodigy"),
    "step-muon": (1, f"{BASELINE} --method step --optimizer muon"),
    "onecycle-topics": (1, f"baselines/Baselines.py {TOPICS} --method onecycle"),
    "linear": (2, f"{BASELINE} --method linear"),
    "sync": (3, f"{LOCALLY} --method sync --period 2"),
    "average": (3, f"{LOCALLY} --method average --period 2 --schedule cosine"),
    "post-local": (2, f"{LOCALLY} --method post-local --period 3"),
    "diloco": (3, f"{LOCALLY} --method diloco --period 3"),
    "independent": (2, f"{LOCALLY} --method independent --optimizer schedulefree-sgd"),
    "pbt": (4, f"{LOCALLY} --method pbt"),
    "find-lr": (1, "baselines/Baselines.py --preset smoke --find-lr --max-steps 30"),
    "replay": (1, f"{BASELINE} --replay RUN/eoa-2"),
    "easgd": (3, f"{EASGD} --method easgd --period 2"),
    "easgd-gs": (2, f"{EASGD} --method easgd-gs --period 2"),
    "msgd": (1, f"{EASGD} --method msgd"),
    "aeasgd": (3, f"{EASGD} --method aeasgd --period 2"),
    "mvadownpour": (3, f"{EASGD} --method mvadownpour --period 2"),
    "pso-hull": (3, f"PSO-PS/PSOPS.py {SWARM}"),
    "pso-oz": (2, f"PSO-PS/PSOPS.py {SWARM} --swarm oz --memory reeval --consensus --exchange allgather"),
    "pso-delayed": (3, f"PSO-PS/PSOPS.py {SWARM} --exchange delayed --fitness phase-mean --momentum-factor 0.9"),
    "salsa-adam": (2, SALSA),
    "salsa-sgd": (1, f"{SALSA} --direction sgd --interval 2"),
    "salsa-released": (1, f"{SALSA} --variant released"),
    "sls-topics": (1, f"SaLSA/SaLSA.py {TOPICS} --plain"),
    "search-grid": (2, f"DHPO/DHPO.py {SEARCH} --strategy grid"),
    "search-evolution": (2, f"DHPO/DHPO.py {SEARCH} --strategy evolution"),
    "search-async-evolution": (2, f"DHPO/DHPO.py {SEARCH} --strategy async-evolution"),
    "search-tpe": (2, f"DHPO/DHPO.py {SEARCH} --strategy tpe"),
}
RESUMED = ("eoa-2", "diloco", "pso-hull", "salsa-adam")  # also run with an error in the last round, and resumed
ASYNCHRONOUS = ("aeasgd", "mvadownpour")

CLOCK = ("seconds", "images_per_second", "peak_memory", "start", "end", "cost", "utilisation", "worker", "attempts", "command")
FILES = ("summary.json", "best.json", "metrics.csv", "trials.csv", "find-lr.csv")
COUNTS = ("ranks", "rounds", "train_images", "gradient_evaluations", "parameters", "batch_size", "round", "rank", "lr")


def main() -> int:
    """Run both sides, print a table, return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", help="commit to compare with")
    parser.add_argument("--only", nargs="*", default=["*"], metavar="NAME", help="names of runs, or globs")
    parser.add_argument("--list", action="store_true", help="only list the runs")
    parser.add_argument("--work", default="runs/compare", metavar="DIR", help="folder of worktree and records")
    args = parser.parse_args()
    names = [*RUNS, *(f"{name}-resumed" for name in RESUMED)]
    names = [name for name in names if any(fnmatch.fnmatch(name, pattern) for pattern in args.only)]
    if args.list:
        print("\n".join(names))
        return 0
    commit = git("rev-parse", "--short", args.base)
    work = (ROOT / args.work).resolve()
    base, tree = work / commit, work / f"{commit}-tree"
    if not tree.exists():
        git("worktree", "add", "--detach", str(tree), commit)
    present = work / "present"
    shutil.rmtree(present, ignore_errors=True)
    bad = 0
    print(f"| run | ranks | against {commit} |\n| --- | ---: | --- |")
    for name in names:
        for folder, checkout in ((base, tree), (present, ROOT)):
            if not (folder / name / "done").exists():
                make(name, folder, checkout)
        differences = compare(base / name, present / name, name in ASYNCHRONOUS)
        bad += bool(differences)
        equal = "same counts" if name in ASYNCHRONOUS else "equal"
        print(f"| {name} | {RUNS[name.removesuffix('-resumed')][0]} | {'; '.join(differences) or equal} |", flush=True)
    print(f"\n{len(names) - bad} of {len(names)} runs agree.")
    return int(bad > 0)


def git(*words: str) -> str:
    """Output of a git command in this checkout."""
    return subprocess.run(["git", "-C", str(ROOT), *words], check=True, capture_output=True, encoding="utf-8").stdout.strip()


def make(name: str, folder: Path, checkout: Path) -> None:
    """One run of one side; a resumed one is interrupted in its last round first."""
    shutil.rmtree(folder / name, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    kind = name.removesuffix("-resumed")
    ranks, text = RUNS[kind]
    words = text.replace("RUN/", f"{folder}/").split()
    if name != kind:
        last = int(words[words.index("--rounds") + 1]) - 1
        start(name, ranks, [*words, "--out", str(folder / name)], folder, checkout, ECOSPHERE_FAULT=f"raise:0:record:{last}")
        words.append("--resume")
    code = start(name, ranks, [*words, "--out", str(folder / name)], folder, checkout)
    if code:
        sys.exit(f"{name} ended with exit code {code} in {checkout}: see {folder / name}.log")
    (folder / name / "done").touch()


def start(name: str, ranks: int, words: list[str], folder: Path, checkout: Path, **more: str) -> int:
    """Start one job and wait for it; its output goes to a log. Returns the exit code."""
    launch = ["mpirun", "--oversubscribe", "--bind-to", "none", "-np", str(ranks)] if ranks > 1 else []
    environment = {**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1", **more}
    with open(folder / f"{name}.log", "w", encoding="utf-8") as log:
        command = [*launch, sys.executable, *words]
        return subprocess.run(command, cwd=checkout, env=environment, stdout=log, stderr=log, check=False).returncode


def compare(base: Path, present: Path, counts_only: bool) -> list[str]:
    """Differences between two records, as text."""
    differences = []
    for file in FILES:
        before, after = read(base / file), read(present / file)
        if before is None:
            continue
        if after is None:
            differences.append(f"no {file}")
            continue
        for key in sorted(before):
            if any(word in key for word in CLOCK) or key.endswith("commit"):
                continue
            if counts_only and key.split(".")[-1] not in COUNTS:
                continue
            if key not in after:
                differences.append(f"{file} has no {key}")
            elif before[key] != after[key]:
                differences.append(f"{file}: {key} {shown(before[key])} -> {shown(after[key])}")
    return differences


def read(path: Path) -> dict[str, Any] | None:
    """A file as one flat table: `a.b` for nested keys, a column of a CSV as the list of its values; None if it is missing."""
    if not path.exists():
        return None
    if path.suffix == ".csv":
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        return {key: [row[key] for row in rows] for key in (rows[0] if rows else ())}
    return flat(json.loads(path.read_text(encoding="utf-8")))


def flat(value: Any, name: str = "") -> dict[str, Any]:
    """Nested objects as one, their keys joined by dots."""
    if isinstance(value, dict):
        return {key: part for k, v in value.items() for key, part in flat(v, f"{name}.{k}" if name else k).items()}
    return {name: value}


def shown(value: object) -> str:
    """A value, cut to what fits a table."""
    text = str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


if __name__ == "__main__":
    sys.exit(main())
