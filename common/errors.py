"""Exceptions that end a run before its last round."""


class UsageError(ValueError):
    """An error that the user can fix: the message gives the numbers and a remedy, in one line. Exit code 2."""


class Diverged(RuntimeError):
    """No worker of any population has finite weights. Exit code 1; the last finite weights are kept."""
