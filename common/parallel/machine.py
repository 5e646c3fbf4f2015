"""Cores and quotas of this process, OMP_NUM_THREADS, and time since its start.

Standard library only: used before MPI and torch are loaded, and by `scripts/preflight.py` before anything is installed.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from common.errors import UsageError

ROOT = Path("/")
MOST_THREADS = 1024  # of one process: torch aborts where the system does not grant that many


class Quota(NamedTuple):
    """Limit on processor time set by a control group (cgroup).

    cores: processor seconds per second of all processes in the group together. group: device and inode of the group's folder;
    processes with the same pair share the quota. folder: where it is mounted.
    """

    cores: float
    group: tuple[int, int]
    folder: str


def visible_cores() -> list[int]:
    """Numbers of the cores this process may run on (a launcher or a cpuset may have bound it)."""
    return sorted(os.sched_getaffinity(0))


def available_cores(root: Path = ROOT) -> int:
    """Whole cores of this process: those it may run on, or its lowest cgroup quota, rounded down; at least 1.

    Rounded down because more threads than the quota are throttled together until the next period, and spinning uses it up.
    """
    return max(1, int(min([len(visible_cores()), *(quota.cores for quota in quotas(root))])))


def quotas(root: Path = ROOT) -> list[Quota]:
    """Processor-time quotas of this process's cgroup and of all its ancestors; empty where there are none.

    cgroup v1 (`cpu.cfs_quota_us` over `cpu.cfs_period_us`), v2 (`cpu.max`), or both. root: of the file system. A missing,
    unreadable or non-numeric file counts as no quota.
    """
    groups = _own_groups(root)
    found: dict[tuple[int, int], Quota] = {}
    for kind, mounted, point in _mounts(root):
        folders = _upwards(groups[kind], mounted, root / point.lstrip("/")) if kind in groups else []
        for folder in folders:
            if cores := _limit(folder, kind):
                status = folder.stat()
                group = status.st_dev, status.st_ino
                found[group] = Quota(cores, group, str(folder))
    return list(found.values())


def share_of_cores(visible: Sequence[list[int]], limits: Sequence[list[Quota]], me: int) -> int:
    """Threads of one process, such that all processes of the machine exceed neither its cores nor a quota; at least 1.

    visible, limits: `visible_cores` and `quotas` of every process. me: index of the process. A quota is divided evenly among
    the processes under it.
    """
    cores = len({core for cores in visible for core in cores})
    shares: list[float] = [len(visible[me]), cores // len(visible)]
    for quota in limits[me]:
        shares.append(quota.cores / sum(quota.group in {q.group for q in others} for others in limits))
    return max(1, int(min(shares)))


def threads_wanted(text: str | None) -> int | None:
    """Threads by OMP_NUM_THREADS, as OpenMP defines it; None where it is unset or blank.

    Of a list (for nested parallel regions) the first number counts; blanks around numbers are allowed. Raises UsageError for
    anything but whole numbers from 1 to `MOST_THREADS`.
    """
    if text is None or not text.strip():
        return None
    parts = [part.strip() for part in text.split(",")]
    if not all(re.fullmatch(r"\+?[0-9]+", part) and 0 < int(part) <= MOST_THREADS for part in parts):
        raise UsageError(
            f"OMP_NUM_THREADS='{text}' is not a number of threads: set it to a whole number of at least 1, or to a list of "
            "them (the first counts), or unset it"
        )
    return int(parts[0])


def seconds_since_start() -> float:
    """Seconds since this process began, by a monotonic clock; since the import of this module where there is no /proc."""
    return time.monotonic() - _BEGAN


def process_age(root: Path = ROOT) -> float:
    """Age of this process in seconds, from /proc/self/stat and CLOCK_BOOTTIME (both count from boot); 0 where unreadable."""
    try:
        text = (root / "proc/self/stat").read_text(encoding="utf-8", errors="replace")
        started = int(text.rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")  # field 22; the name may hold blanks
        return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - started)
    except (OSError, ValueError, IndexError, AttributeError):
        return 0.0


_BEGAN = time.monotonic() - process_age()


def _own_groups(root: Path) -> dict[str, str]:
    """Path of this process's group in the cpu hierarchies: `cgroup` (version 1) and `cgroup2`."""
    groups = {}
    for line in lines_of(root / "proc/self/cgroup"):
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if "cpu" in controllers.split(","):
            groups["cgroup"] = path
        elif number == "0" and not controllers:
            groups["cgroup2"] = path
    return groups


def _mounts(root: Path) -> Iterable[tuple[str, str, str]]:
    """Mounted cpu hierarchies: kind, group at the mount point, mount point."""
    for line in lines_of(root / "proc/self/mountinfo"):
        fields, separator, tail = line.partition(" - ")
        words, kinds = fields.split(), tail.split()
        if not separator or len(words) < 5 or not kinds or kinds[0] not in ("cgroup", "cgroup2"):
            continue
        if kinds[0] == "cgroup" and "cpu" not in kinds[-1].split(","):
            continue
        yield kinds[0], _unescaped(words[3]), _unescaped(words[4])


def _upwards(path: str, mounted: str, point: Path) -> list[Path]:
    """Folders of a group and of its ancestors, up to the mount point, which is always among them.

    In a container the path may be that of the host: missing folders set no limit.
    """
    group, top = PurePosixPath(path), PurePosixPath(mounted)
    inside = group.relative_to(top) if group.is_relative_to(top) and ".." not in group.parts else PurePosixPath()
    return [point / part for part in dict.fromkeys((inside, *inside.parents))]


def _limit(folder: Path, kind: str) -> float | None:
    """Processor seconds per second that a group's folder grants; None without a limit (a quota of `max`, or of -1)."""
    files = ("cpu.max",) if kind == "cgroup2" else ("cpu.cfs_quota_us", "cpu.cfs_period_us")
    words = [word for name in files for line in lines_of(folder / name) for word in line.split()]
    if len(words) != 2 or not all(re.fullmatch("[0-9]+", word) for word in words):
        return None
    quota, period = map(int, words)
    return quota / period if quota and period else None


def lines_of(path: Path) -> list[str]:
    """Lines of a text file; empty where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def _unescaped(word: str) -> str:
    r"""Path from mountinfo, with octal escapes (blank: `\040`) decoded."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), word)
