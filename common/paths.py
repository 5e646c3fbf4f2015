"""Paths given by the user. Standard library only."""

import os
from pathlib import Path

from common.errors import UsageError

DATA = "data"  # default folder of the data sets


def expand(path: str | Path, name: str) -> str:
    """Expand `~` and `~user` in a path; nothing else is changed.

    name: option or variable the path comes from. Raises UsageError where the path is empty (it would mean the current folder)
    or not UTF-8, or where there is no such user.
    """
    text = os.fspath(path)
    if not text.strip():
        raise UsageError(f"{name} is empty: name a path ('.' is the current folder) or leave it out")
    try:
        text.encode()
    except UnicodeEncodeError:
        shown = text.encode(errors="surrogateescape").decode(errors="replace")
        raise UsageError(f"{name} {shown} is not UTF-8: name another path, or set a UTF-8 locale (LC_ALL=C.UTF-8)") from None
    expanded = os.path.expanduser(text)
    if expanded.startswith("~"):
        user = text.split("/")[0]
        raise UsageError(f"{name} {text}: the home of {user} is not known; write './{text}' for a file of that name")
    return expanded


def data_directory(given: str) -> Path:
    """Folder of the data sets: the value of --data-dir; for `auto` $EOA_DATA, else `data`. Raises UsageError."""
    if given != "auto":
        return Path(expand(given, "--data-dir"))
    return Path(expand(os.environ.get("EOA_DATA", DATA), "EOA_DATA"))
