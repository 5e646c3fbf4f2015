"""The progress of a workflow: what runs, what is left, and the time to expect."""

import subprocess
import sys
import time
from pathlib import Path
from statistics import mean

from experiments.jobs import Job, Records

INTERVAL = 0.5  # seconds between two looks at the working folder
SILENCE = 60.0  # seconds after which a line is printed though nothing has changed, where the output is no terminal


def follow(process: subprocess.Popen, work: Path, todo: list[Job], records: Records, parallel: int) -> set[str]:
    """Print a line whenever a run begins or ends, until the process has ended; returns the ids of the jobs that are done."""
    began, state, printed = time.monotonic(), ("",), 0.0
    expected = Expected(todo, records, parallel)
    terminal = sys.stdout.isatty()
    while True:
        ended = process.poll() is not None
        seen = {kind: {path.stem: path for path in work.glob(f"*/*.{kind}")} for kind in ("started", "done", "failed")}
        running = [name for name in seen["started"] if name not in seen["done"] and name not in seen["failed"]]
        now = time.monotonic() - began
        new = (*sorted(running), str(len(seen["done"])), str(len(seen["failed"])))
        if new != state or ended or terminal or now - printed > SILENCE:
            line = status(len(todo), seen, running, now, expected.left(seen))
            end = "\r" if terminal and new == state and not ended else "\n"
            print(f"{line}\033[K" if terminal else line, end=end, flush=True)
            state, printed = new, now
        if ended:
            return set(seen["done"])
        time.sleep(INTERVAL)


def status(total: int, seen: dict[str, dict[str, Path]], running: list[str], now: float, left: float | None) -> str:
    """`[3/32] 1:20, about 2:40 to go; running: eoa-seed0, cosine-seed0`."""
    lost = f", {len(seen['failed'])} failed" if seen["failed"] else ""
    to_go = f", about {clock(left)} to go" if left is not None else ""
    what = f"; running: {', '.join(sorted(running))}" if running else ""
    return f"[{len(seen['done'])}/{total}{lost}] {clock(now)}{to_go}{what}"


def clock(seconds: float) -> str:
    """`1:20` or `2:05:00`."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


class Expected:
    """How long the jobs that are left will take, by earlier records of the same name, else by those that have ended."""

    def __init__(self, todo: list[Job], records: Records, parallel: int) -> None:
        self.todo, self.parallel = todo, parallel
        seconds: dict[str, list[float]] = {}
        for run in records.runs.values():
            seconds.setdefault(run.name, []).append(sum_of_seconds(run.summary["seconds"]))
        self.known = {name: mean(values) for name, values in seconds.items()}

    def left(self, seen: dict[str, dict[str, Path]]) -> float | None:
        """Seconds; None as long as nothing is known of any job."""
        took = {
            name: path.stat().st_mtime - seen["started"][name].stat().st_mtime
            for name, path in seen["done"].items()
            if name in seen["started"]
        }
        guesses = [g for job in self.todo if (g := self.guess(job, took)) is not None]
        if not guesses:
            return None
        usual, now, total = mean(guesses), time.time(), 0.0
        for job in self.todo:
            if job.id in seen["done"] or job.id in seen["failed"]:
                continue
            guess = self.guess(job, took)
            rest = usual if guess is None else guess
            if job.id in seen["started"]:
                rest = max(0.0, rest - (now - seen["started"][job.id].stat().st_mtime))
            total += rest / (self.parallel if job.experiment.ranks == 1 else 1)
        return total

    def guess(self, job: Job, took: dict[str, float]) -> float | None:
        """Seconds of one job."""
        return took.get(job.id, self.known.get(job.name))


def sum_of_seconds(seconds: dict[str, float]) -> float:
    """Wall time of a run; of a search the sum of its parts."""
    return seconds["total"] if "total" in seconds else sum(seconds.values())
