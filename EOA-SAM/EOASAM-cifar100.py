"""EOA on a Wide ResNet with SAM, CIFAR-100: the same program as EOASAM.py with this data set's presets and reference rules.

For example:

    horovodrun -np 16 python EOA-SAM/EOASAM-cifar100.py
    mpirun --oversubscribe --bind-to none -np 8 python EOA-SAM/EOASAM-cifar100.py --preset cpu
    python EOA-SAM/EOASAM-cifar100.py --preset smoke
"""

from EOASAM import EXPECT, main

from common.parallel import launch
from common.training.eoa import EoaArgs
from common.training.options import make_presets

PRESETS_CIFAR100 = make_presets(EoaArgs, EXPECT, cpu={"dataset": "cifar100"}, paper={"dataset": "cifar100"})

if __name__ == "__main__":
    launch.run(lambda: main(PRESETS_CIFAR100, column="cifar100", description=__doc__))
