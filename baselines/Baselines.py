"""What a user would pick instead of an ecosphere, on the same harness: one schedule, ordinary data parallelism.

    cosine    eta0, annealed to 0 by a cosine
    linear    the same from k eta0 (k = batch / 128), after one epoch of linear warm-up
    sqrt      the same from sqrt(k) eta0
    replay    the rates that an ecosphere found, from its rates.csv; fair at the batch of one of its populations

For example:

    python baselines/Baselines.py --method cosine --preset smoke
    mpirun --oversubscribe --bind-to none -np 2 python baselines/Baselines.py --method linear --preset cpu
    python baselines/Baselines.py --replay runs/eoa-sam/RUN/rates.csv --preset cpu
"""

import csv
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from common import launch
from common.cli import CommonArgs, check_common, headline, make_presets, parse_args
from common.ecosphere import Ecosphere
from common.errors import UsageError
from common.exchange import Exchange
from common.populations import PopulationSpec
from common.rates import QUOTED_BATCH, RateRule, ReplayedRates, ScheduledRates, cosine
from common.run import Run
from common.topology import build_topology, world_size


@dataclass(frozen=True)
class Args(CommonArgs):
    """Options of the baselines, after those that every script has."""

    method: Literal["cosine", "linear", "sqrt", "replay"] = "cosine"
    """the schedule; replay is implied by --replay"""
    replay: str = ""
    """a rates.csv: use its column `mean`, round by round"""


PRESETS = make_presets(Args, cpu={"batch_size": 128})  # what eta0 is quoted for; EOA has half of 256 in each population
COST = {
    "smoke": "10 to 30 seconds",
    "cpu": "15 to 20 minutes on 2 quiet cores",
    "paper": "200 epochs of WRN-16-8, for GPUs",
}


def main() -> None:
    """Parse, build one population over all ranks, train."""
    args, given = parse_args(PRESETS, __doc__)
    check_common(args)
    method = "replay" if args.replay else args.method
    ranks = world_size()
    replayed = read_rates(args, given) if method == "replay" else []
    topology = build_topology([PopulationSpec(method, ranks, args.optimizer)])
    run = Run("baselines", method, args, given, topology, [headline(f"Baseline {method}", args.preset, COST)])

    rates = rate_rule(method, args, run, replayed)
    ecosphere = Ecosphere(topology, rates, Exchange("average"))
    ecosphere.adopt(run.build_model())
    optimizer = run.build_optimizer(ecosphere)

    run.start(ecosphere, optimizer, {"replayed_rates": replayed})
    with run:
        for t in run.rounds():
            rate = ecosphere.rate
            trained = run.train(t)  # Horovod: all-reduce over all ranks, every step
            judged = run.judge(t)  # for the record only: nothing is decided by it
            turn = ecosphere.turn(t, judged.fitness)  # batch-norm statistics are averaged, the schedule goes on
            run.close_round(t, rate, trained, judged, turn)


def rate_rule(method: str, args: Args, run: Run, replayed: list[float]) -> RateRule:
    """The schedule of one method for this world and batch."""
    ranks = run.topology.world.size
    epoch = run.epoch_steps / run.plan.steps  # warm-up is one epoch, counted in rounds
    if method == "replay":
        return ReplayedRates(replayed, args.learning_rate, ranks, epoch)
    k = run.plan.batch_size / QUOTED_BATCH
    scale = {"cosine": 1.0, "linear": k, "sqrt": math.sqrt(k)}[method]
    warmup = 0.0 if method == "cosine" else epoch
    return ScheduledRates(lambda p: cosine(1.0, p), scale * args.learning_rate, args.learning_rate, ranks, args.rounds, warmup)


def read_rates(args: Args, given: set[str]) -> list[float]:
    """The column `mean` of a rates.csv; needs as many rounds as are to be run. Raises UsageError."""
    if "method" in given and args.method != "replay":
        raise UsageError(f"--replay and --method {args.method} exclude each other: leave one of them out")
    if not args.replay:
        raise UsageError("--method replay needs --replay FILE: a rates.csv that an EOA run wrote")
    _refuse_foraging(Path(args.replay))
    try:
        with open(Path(args.replay), newline="") as file:
            rates = [float(line["mean"]) for line in csv.DictReader(file)]
    except (OSError, KeyError, ValueError) as error:
        raise UsageError(f"cannot read rates from '{args.replay}' ({error}): name a rates.csv that an EOA run wrote") from None
    if len(rates) < args.rounds:
        raise UsageError(f"{args.replay} holds the rates of {len(rates)} rounds, not {args.rounds}: add --rounds {len(rates)}")
    return rates


def _refuse_foraging(path: Path) -> None:
    """Rounds of different lengths, some of them taken back, are no schedule by epochs."""
    config = path.with_name("config.json")
    if config.exists() and json.loads(config.read_text()).get("base_rate") == "forage":
        raise UsageError(f"{path} is of a foraging run, which takes rounds back: replay the rates of a run without it")


if __name__ == "__main__":
    launch.run(main)
