"""Options of workers that train their own weights."""

from common.errors import UsageError


def refuse_both_batches(given: set[str]) -> None:
    """Refuse --batch-size together with --worker-batch. Raises UsageError."""
    if {"batch_size", "worker_batch"} <= given:
        raise UsageError("--batch-size is of all workers together and --worker-batch of one: leave one of them out")
