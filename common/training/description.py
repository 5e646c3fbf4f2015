"""Description of a run: config.json, summary.json and the first lines it prints."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from common.commit import commit
from common.evaluate import REPORTED, EvalResult
from common.models import model_title
from common.models.batch_norm import running_statistics
from common.training.progress import span

if TYPE_CHECKING:
    from common.training.run import Run


def config_of(run: "Run") -> dict[str, Any]:
    """The content of config.json."""
    alike = len(set(run.lengths)) == 1
    return {
        **asdict(run.args),
        "experiment": run.experiment,
        "method": run.method,
        "ranks": run.topology.world.size,
        "population_list": [asdict(s) for s in run.topology.specs],
        "title": model_title(run.args.model, run.args.depth, run.args.width),
        "batch_size": run.plan.batch_size,
        "precision": run.plan.precision,
        "round_steps": run.lengths[0] if alike else run.lengths,
        **({"data_sha256": run.data.source.digest} if run.data.source.digest else {}),
        "rounds": len(run.lengths),
    }


def headlines_of(run: "Run") -> list[str]:
    """Lines printed when a run starts."""
    topology, lengths = run.topology, run.lengths
    sizes = ", ".join(f"{s.workers} {s.species} ({s.optimizer})" for s in topology.specs)
    ranks = f"{topology.world.size} rank{'s'[: topology.world.size > 1]}"
    threads = f"{topology.threads} thread{'s'[: topology.threads > 1]}"
    lines = [
        *run.headlines,
        f"{ranks}: {sizes}; {threads} each on {topology.device.type}, {run.plan.precision}; {run.engine()}; "
        f"{len(run.data.train)} training images, {span(lengths)} steps of {run.plan.batch_size} per round; "
        f"record: {run.directory}",
    ]
    if run.first_round:
        lines.append(f"resuming after round {run.first_round} of {len(lengths)}")
    elif run.args.resume:
        lines.append(f"no complete round to resume from in {run.directory}: starting with the first")
    return lines


def summary_of(run: "Run", validation: EvalResult, test: EvalResult, diverged: bool) -> dict[str, Any]:
    """The content of summary.json."""
    model = run.worker.model
    return {
        "experiment": run.experiment,
        "method": run.method,
        "dataset": run.args.dataset,
        "model": model_title(run.args.model, run.args.depth, run.args.width),
        "parameters": model.parameters.numel(),
        "buffers": model.buffers.numel(),
        "classes": run.data.source.classes,
        "seed": run.args.seed,
        "ranks": run.topology.world.size,
        "lines_per_round": run.workers,
        "populations": [asdict(s) for s in run.topology.specs],
        "exchange": run.end.exchange,
        "rounds": 0 if run.last_round is None else run.last_round + 1,
        "batch_size": run.plan.batch_size,
        "precision": run.plan.precision,
        **run.totals.over_ranks(run.topology.world),
        "validation_accuracy": validation.accuracy,
        "validation_loss": validation.loss,
        "test_accuracy": test.accuracy,
        "test_loss": test.loss,
        "statistics_images": REPORTED if running_statistics(model.module) else 0,
        "diverged": diverged,
        "weights_sha256": model.sha256(),
        "commit": commit(),
    }
