"""State of a run after a round: collected for a checkpoint, and restored."""

from typing import TYPE_CHECKING, Any

from torch import Tensor

from common.training import checkpoint
from common.training.record import Totals

if TYPE_CHECKING:
    from common.training.run import Run


def state_of(run: "Run") -> checkpoint.State:
    """State of this rank after a round, for a checkpoint."""
    worker, (tensors, numbers) = run.worker, run.end.state()
    tensors = {f"end.{n}": v for n, v in tensors.items()} | {"state": worker.model.state}
    tensors |= {f"optimizer.{n}": v for n, v in worker.optimizer.state_tensors().items()}
    tensors |= {f"coupling.{n}": v for n, v in _coupled(run).items()}
    tensors |= {f"counter.{n}": v for n, v in worker.model.counters().items()}
    kept = {
        "rate": worker.rate,
        "rule": worker.rates.state(),
        "clock": worker.optimizer.clock,
        "end": numbers,
        "final_population": run.final_population,
        "totals": run.totals.as_dict(),
    }
    return tensors, kept


def restore(run: "Run", t: int, tensors: dict[str, Tensor], numbers: dict[str, Any]) -> None:
    """Restore the state that `state_of` returned after round t."""
    worker = run.worker
    for prefix, kept in (
        ("end", run.end.state()[0]),
        ("coupling", _coupled(run)),
        ("counter", worker.model.counters()),
        ("", {"state": worker.model.state.detach()}),
    ):
        for name, value in kept.items():
            value.copy_(tensors.pop(f"{prefix}.{name}" if prefix else name))
    worker.rate = numbers["rate"]
    worker.rates.load_state(numbers["rule"])
    worker.optimizer.load_state_tensors({n.removeprefix("optimizer."): v for n, v in tensors.items()})
    worker.optimizer.clock = numbers["clock"]
    run.end.restore(numbers["end"])
    run.totals = Totals(**numbers["totals"])
    run.topology.traffic.inside = run.topology.traffic.across = 0  # traffic of the start is in the restored totals
    run.last_round, run.final_population = t, numbers["final_population"]


def _coupled(run: "Run") -> dict[str, Tensor]:
    """State of the coupling, if there is one."""
    coupling = run.worker.optimizer.coupling
    return coupling.tensors() if coupling else {}
