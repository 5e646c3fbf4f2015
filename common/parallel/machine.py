"""What this machine grants to a process: cores, the threads that OMP_NUM_THREADS names, time since the start.

Standard library only: read before MPI and torch are loaded, and by `scripts/preflight.py` where nothing is installed yet.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

ROOT = Path("/")
MOST_THREADS = 1024  # of one process: torch ends the process where the system does not grant so many


class Quota(NamedTuple):
    """A limit on processor time that a control group (cgroup) sets.

    cores: processor seconds per second that all processes in the group have together. group: device and inode of the group's
    folder, by which processes tell that they share a quota. folder: where it is mounted.
    """

    cores: float
    group: tuple[int, int]
    folder: str


def visible_cores() -> list[int]:
    """Numbers of the cores this process may run on (a launcher or a cpuset may have bound it to some of them)."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def available_cores(root: Path = ROOT) -> int:
    """Whole cores granted to this process: those it may run on, or fewer where a cgroup quota is lower; at least 1.

    A quota is rounded down. Threads beyond it are stopped together until the next period, and take what they spin away.
    """
    return max(1, int(min([len(visible_cores()), *(quota.cores for quota in quotas(root))])))


def quotas(root: Path = ROOT) -> list[Quota]:
    """Quotas on this process's processor time, of its cgroup and of all groups around it; empty where there are none.

    Version 1 (`cpu.cfs_quota_us` over `cpu.cfs_period_us`), version 2 (`cpu.max`), and both beside each other. root: of the
    file system. What is missing, unreadable or no number counts as no quota.
    """
    groups, mounts = _own_groups(root), _mounts(root)
    found: dict[tuple[int, int], Quota] = {}
    for kind, mounted, point in mounts:
        path = groups.get(kind)
        if path is None:
            continue
        for folder in _upwards(path, mounted, root / point.lstrip("/")):
            cores = _limit_v2(folder) if kind == "cgroup2" else _limit_v1(folder)
            if cores is not None:
                status = folder.stat()
                found[status.st_dev, status.st_ino] = Quota(cores, (status.st_dev, status.st_ino), str(folder))
    return list(found.values())


def share_of_cores(visible: Sequence[list[int]], limits: Sequence[list[Quota]], me: int) -> int:
    """Threads for one of the processes of a machine, so that all together neither exceed its cores nor a quota; at least 1.

    visible, limits: of every process, what `visible_cores` and `quotas` gave there. me: index of the process. A quota is
    shared out among the processes that it holds for.
    """
    cores = len({core for cores in visible for core in cores})
    shares: list[float] = [len(visible[me]), cores // len(visible)]
    for quota in limits[me]:
        shares.append(quota.cores / sum(quota.group in {q.group for q in others} for others in limits))
    return max(1, int(min(shares)))


def threads_wanted(text: str | None) -> int | None:
    """Threads that OMP_NUM_THREADS asks for, as OpenMP defines it; None where it is unset or blank.

    A list is for nested parallel regions and the first number counts; blanks around numbers are allowed. Raises ValueError
    where it is no list of whole numbers from 1 to `MOST_THREADS`.
    """
    if text is None or not text.strip():
        return None
    parts = [part.strip() for part in text.split(",")]
    if not all(re.fullmatch(r"\+?[0-9]+", part) and 0 < int(part) <= MOST_THREADS for part in parts):
        raise ValueError(text)
    return int(parts[0])


def seconds_since_start() -> float:
    """Seconds since this process began, by a clock that nobody sets; counted from the import of this module elsewhere than
    on Linux.
    """
    return time.monotonic() - _BEGAN


def process_age(root: Path = ROOT) -> float:
    """Seconds this process has existed by the kernel's account, 0 where that cannot be read.

    Both the start of a process in /proc/self/stat and CLOCK_BOOTTIME count from the start of the machine.
    """
    try:
        text = (root / "proc/self/stat").read_text(encoding="utf-8", errors="replace")
        started = int(text.rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")  # field 22; the name may hold blanks
        return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - started)
    except (OSError, ValueError, IndexError, AttributeError):
        return 0.0


_BEGAN = time.monotonic() - process_age()


def _own_groups(root: Path) -> dict[str, str]:
    """Path of this process's group in the hierarchies that limit processor time: `cgroup` (version 1) and `cgroup2`."""
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
    """Mounted hierarchies that limit processor time: kind, the group at the mount point, mount point."""
    for line in lines_of(root / "proc/self/mountinfo"):
        fields, separator, tail = line.partition(" - ")
        words, kinds = fields.split(), tail.split()
        if not separator or len(words) < 5 or not kinds or kinds[0] not in ("cgroup", "cgroup2"):
            continue
        if kinds[0] == "cgroup" and "cpu" not in kinds[-1].split(","):
            continue
        yield kinds[0], _unescaped(words[3]), _unescaped(words[4])


def _upwards(path: str, mounted: str, point: Path) -> Iterable[Path]:
    """Folders of a group and of those around it, as far as they are mounted.

    In a container the path may be seen from the host or from inside: folders that are not there set no limit, and what is
    mounted is always looked at.
    """
    group, top = PurePosixPath(path), PurePosixPath(mounted)
    inside = group.relative_to(top) if group.is_relative_to(top) and ".." not in group.parts else PurePosixPath()
    yield from (point / part for part in dict.fromkeys((inside, *inside.parents)))


def _limit_v1(folder: Path) -> float | None:
    quota, period = (_number(folder / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
    return quota / period if quota and period and quota > 0 and period > 0 else None


def _limit_v2(folder: Path) -> float | None:
    words = [word for line in lines_of(folder / "cpu.max") for word in line.split()]
    if len(words) != 2 or not all(re.fullmatch("[0-9]+", word) for word in words):
        return None  # `max 100000`: no limit
    quota, period = map(int, words)
    return quota / period if quota and period else None


def _number(path: Path) -> int | None:
    text = "".join(lines_of(path)).strip()
    return int(text) if re.fullmatch("-?[0-9]+", text) else None


def lines_of(path: Path) -> list[str]:
    """Lines of a text file, none where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def _unescaped(word: str) -> str:
    r"""A path of mountinfo, where blanks are written `\040`."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), word)
