"""EOA on a Vision Transformer: fine-tuning from Google's checkpoints, or from scratch.

EOA-SAM with SGD instead of SAM: one pass per step, and the gradient is clipped after averaging over the population. A rank's
batch may be processed in parts (--accumulate); gradients are still averaged once per step.

    horovodrun -np 8 python EOA-ViT/EOAViT.py --preset paper --pretrained ViT-B_16.npz
    mpirun --oversubscribe --bind-to none -np 8 python EOA-ViT/EOAViT.py --preset cpu
    mpirun --oversubscribe --bind-to none -np 8 python EOA-ViT/EOAViT.py --preset smoke
"""

from common.parallel import launch
from common.training.eoa import EoaArgs, prepare
from common.training.options import headline, make_presets, parse_args

TINY = {"model": "vit-tiny", "optimizer": "sgd", "weight_decay": 0.0, "clip_norm": 1.0, "label_smoothing": 0.0}
PRESETS = make_presets(
    EoaArgs,
    expect=("under 2 minutes", "about 20 minutes on 2 quiet cores", "200 epochs of ViT-B/16 at 224 pixels, for GPUs"),
    smoke={**TINY, "rounds": 30, "depth": 3, "width": 2, "learning_rate": 0.2},
    cpu={**TINY, "rounds": 15, "depth": 4, "width": 3, "learning_rate": 0.1},
    paper={
        **{**TINY, "model": "vit-b16", "dropout": 0.1, "image_size": 224, "flip": False},
        "learning_rate": 0.03 * 128 / 512,  # fine-tuning rate of ViT-B/16, 0.03 for 512 images, scaled to 128
        **{"batch_size": 4096, "accumulate": 16},  # published: 512 for each of 8 ranks, in parts of 32 images
    },
)


def main() -> None:
    """Parse, prepare, train."""
    args, given = parse_args(PRESETS, __doc__)
    run = prepare("eoa-vit", args, given, "vit", headline("EOA-ViT", args.preset, PRESETS.expect))
    with run:
        for t in run.rounds():
            run.train(t)  # Horovod: all-reduce inside the gradient scope, every step
            result = run.evaluate(t)  # own weights, held-out images
            outcome = run.end_round(t, result)  # MPI: elect, exchange weights across populations, move the rate
            run.close(t, outcome)  # the record and a checkpoint


if __name__ == "__main__":
    launch.run(main)
