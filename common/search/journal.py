"""Recovery after a kill: every event of a search as a line of `journal.jsonl`, flushed before the event takes effect.

Lines are never rewritten, and a resumed search replays all of them (0.1 ms per trial). A last line truncated by a kill is
removed; its event has not taken effect.
"""

import fcntl
import json
from pathlib import Path
from typing import IO, Any

from common.errors import UsageError
from common.search.search import Event, Search

JOURNAL = "journal.jsonl"


class Journal:
    """The journal of one search, in a directory of its own; `Search.log` is its `record`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.file: IO[str] | None = None

    def recover(self, search: Search) -> None:
        """Replay the journal into a fresh search, and open it for appending.

        Raises UsageError if it is damaged or of another search, or another job is writing it.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        path = self.directory / JOURNAL
        self.file = _locked(path)
        lines = _whole_lines(path)
        if lines:
            _check_same(search, lines[0], path)
        for number, line in enumerate(lines, start=1):
            try:
                search.apply(json.loads(line))
            except (ValueError, KeyError, IndexError, TypeError) as error:
                raise UsageError(f"line {number} of {path} is damaged ({error}): start anew with another --out") from None

    def record(self, event: Event) -> None:
        """Append one event."""
        assert self.file is not None, "recover comes first"
        self.file.write(json.dumps(event) + "\n")
        self.file.flush()  # to the operating system: survives a kill, not a power failure

    def close(self) -> None:
        """Close the file."""
        if self.file is not None:
            self.file.close()


def differences(recorded: Any, given: Any, name: str = "") -> list[str]:
    """Differences of two JSON values, by key path: `space.rate.high was 1.0, and 0.5 is given`."""
    if recorded == given:
        return []
    if isinstance(recorded, dict) and isinstance(given, dict):
        inside = f"{name}." if name else ""
        parts = [differences(recorded.get(key), given.get(key), f"{inside}{key}") for key in {**recorded, **given}]
        return [line for part in parts for line in part]
    return [f"{name} was {recorded}, and {given} is given"]


def _check_same(search: Search, first: str, path: Path) -> None:
    """Check that the journal's first line is of this search. Raises UsageError naming what differs."""
    try:
        recorded = dict(json.loads(first)["search"])
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"line 1 of {path} is damaged ({error!r}): start anew with another --out") from None
    if different := differences(recorded, search.identity):
        raise UsageError(f"{path} is of another search, {'; '.join(different)}: go on with its own, or in another folder")


def _locked(path: Path) -> IO[str]:
    """Open the file for appending, locked for this job; the system releases the lock when the process ends."""
    file = open(path, "a", encoding="utf-8")  # noqa: SIM115  (open until the search ends)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise UsageError(f"another job is writing {path}: end it first, or choose another --out") from None
    except OSError:
        pass  # a file system without locks
    return file


def _whole_lines(path: Path) -> list[str]:
    """The complete lines of a journal; an incomplete last line is removed from the file."""
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        with open(path, "r+b") as file:
            file.truncate(len(whole))
    return whole.decode().splitlines()
