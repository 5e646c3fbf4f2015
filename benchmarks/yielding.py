"""Effect of yielding and of Horovod's cycle time on a training step, where ranks and Horovod's threads share few cores.

    python benchmarks/yielding.py                      # 2 ranks, SGD
    python benchmarks/yielding.py --ranks 8            # 8 ranks

Every setting is its own mpirun job, because Open MPI and Horovod read both only at their start. Settings are
measured in turn, `--repeats` times; medians and ratios to the first row go to results/benchmarks/yielding-RANKS.md and
.json. Random images of CIFAR's shape.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from common.options import PathText, flag, read_options
from common.parallel import launch, machine

# (Open MPI yields while it waits, milliseconds of a Horovod cycle); the first row holds both defaults.
SETTINGS = [(0, 1.0), (0, 5.0), (1, 1.0), (1, 2.5), (1, 5.0), (1, 10.0)]
OWN_JOB = ("OMPI_", "OPAL_", "ORTE_", "PMIX_", "HOROVOD_CYCLE_TIME")  # variables of this process's own job
ROOT = "OMPI_ALLOW_RUN_AS_ROOT"


@dataclass(frozen=True)
class Args:
    """What is measured."""

    ranks: int = 2
    """ranks of every job, in one population"""
    optimizer: str = "sgd"
    """weight optimizer"""
    batch_size: int = 256
    """images per step of all ranks together"""
    depth: int = 16
    """depth of the Wide ResNet of width 1"""
    steps: int = 40
    """steps per measurement, after 5 that warm up"""
    repeats: int = 5
    """measurements of each setting"""
    out: PathText = "results/benchmarks"
    """folder for the table"""
    measured: bool = False
    """(internal) be one rank of a job: measure and print"""


def main() -> None:
    """Measure all settings in turn, print and write the table; with `measured`, one rank of one job."""
    args = read_options(Args, __doc__)
    if args.measured:
        measure(args)
        return
    rates: dict[tuple[int, float], list[float]] = {setting: [] for setting in SETTINGS}
    for repeat in range(args.repeats):
        for setting in SETTINGS:
            rates[setting].append(run_job(args, *setting))
        print(f"measured {repeat + 1} of {args.repeats}", flush=True)
    report(args, rates)


def run_job(args: Args, yields: int, cycle: float) -> float:
    """Images per second of one job."""
    # Importing `common` has started MPI in this process, whose variables would make the job's ranks its children.
    kept = {name: value for name, value in os.environ.items() if not name.startswith(OWN_JOB) or name.startswith(ROOT)}
    environment = kept | {"OMPI_MCA_mpi_yield_when_idle": str(yields), "HOROVOD_CYCLE_TIME": str(cycle)}
    options = [f"--{name.replace('_', '-')}={value}" for name, value in asdict(args).items() if name != "measured"]
    launcher = ["mpirun", "--oversubscribe", "--bind-to", "none", "-np", str(args.ranks)]
    command = [*launcher, sys.executable, __file__, *options, "--measured"]
    done = subprocess.run(command, env=environment, capture_output=True, encoding="utf-8", check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")
    return float(done.stdout.split()[-1])


def measure(args: Args) -> None:
    """Train some steps on all ranks; rank 0 prints the images per second. Imports here start MPI."""
    from throughput import Args as Images
    from throughput import random_images

    from common.ecosphere.rates import EcosphereRates
    from common.models import build_model
    from common.models.flat import share_model
    from common.optim.bases import OptimizerSettings
    from common.parallel.populations import PopulationSpec
    from common.parallel.topology import build_topology
    from common.training.loop import Plan, train_round
    from common.training.options import resolve_precision
    from common.training.worker import build_worker

    specs = [PopulationSpec("gwo", args.ranks, args.optimizer)]
    topology = build_topology(specs)
    data = random_images(Images(world_batch_size=args.batch_size, steps=args.steps), topology)
    model = share_model(build_model("wrn", 3, 10, args.depth, 1).to(topology.device), topology.world)
    rates = EcosphereRates(specs, 0.1, 10, [args.batch_size], 0)
    worker = build_worker(topology, model, rates, OptimizerSettings(args.optimizer))
    plan = Plan(args.batch_size, args.steps, 0.1, resolve_precision("auto", topology.device.type))

    def train(steps: int) -> None:
        batches = data.batches(0, 0, args.batch_size, topology.world.rank, args.ranks, steps)
        train_round(worker, batches, seed=0, t=0, plan=plan)
        topology.world.barrier()

    train(min(5, args.steps))
    began = time.perf_counter()
    train(args.steps)
    launch.say(f"{args.steps * args.batch_size / (time.perf_counter() - began)}")


def report(args: Args, rates: dict[tuple[int, float], list[float]]) -> None:
    """Print the table and write it."""
    medians = {setting: statistics.median(values) for setting, values in rates.items()}
    first = medians[SETTINGS[0]]
    lines = [
        f"WRN-{args.depth}-1, {args.optimizer}, {args.ranks} ranks on {machine.available_cores()} cores, batch "
        f"{args.batch_size}; images/s, median of {args.repeats} (lowest to highest), measured in turn.",
        "",
        "| MPI yields while it waits | Horovod's cycle, ms | images/s | against the first row |",
        "| --- | ---: | ---: | ---: |",
    ]
    for (yields, cycle), values in rates.items():
        spread = f"{min(values):.0f} to {max(values):.0f}"
        median = medians[yields, cycle]
        lines.append(f"| {'yes' if yields else 'no'} | {cycle:g} | {median:.0f} ({spread}) | {median / first:.2f} x |")
    given = {name: value for name, value in vars(args).items() if value != getattr(Args(), name) and name != "out"}
    words = ["python benchmarks/yielding.py", *(f"{flag(name)} {value}" for name, value in given.items())]
    lines += ["", f"Made by `{' '.join(words)}`."]
    print("\n".join(lines))
    name = f"yielding-{args.ranks}"
    folder = Path(args.out)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    table = [{"yields": bool(y), "cycle_ms": c, "images_per_second": values} for (y, c), values in rates.items()]
    record = {"arguments": asdict(args), "cores": machine.available_cores(), "settings": table}
    (folder / f"{name}.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    launch.run(main)
