"""The two ways a run ends on purpose before its last round."""

from typing import Any


class UsageError(ValueError):
    """Something the user can put right: the message names the numbers and the way out, in one line. Exit code 2."""


class Diverged(RuntimeError):
    """No worker of any population holds finite weights any more. Exit code 1; the last finite weights are kept.

    turn: the `ecosphere.Turn` that ended so, for the record of its round.
    """

    def __init__(self, message: str, turn: Any) -> None:
        super().__init__(message)
        self.turn = turn
