"""The two ways a run ends on purpose before its last round."""


class UsageError(ValueError):
    """Something the user can put right: the message names the numbers and the way out, in one line. Exit code 2."""


class Diverged(RuntimeError):
    """No worker of any population holds finite weights any more. Exit code 1; the last finite weights are kept."""
