"""EOA on a Wide ResNet with SAM, CIFAR-10.

Workers are split into populations; in each, Horovod averages gradients every step. After every round all workers elect
a leader by held-out accuracy, populations exchange weights by Sendrecv, and each population's optimizer (grey wolves, whales)
moves its workers' learning rates around the elected base rate.

    horovodrun -np 16 python EOA-SAM/EOASAM.py
    mpirun --oversubscribe --bind-to none -np 8 python EOA-SAM/EOASAM.py --preset cpu
    python EOA-SAM/EOASAM.py --preset smoke
"""

from common.parallel import launch
from common.training.eoa import EoaArgs, prepare
from common.training.options import Presets, headline, make_presets, parse_args

EXPECT = ("20 to 60 seconds", "about 20 minutes on 2 quiet cores", "200 epochs of WRN-22-8, for GPUs")
PRESETS = make_presets(EoaArgs, EXPECT)


def main(presets: Presets[EoaArgs] = PRESETS, column: str = "cifar10", description: str = __doc__) -> None:
    """Parse, prepare, train. column: which reference script --reference follows."""
    args, given = parse_args(presets, description)
    run = prepare("eoa-sam", args, given, column, headline("EOA-SAM", args.preset, presets.expect))
    with run:
        for t in run.rounds():
            run.train(t)  # Horovod: all-reduce inside the gradient scope, every step
            result = run.evaluate(t)  # own weights, held-out images
            outcome = run.end_round(t, result)  # MPI: elect, exchange weights across populations, move the rate
            run.close(t, outcome)  # the record and a checkpoint


if __name__ == "__main__":
    launch.run(main)
