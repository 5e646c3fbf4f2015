"""Fault injection by an environment variable, to test that a failing rank ends the job instead of hanging it.

`ECOSPHERE_FAULT="KIND:RANK:PHASE:ROUND"`. KIND: `raise` raises RuntimeError, `kill` sends SIGKILL, `nan` (phase `train` only)
sets the worker's weights to NaN. PHASE: one of `PHASES`; setup and data count as round 0.
"""

import os
import re
import signal

from common.errors import UsageError

PHASES = ("setup", "data", "train", "evaluate", "elect", "exchange", "move", "record")


def trip(phase: str, rank: int, t: int = 0) -> bool:
    """Inject the fault that the variable names, if it is due here. Returns True for `nan`: the caller spoils its weights.

    Raises UsageError where the variable is malformed.
    """
    wanted = os.environ.get("ECOSPHERE_FAULT")
    if not wanted:
        return False
    if not re.fullmatch(rf"(raise|kill):\d+:({'|'.join(PHASES)}):\d+|nan:\d+:train:\d+", wanted, re.ASCII):
        raise UsageError(
            f"ECOSPHERE_FAULT='{wanted}' is no fault: write KIND:RANK:PHASE:ROUND, KIND raise, kill or nan (train only), "
            f"PHASE {', '.join(PHASES)}"
        )
    kind, where = wanted.split(":", 1)
    if where != f"{rank}:{phase}:{t}":
        return False
    if kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "raise":
        raise RuntimeError(f"fault injected on rank {rank} in phase {phase} of round {t}")
    return kind == "nan"
