"""Paths as a user writes them. Standard library only."""

import os
from pathlib import Path

from common.errors import UsageError

DATA = "data"  # folder of the data sets, where neither --data-dir nor EOA_DATA names one


def expand(path: str | Path, name: str) -> str:
    """A path with `~` and `~user` expanded, otherwise as it is written.

    name: of the option or variable it comes from. Raises UsageError where it is empty, which would mean the current folder,
    where it is no UTF-8, or where there is no such user.
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
    """Folder of the data sets: what --data-dir names, `auto` for $EOA_DATA, else `data`. Raises UsageError."""
    if given != "auto":
        return Path(expand(given, "--data-dir"))
    return Path(expand(os.environ.get("EOA_DATA", DATA), "EOA_DATA"))
