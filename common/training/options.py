"""Options that every training script has: those of the run, the data, the network and the optimizer; presets."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, TypeVar

import torch

from common.data.options import DataOptions, is_text
from common.errors import UsageError
from common.models import FOR_TEXT
from common.models.options import ModelOptions
from common.optim.options import OptimizerOptions
from common.options import PathText, Range, read

# Sizes shared by all methods under a preset, so that comparisons differ in the method alone.
SIZES: dict[str, dict[str, Any]] = {
    "smoke": {"dataset": "digits", "rounds": 12, "batch_size": 64, "model": "cnn", "width": 2, "rho": 0.2},
    "cpu": {"rounds": 20, "batch_size": 256, "width": 1, "fitness_images": 1000},
    "paper": {"rounds": 200, "batch_size": 1024, "depth": 22, "width": 8, "fitness_images": 0},
}
PRESETS = tuple(SIZES)
# Defaults for text data; those of the scripts are for images.
TEXT: dict[str, Any] = {"model": "transformer", "crop": 0, "image_size": 0, "train_images": 0, "pixels": "normalised"}
TEXT_SIZES: dict[str, dict[str, Any]] = {
    "smoke": {**TEXT, "depth": 2, "width": 2},
    "cpu": {**TEXT, "depth": 2, "width": 4, "batch_size": 16},
    "paper": {**TEXT, "depth": 6, "width": 12},
}


@dataclass(frozen=True)
class RunOptions:
    """Run: length, seed, record."""

    preset: Literal["smoke", "cpu", "paper"] = "cpu"
    """a set of defaults: smoke (digits, seconds), cpu (two cores, under an hour), paper (the published setting, or one of
    similar size where it is not known); where a GPU is visible, the default is paper"""
    out: PathText = "auto"
    """the run's own directory (auto: a new one under runs/)"""
    seed: Annotated[int, Range(0, 2**63 - 1)] = 0
    """seed of all random numbers, below 2^63"""
    rounds: Annotated[int, Range(1, 10**6)] = 12
    """rounds of training, each ending with an evaluation, in an ecosphere also with election, exchange and move (EOA: 200)"""
    round_steps: Annotated[int, Range(0)] = 0
    """optimizer steps per round; 0 makes a round one epoch, one pass over the training images (EOA: one epoch)"""
    max_steps: Annotated[int, Range(0)] = 0
    """limit on the optimizer steps of the whole run; 0 for no limit"""
    batch_size: Annotated[int, Range(1)] = 256
    """images, or windows of 128 characters, per step of all workers (EOA: 1024; EOA-ViT: 512 per rank, 4096 over its 8)"""
    accumulate: Annotated[int, Range(1)] = 1
    """micro-batches that a rank's batch is split into, to save memory; gradients are averaged over ranks once per step
    (EOA: 16 in EOA-ViT)"""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """arithmetic of forward and backward passes; auto: bfloat16 where the processor has it (EOA: float32)"""
    resume: bool = False
    """resume the run in --out after its last complete round, on the same number of ranks"""


@dataclass(frozen=True)
class CommonArgs(OptimizerOptions, ModelOptions, DataOptions, RunOptions):
    """Common options of training scripts. Published values are those of EOA."""

    def refuse(self, given: set[str]) -> None:
        """Refuse networks that do not fit the data, and two batch sizes. Raises UsageError."""
        if is_text(self.dataset) != (self.model in FOR_TEXT):
            kind, other = ("text", "images") if is_text(self.dataset) else ("images", "text")
            raise UsageError(
                f"--dataset {self.dataset} is {kind}, --model {self.model} is for {other}: texts go with transformer"
            )
        if {"batch_size", "worker_batch"} <= given:  # the latter in scripts whose workers train their own weights
            raise UsageError("--batch-size is of all workers together and --worker-batch of one: leave one of them out")


A = TypeVar("A", bound=CommonArgs)


class Presets(dict[str, A]):
    """Default options by preset; `expect`: the time or size to expect of each, in words."""

    def __init__(self, presets: dict[str, A], expect: dict[str, str]) -> None:
        super().__init__(presets)
        self.expect = expect


def make_presets(kind: type[A], expect: tuple[str, str, str], **own: dict[str, Any]) -> Presets[A]:
    """The presets of a script: SIZES, updated by the script's own values, e.g. `cpu={"batch_size": 128}`.

    expect: time to expect of `smoke`, `cpu` and `paper`, in words.
    """
    presets = {name: kind(preset=name, **{**sizes, **own.get(name, {})}) for name, sizes in SIZES.items()}  # type: ignore[arg-type]
    return Presets(presets, dict(zip(SIZES, expect, strict=True)))


def parse_args(presets: Mapping[str, A], description: str, argv: list[str] | None = None) -> tuple[A, set[str]]:
    """Read the command line over the chosen preset's defaults; text data replace the defaults that are for images.

    Returns the arguments and the names of the options that were given: see `options.read`.
    """
    argv = sys.argv[1:] if argv is None else argv
    args, given = read(presets[_preset(argv)], description, argv)
    if is_text(args.dataset):
        args = replace(args, **{name: size for name, size in TEXT_SIZES[args.preset].items() if name not in given})
    return args, given


def _preset(argv: list[str]) -> str:
    """`--preset X` from the command line; `paper` where CUDA is visible, else `cpu`. An unknown one is left to the parser."""
    given = [i for i, word in enumerate(argv) if word.partition("=")[0] == "--preset"]
    if given:  # the last one counts, as for every option
        value = argv[given[-1]].partition("=")[2] or next(iter(argv[given[-1] + 1 :]), "")
        return value if value in PRESETS else "cpu"
    return "paper" if torch.cuda.is_available() else "cpu"


def headline(title: str, preset: str, expect: dict[str, str]) -> str:
    """First line of a run: title, expected time, quicker command. expect: by preset."""
    quicker = "" if preset == "smoke" else f"; --preset smoke shows everything in {expect['smoke']}"
    return f"{title}, preset {preset}: {expect[preset]}{quicker}"


def resolve_batch(args: CommonArgs, given: set[str], ranks: int) -> int:
    """Global batch size for this world: a preset's is rounded to a multiple of the ranks, an explicit one has to be a multiple.

    The caller prints it if it differs. Raises UsageError naming the two nearest multiples.
    """
    below = args.batch_size // ranks * ranks
    if below == args.batch_size:
        return below
    above = below + ranks
    if "batch_size" in given:
        nearest = f"{below} or {above}" if below else str(above)
        raise UsageError(f"--batch-size {args.batch_size} does not divide by {ranks} ranks; the nearest that do: {nearest}")
    return below if below and args.batch_size - below <= above - args.batch_size else above


def resolve_precision(wanted: str, device_type: str) -> str:
    """`float32` or `bfloat16`; auto selects bfloat16 if this process's processor or GPU supports it natively."""
    if wanted != "auto":
        return wanted
    if device_type == "cuda":
        native = torch.cuda.is_bf16_supported()
    else:
        # Private names of torch 2.13; float32 if they are missing.
        probes = (getattr(torch.cpu, n, bool) for n in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
        native = any(probe() for probe in probes)
    return "bfloat16" if native else "float32"
