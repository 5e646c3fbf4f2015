"""EOA on a Wide ResNet with SAM, CIFAR-100: the same program as EOASAM.py with this data set's presets and reference rules.

horovodrun -np 16 python EOA-SAM/EOASAM-cifar100.py
mpirun --oversubscribe --bind-to none -np 8 python EOA-SAM/EOASAM-cifar100.py --preset cpu
python EOA-SAM/EOASAM-cifar100.py --preset smoke
"""

from dataclasses import replace

from EOASAM import PRESETS, main

from common import launch

PRESETS_CIFAR100 = {
    name: args if args.dataset == "digits" else replace(args, dataset="cifar100") for name, args in PRESETS.items()
}

if __name__ == "__main__":
    launch.run(lambda: main(PRESETS_CIFAR100, column="cifar100", description=__doc__))
