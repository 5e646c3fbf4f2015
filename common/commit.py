"""Commit of this checkout; imports neither torch nor MPI."""

import os
import subprocess
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

UNKNOWN = "unknown"
GIT_PATIENCE = 10.0  # timeout of a git command in seconds; the disk may be slow
GIT_VARIABLES = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")  # set by hooks, possibly for another repository


def commit() -> str:
    """Short hash of the project's commit; `unknown` if git fails.

    If tracked files outside results/ differ from it, `+` and four digits of the difference's SHA-256 follow.

    Cached at the first call: a run uses the code it was started with.
    """
    return commit_and_reason()[0]


@cache
def commit_and_reason() -> tuple[str, str]:
    """The result of `commit`, and why it is `unknown` ("" where it is known)."""
    root = Path(__file__).parents[1]
    inherited = {name: value for name, value in os.environ.items() if name not in GIT_VARIABLES}
    environment = {**inherited, "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"}  # read without locks, messages in English

    def git(*words: str) -> str:
        """Output of a git command on this checkout."""
        command = ["git", "-C", str(root), *words]
        options: dict[str, Any] = {"stdin": subprocess.DEVNULL, "env": environment, "timeout": GIT_PATIENCE}
        done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", check=True, **options)
        return done.stdout.strip()

    try:
        head = git("rev-parse", "--short", "HEAD")
        difference = git("diff", "--no-ext-diff", "HEAD", "--", ".", ":!results")
        return head + (f"+{sha256(difference.encode()).hexdigest()[:4]}" if difference else ""), ""
    except subprocess.CalledProcessError as error:
        lines = error.stderr.strip().splitlines()
        return UNKNOWN, lines[0] if lines else f"git ended with exit code {error.returncode}"
    except subprocess.TimeoutExpired:
        return UNKNOWN, f"git gave no answer in {GIT_PATIENCE:g} s"
    except OSError as error:
        return UNKNOWN, f"git cannot be run: {error.strerror}"
