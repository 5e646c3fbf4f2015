"""Options of workers with weights of their own."""

from common.errors import UsageError


def refuse_both_batches(given: set[str]) -> None:
    """Refuse a batch of all workers beside one of each. Raises UsageError."""
    if {"batch_size", "worker_batch"} <= given:
        raise UsageError("--batch-size is of all workers together and --worker-batch of one: leave one of them out")
