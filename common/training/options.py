"""A dataclass becomes a command line: presets, the options every script has, and their checks."""

import contextlib
import io
import math
import re
import sys
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias, TypeVar, get_type_hints

import torch
import tyro

from common.data.sources import SOURCES
from common.errors import UsageError
from common.models import FOR_TEXT, MODELS, NETWORKS, without
from common.optim.registry import OPTIMIZERS, has_line_search, is_schedule_free, lr_option, split_name
from common.parallel.launch import say
from common.paths import expand

# The sizes that all methods share under a preset, so that what is compared is the method.
SIZES: dict[str, dict[str, Any]] = {
    "smoke": {"dataset": "digits", "rounds": 12, "batch_size": 64, "model": "cnn", "width": 2, "rho": 0.2},
    "cpu": {"rounds": 20, "batch_size": 256, "width": 1, "fitness_images": 1000},
    "paper": {"rounds": 200, "batch_size": 1024, "depth": 22, "width": 8, "fitness_images": 0},
}
PRESETS = tuple(SIZES)
# What a text is trained with in a script's place, unless it is given: what scripts have is for images.
TEXT: dict[str, Any] = {"model": "transformer", "crop": 0, "image_size": 0, "train_images": 0, "pixels": "normalised"}
TEXT_SIZES: dict[str, dict[str, Any]] = {
    "smoke": {**TEXT, "depth": 2, "width": 2},
    "cpu": {**TEXT, "depth": 2, "width": 4, "batch_size": 16},
    "paper": {**TEXT, "depth": 6, "width": 12},
}


# What can be chosen is what is registered: a new line in a registry is a new word on the command line. PathText is the type of
# an option that holds a path, which `parse_args` expands.
if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    PathText: TypeAlias = str
    Dataset: TypeAlias = str
    Model: TypeAlias = str
    Optimizer: TypeAlias = str
else:
    PathText = Annotated[str, tyro.conf.arg(metavar="PATH")]
    Dataset, Model, Optimizer = Literal[*SOURCES, "imagefolder"], Literal[*MODELS], Literal[*OPTIMIZERS]


@dataclass(frozen=True)
class CommonArgs:
    """Options that every training script has. Published values are those of EOA."""

    preset: Literal["smoke", "cpu", "paper"] = "cpu"
    """a set of defaults: smoke (digits, seconds), cpu (two cores, under an hour), paper (the published setting, or one of its
    size where that is not known; the default where a GPU is visible)"""
    dataset: Dataset = "cifar10"
    """what to train on; digits ships with scikit-learn, topics (a text) with Python, imagefolder reads DATA_DIR/train/CLASS/*
    and DATA_DIR/test/CLASS/* (turned by EXIF, transparency over mid-grey), the others are downloaded once by torchvision"""
    data_dir: PathText = "auto"
    """folder of the data sets (auto: $EOA_DATA, else data/)"""
    out: PathText = "auto"
    """the run's own directory (auto: a new one under runs/)"""
    seed: int = 0
    """everything random is drawn from it; any number below 2^63"""
    rounds: int = 12
    """rounds of training, each ending with an evaluation, in an ecosphere also with election, exchange and move (EOA: 200)"""
    round_steps: int = 0
    """optimizer steps per round; 0 makes a round one epoch, one pass over the training images (EOA: one epoch)"""
    max_steps: int = 0
    """stop after so many optimizer steps in all; 0 for no limit"""
    batch_size: int = 256
    """images per step of all workers together, or windows of 128 characters (EOA: 1024; 512 per rank, 4096 over its 8, in
    EOA-ViT)"""
    learning_rate: float = 0.1
    """base rate eta0, quoted for 128 images behind one averaged gradient (EOA: 0.1 for one worker; 0.03 in
    EOA-ViT)"""
    val_fraction: float = 0.1
    """share of the training images held out, which all choices rest on (EOA's reference scripts: on the test set)"""
    train_images: int = 0
    """train on so many images only, a stratified part; 0 for all"""
    fitness_images: int = 2000
    """at most so many held-out images judge a worker each round; 0 for all"""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """arithmetic of forward and backward passes; auto: bfloat16 where the processor has it (EOA: float32)"""
    resume: bool = False
    """go on with the run in --out after its last complete round, on the same number of ranks"""
    model: Model = "wrn"
    """network: Wide ResNet, small CNNs, Vision Transformers; a text implies the transformer (EOA: wrn; vit-b16 in EOA-ViT)"""
    depth: int = 16
    """layers of the Wide ResNet, blocks of vit-tiny and transformer (EOA: 22, which is called 16 there)"""
    width: int = 1
    """widening factor; of vit-tiny and transformer: heads of 32 dimensions (EOA: 8)"""
    dropout: float = 0.0
    """dropout inside the blocks; of Vision Transformers behind the embeddings and in the MLPs (EOA: 0; 0.1 in EOA-ViT)"""
    initialisation: Literal["fan-out", "fan-in"] = "fan-out"
    """initial weights of the Wide ResNet: He et al.'s by fan-out, or by fan-in with a head of zeros (EOA: fan-in)"""
    image_size: int = 0
    """resize images to squares of so many pixels, by random resized crops; 0 keeps their size and pads and crops
    (EOA: 224 in EOA-ViT)"""
    crop_scale: float = 0.05
    """with --image-size: least share of an image that a crop covers"""
    flip: bool = True
    """mirror training images at random, where a mirror image is of the same class (EOA: as here; no flip in EOA-ViT)"""
    crop: int = 0
    """train on random crops of so many pixels and judge the central one, without padding; 0 pads and crops instead"""
    pixels: Literal["normalised", "unit"] = "normalised"
    """normalised by mean and deviation of the data set (with --image-size: 1/2 each), or in [0, 1] (EASGD: unit)"""
    accumulate: int = 1
    """parts that a rank's batch is cut into, to save memory; gradients are averaged over ranks once for all of them
    (EOA: 16 in EOA-ViT)"""
    pretrained: PathText = ""
    """a Vision Transformer's weights as Google publishes them (.npz); none: from scratch"""
    optimizer: Optimizer = "asam"
    """weight optimizer of populations that name none; sam and asam alone are over sgd (EOA: asam; sgd in EOA-ViT)"""
    adam_rate: float = 0.001
    """base rate eta0 of adamw, muon and schedulefree-adamw, where --learning-rate is that of sgd (prodigy's is 1); rates are
    compared as multiples of eta0"""
    adam_decay: float = 0.05
    """weight decay of adamw, muon, schedulefree-adamw, prodigy and salsa"""
    clip_norm: float = 0.0
    """largest norm of an averaged gradient; 0 for any (EOA: 1 in EOA-ViT)"""
    rho: float = 0.5
    """radius of SAM's perturbation (EOA: 0.5, ASAM)"""
    momentum_factor: float = 0.9
    """momentum of SGD (EOA: 0.9)"""
    weight_decay: float = 5e-4
    """weight decay of SGD (EOA: 5e-4; 0 in EOA-ViT)"""
    label_smoothing: float = 0.1
    """of the training loss (EOA: 0.1; 0 in EOA-ViT)"""


# The largest integers that options of any script take: what is larger overflows somewhere, or would fill the memory.
MOST = 2**31 - 1
LARGEST = {
    **{"seed": 2**63 - 1, "rounds": 10**6, "trials": 10**5, "population": 10**5},
    **{"depth": 10**4, "width": 10**4, "image_size": 10**4, "threads": 1024},
}

A = TypeVar("A", bound=CommonArgs)
T = TypeVar("T", bound="DataclassInstance")


def make_presets(kind: type[A], **own: dict[str, Any]) -> dict[str, A]:
    """The presets of a script: SIZES, over which the script lays what it wants otherwise, e.g. `cpu={"batch_size": 128}`."""
    return {name: kind(preset=name, **{**sizes, **own.get(name, {})}) for name, sizes in SIZES.items()}  # type: ignore[arg-type]


def parse_args(presets: Mapping[str, A], description: str, argv: list[str] | None = None) -> tuple[A, set[str]]:
    """Read the command line over the chosen preset's defaults, `~` in paths expanded.

    Returns the arguments and the names of the options that were given. `--help` prints on rank 0 and exits with 0; an
    unreadable option and an empty path raise UsageError.
    """
    argv = sys.argv[1:] if argv is None else argv
    chosen = presets[_preset(argv)]
    output = io.StringIO()
    try:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            args = tyro.cli(type(chosen), args=argv, default=chosen, description=description)
    except SystemExit as request:
        if request.code:
            raise UsageError(f"{_first_paragraph(output.getvalue())} (--help lists all options)") from None
        say(output.getvalue())
        raise
    given = {match[1].replace("-", "_") for a in argv if (match := re.match(r"--(?:no-)?([a-z0-9_-]+)", a))}
    args = expand_paths(args, given)
    if is_text(args.dataset):
        args = replace(args, **{name: size for name, size in TEXT_SIZES[args.preset].items() if name not in given})
    for name in sorted(given.intersection(without(args.model))):
        raise UsageError(f"--{name} is not an option of --model {args.model}: leave it out, or take another network")
    if "flip" in given and args.flip and args.dataset in SOURCES and not SOURCES[args.dataset].flip:
        raise UsageError(f"--flip: mirror images of {SOURCES[args.dataset].title} are not of the same class; leave it out")
    return args, given


def expand_paths(args: T, given: Collection[str] = ()) -> T:
    """The same options with `~` expanded in those that hold a path (`PathText`).

    given: names of options that may not be empty; of the others an empty one stands for none. Raises UsageError.
    """
    kinds = get_type_hints(type(args), include_extras=True)
    names = [name for name, kind in kinds.items() if kind == PathText and (name in given or getattr(args, name))]
    return replace(args, **{name: expand(getattr(args, name), f"--{name.replace('_', '-')}") for name in names})


def read_options(kind: type[T], description: str | None) -> T:
    """The command line of a program without presets; no path may be empty. Raises UsageError."""
    args = tyro.cli(kind, description=description)
    return expand_paths(args, {field.name for field in fields(args)})


def is_text(dataset: str) -> bool:
    """Whether a data set is made of characters."""
    return dataset in SOURCES and SOURCES[dataset].is_text


def _preset(argv: list[str]) -> str:
    """`--preset X` from the command line; `paper` where CUDA is visible, else `cpu`. An unknown one is left to tyro."""
    given = [i for i, word in enumerate(argv) if word.partition("=")[0] == "--preset"]
    if given:  # the last one counts, as for every option
        value = argv[given[-1]].partition("=")[2] or next(iter(argv[given[-1] + 1 :]), "")
        return value if value in PRESETS else "cpu"
    return "paper" if torch.cuda.is_available() else "cpu"


def _first_paragraph(box: str) -> str:
    """The sentence inside the box that tyro draws around an error: between its title and the rule below it."""
    lines = [line.strip("│| ") for line in box.splitlines()][1:]
    rules = [i for i, line in enumerate(lines) if line and set(line) <= set("─-")]
    first = 1 if rules[:1] == [0] else 0
    last = next((i for i in rules if i > 0), len(lines))
    return " ".join(" ".join(lines[first:last]).split()) or "cannot read the command line"


def headline(title: str, preset: str, cost: dict[str, str]) -> str:
    """The first line of a run: what it is, the time to expect, and the quicker command."""
    quicker = "" if preset == "smoke" else f"; --preset smoke shows everything in {cost['smoke']}"
    return f"{title}, preset {preset}: {cost[preset]}{quicker}"


def check_common(args: CommonArgs) -> None:
    """Refuse numbers that cannot work. Raises UsageError naming the option, its value and what would do."""
    for name, least in (
        ("rounds", 1),
        ("batch_size", 1),
        ("seed", 0),
        ("round_steps", 0),
        ("max_steps", 0),
        ("fitness_images", 0),
        ("train_images", 0),
        ("image_size", 0),
        ("crop", 0),
        ("accumulate", 1),
    ):
        _require(getattr(args, name) >= least, args, name, f"has to be at least {least}")
    for name, value in vars(args).items():
        if isinstance(value, int):
            _require(value <= (most := LARGEST.get(name, MOST)), args, name, f"has to be at most {most}")
    _require(0 < args.learning_rate < math.inf, args, "learning_rate", "has to be positive and finite")
    _require(0 < args.adam_rate < math.inf, args, "adam_rate", "has to be positive and finite")
    _require(0 <= args.adam_decay < math.inf, args, "adam_decay", "has to be 0 or more, and finite")
    _require(0 <= args.clip_norm < math.inf, args, "clip_norm", "has to be 0 (no limit) or more, and finite")
    _require(0 < args.rho < math.inf, args, "rho", "has to be positive and finite")
    _require(0 < args.val_fraction < 1, args, "val_fraction", "has to lie between 0 and 1, both excluded; 0.1 is usual")
    if args.dataset == "imagefolder" and not args.image_size:
        raise UsageError("--dataset imagefolder needs --image-size: its images have no size in common; 224 is usual")
    if is_text(args.dataset) != (args.model in FOR_TEXT):
        kind, other = ("text", "images") if is_text(args.dataset) else ("images", "text")
        raise UsageError(f"--dataset {args.dataset} is {kind}, --model {args.model} is for {other}: texts go with transformer")
    if args.pretrained and args.model not in NETWORKS:
        raise UsageError(f"--pretrained is for {', '.join(NETWORKS)}, not for --model {args.model}")
    _require(0 < args.crop_scale <= 1, args, "crop_scale", "has to lie in (0, 1]")
    _require(0 <= args.momentum_factor < 1, args, "momentum_factor", "has to lie in [0, 1)")
    _require(0 <= args.weight_decay < math.inf, args, "weight_decay", "has to be 0 or more, and finite")
    _require(0 <= args.dropout < 1, args, "dropout", "has to lie in [0, 1)")
    _require(0 <= args.label_smoothing < 1, args, "label_smoothing", "has to lie in [0, 1)")


def refuse_rates(args: CommonArgs, given: set[str], *others: str) -> None:
    """Refuse options of a rate, and others of the script's own, beside a line search, which has none. Raises UsageError."""
    for name in sorted(given & {"learning_rate", "adam_rate", *others}) if has_line_search(args.optimizer) else ():
        raise UsageError(
            f"--{name.replace('_', '-')} is for optimizers with a rate, and {args.optimizer} finds its steps by itself: "
            "leave one of them out"
        )


def refuse_averages(optimizers: Iterable[str], beside: str) -> None:
    """Refuse a schedule-free optimizer where its two places for the weights cannot be. Raises UsageError."""
    for name in sorted({name for name in optimizers if is_schedule_free(name)}):
        raise UsageError(
            f"{name} is judged by an average of its weights, which does not go together with {beside}: leave one of them out"
        )


def refuse_clipping(clip_norm: float, optimizers: Iterable[str]) -> None:
    """Refuse a bound on the gradient's norm where steps or rates follow from the gradient as it is. Raises UsageError."""
    for name in sorted(set(optimizers)) if clip_norm else ():
        if has_line_search(name) or lr_option(name) == "one":
            why = "bounds its steps by itself" if has_line_search(name) else "estimates its rate from the gradients as they are"
            raise UsageError(f"--clip-norm {clip_norm:g}: {name} {why}; give --clip-norm 0, or take another optimizer")


OTHERS = {
    "sgd": ("adam_rate", "adam_decay"),
    "adam": ("learning_rate", "momentum_factor", "weight_decay"),
    "one": ("learning_rate", "adam_rate", "momentum_factor", "weight_decay"),
}


def without_effect(optimizer: str) -> set[str]:
    """Options that one of OPTIMIZERS does not look at."""
    return {*OTHERS[lr_option(optimizer)], *(() if split_name(optimizer)[0] else ("rho",))}


def refuse_options_of_others(args: CommonArgs, given: set[str]) -> None:
    """Refuse options that the only weight optimizer of a run does not have. Raises UsageError."""
    for option in sorted(given & without_effect(args.optimizer)):
        raise UsageError(
            f"--{option.replace('_', '-')} is not an option of {args.optimizer}: leave it out, or take another optimizer"
        )


def _require(condition: bool, args: CommonArgs, name: str, what: str) -> None:
    if not condition:
        raise UsageError(f"--{name.replace('_', '-')} {getattr(args, name)} {what}")


def settle_batch(args: CommonArgs, given: set[str], ranks: int) -> int:
    """The global batch for this world: a preset's is rounded to a multiple of the ranks, an explicit one has to divide.

    The caller prints it where it differs. Raises UsageError naming the two nearest sizes that divide.
    """
    below = args.batch_size // ranks * ranks
    if below == args.batch_size:
        return below
    above = below + ranks
    if "batch_size" in given:
        nearest = f"{below} or {above}" if below else str(above)
        raise UsageError(f"--batch-size {args.batch_size} does not divide by {ranks} ranks; the nearest that do: {nearest}")
    return below if below and args.batch_size - below <= above - args.batch_size else above


def check_batches(args: CommonArgs, given: set[str]) -> None:
    """Refuse a batch of all workers beside one of each. Raises UsageError."""
    if {"batch_size", "worker_batch"} <= given:
        raise UsageError("--batch-size is of all workers together and --worker-batch of one: leave one of them out")


def settle_precision(wanted: str, device_type: str) -> str:
    """`float32` or `bfloat16`; auto takes bfloat16 where this process's processor or GPU computes in it natively."""
    if wanted != "auto":
        return wanted
    if device_type == "cuda":
        native = torch.cuda.is_bf16_supported()
    else:
        # Private names of torch 2.13; without them nothing is known of the processor and float32 is the safe answer.
        probes = (getattr(torch.cpu, n, bool) for n in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
        native = any(probe() for probe in probes)
    return "bfloat16" if native else "float32"
