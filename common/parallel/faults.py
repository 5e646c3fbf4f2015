"""A fault on demand, so that the promise "never a hang" can be tested from outside.

`ECOSPHERE_FAULT="KIND:RANK:PHASE:ROUND"`: KIND `raise` throws, `kill` sends SIGKILL, `nan` (phase `train` only) spoils that
worker's weights. PHASE is one of setup, data, train, evaluate, elect, exchange, move, record; set-up and data count as round 0.
"""

import os
import signal

from common.errors import UsageError

PHASES = ("setup", "data", "train", "evaluate", "elect", "exchange", "move", "record")


def trip(phase: str, rank: int, t: int = 0) -> bool:
    """Fail here if the environment asks for it. Returns True where the caller is to spoil its weights (`nan`)."""
    wanted = os.environ.get("ECOSPHERE_FAULT")
    if not wanted:
        return False
    kind, *where = wanted.split(":")
    _check(wanted, kind, where)
    if where != [str(rank), phase, str(t)]:
        return False
    if kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "raise":
        raise RuntimeError(f"fault injected on rank {rank} in phase {phase} of round {t}")
    return kind == "nan"


def _check(wanted: str, kind: str, where: list[str]) -> None:
    """Raise UsageError where a fault was asked for that never happens."""
    kinds = {"raise": PHASES, "kill": PHASES, "nan": ("train",)}
    numbers = len(where) == 3 and where[0].isdecimal() and where[2].isdecimal()
    if not numbers or where[1] not in kinds.get(kind, ()):
        raise UsageError(
            f"ECOSPHERE_FAULT='{wanted}' is no fault: write KIND:RANK:PHASE:ROUND, KIND raise, kill or nan (train only), "
            f"PHASE {', '.join(PHASES)}"
        )
