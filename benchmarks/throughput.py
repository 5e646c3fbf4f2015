"""Images per second of a training step, compared with two references measured in the same run, in turn.

    step       this project's training step: augmentation, ASAM, averaging, update
    ceiling    forward and backward alone, same network, precision and batch, data already in place; the images per second
               of a two-pass optimizer can be at most half of it, which is shown
    ordinary   a usual script: one process, all cores, DataLoader with per-image torchvision transforms (best of 0, 1 and 2
               loader workers), float32, per-tensor ASAM

    python benchmarks/throughput.py                                               # one process, all cores
    mpirun --oversubscribe --bind-to none -np 8 python benchmarks/throughput.py   # that, and all ranks with a share of cores

Every measurement is taken `--repeats` times, interleaved with the others; medians and ratios of medians are written to
results/benchmarks/. Random images of CIFAR's shape: nothing is downloaded.
"""

import json
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from common.data.augment import Augmenter
from common.data.dataset import DataSet, ImageDataset
from common.data.registry import SOURCES
from common.ecosphere.rates import EcosphereRates
from common.evaluate import autocast
from common.models import build_model, model_title
from common.models.flat import FlatModel, share_model
from common.optim.bases import OptimizerSettings
from common.options import PathText, read_options
from common.parallel import launch, machine
from common.parallel.populations import parse_populations
from common.parallel.topology import Topology, build_topology, world_size
from common.training.loop import Plan, train_round
from common.training.options import resolve_precision
from common.training.provenance import environment
from common.training.worker import Worker, build_worker
from common.vision import import_torchvision

RHO = 0.5


@dataclass(frozen=True)
class Args:
    """What is measured."""

    depth: int = 16
    """depth of the Wide ResNet"""
    width: int = 1
    """width of the Wide ResNet"""
    batch_size: int = 128
    """images per step in one process"""
    world_batch_size: int = 256
    """images per step of all ranks together"""
    steps: int = 10
    """steps per measurement"""
    repeats: int = 5
    """measurements of each kind"""
    out: PathText = "results/benchmarks"
    """folder for throughput.json and throughput.md"""


def main() -> None:
    """Measure, print the table, write it on rank 0."""
    args = read_options(Args, __doc__)
    ranks = world_size()
    specs = parse_populations("gwo,woa" if ranks > 1 else "gwo", ranks, "asam", ("gwo", "woa"), ("asam",))
    topology = build_topology(specs)
    data = random_images(args, topology)
    alone = topology.world.rank == 0
    kinds = one_process(args, topology, data) if alone else {}
    together = all_ranks(args, topology, data) if ranks > 1 else None
    rates: dict[str, list[float]] = {}
    for repeat in range(-1, args.repeats):  # the first, unrecorded, is a warm-up
        for name, measure in kinds.items():
            torch.set_num_threads(machine.available_cores())
            images = measure()
            rates.setdefault(name, []).extend([images] if repeat >= 0 else [])
        torch.set_num_threads(topology.threads)
        topology.world.sleeping_barrier(0.02)  # ranks that wait while rank 0 measures alone must not use its cores
        if together:
            images = together()
            rates.setdefault(f"step, {ranks} ranks", []).extend([images] if repeat >= 0 else [])
        launch.say(f"measured {repeat + 1} of {args.repeats}")
    if alone:
        report(args, topology, {name: statistics.median(values) for name, values in rates.items()}, rates)


def random_images(args: Args, topology: Topology) -> DataSet:
    """Random pixels in CIFAR-10's shape, enough for the steps of one measurement; one object serves as every split."""
    generator = torch.Generator().manual_seed(0)
    n = max(args.batch_size, args.world_batch_size) * args.steps
    images = torch.randint(256, (n, 32, 32, 3), dtype=torch.uint8, generator=generator).to(topology.device)
    labels = torch.randint(10, (n,), generator=generator).to(topology.device)
    pictures = ImageDataset(Augmenter(images, SOURCES["cifar10"]), labels)
    return DataSet(SOURCES["cifar10"], pictures, pictures, pictures, pictures)


def one_process(args: Args, topology: Topology, data: DataSet) -> dict[str, Callable[[], float]]:
    """Measurements of rank 0 alone, with all cores: name to a function that returns images per second."""
    precision = resolve_precision("auto", topology.device.type)
    loaders = {w: loader(args, data, w) for w in (0, 1, 2)}
    return {
        "ceiling, one process": ceiling(args, topology.device, precision),
        "step, one process": lone_step(args, topology, data, precision),
        **{f"ordinary loop, {w} loader workers": ordinary(args, topology.device, loaders[w]) for w in loaders},
    }


def build(args: Args, device: torch.device) -> nn.Module:
    """The network of every measurement."""
    return build_model("wrn", 3, 10, args.depth, args.width).to(device)


def clock(images: int, device: torch.device, work: Callable[[], object]) -> float:
    """Images per second of one piece of work."""
    began = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return images / (time.perf_counter() - began)


def ceiling(args: Args, device: torch.device, precision: str) -> Callable[[], float]:
    """Forward and backward alone on one batch; halved, for two passes per image."""
    model = FlatModel(build(args, device))
    batch = torch.randn(args.batch_size, 32, 32, 3, device=device).permute(0, 3, 1, 2)
    labels = torch.randint(10, (args.batch_size,), device=device)

    def work() -> None:
        for _ in range(2 * args.steps):
            model.zero_gradient()
            with autocast(device, precision):
                logits = model.module(batch).float()
            F.cross_entropy(logits, labels, label_smoothing=0.1).backward()

    return lambda: clock(args.steps * args.batch_size, device, work)


def lone_step(args: Args, topology: Topology, data: DataSet, precision: str) -> Callable[[], float]:
    """The project's training round in a world of one (rank 0's own communicator)."""
    alone = topology.alone()
    member = member_of(args, alone, args.batch_size)
    plan = Plan(args.batch_size, args.steps, 0.1, precision)

    def work() -> None:
        train_round(member, data.batches(0, 0, args.batch_size, 0, 1, args.steps), seed=0, t=0, plan=plan)

    return lambda: clock(args.steps * args.batch_size, topology.device, work)


def all_ranks(args: Args, topology: Topology, data: DataSet) -> Callable[[], float]:
    """The project's training round on all ranks, two populations."""
    member = member_of(args, topology, args.world_batch_size)
    plan = Plan(args.world_batch_size, args.steps, 0.1, resolve_precision("auto", topology.device.type))

    def measure() -> float:
        def work() -> None:
            batches = data.batches(0, 0, args.world_batch_size, topology.world.rank, topology.world.size, args.steps)
            train_round(member, batches, seed=0, t=0, plan=plan)
            topology.world.barrier()

        return clock(args.steps * args.world_batch_size, topology.device, work)

    return measure


def member_of(args: Args, topology: Topology, batch_size: int) -> Worker:
    """A worker with a fresh network."""
    behind = [batch_size * s.workers / topology.world.size for s in topology.specs]
    rates = EcosphereRates(topology.specs, 0.1, 10, behind, 0)
    return build_worker(
        topology, share_model(build(args, topology.device), topology.world), rates, OptimizerSettings("asam", rho=RHO)
    )


class OrdinaryImages(Dataset):
    """One image at a time, through torchvision's transforms, as in most published scripts."""

    def __init__(self, data: DataSet) -> None:
        transforms = import_torchvision().transforms
        self.images = data.train.augmenter.images.cpu().numpy()
        self.labels = data.train.labels.cpu()
        source = data.source
        self.transform = transforms.Compose(
            [
                transforms.ToPILImage(),
                transforms.RandomCrop(32, padding=source.pad),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(source.mean, source.std),
            ]
        )
        self.cutout = source.cutout

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        image = self.transform(self.images[i])
        if torch.rand(()) < 0.5:
            top, left = (torch.randint(-self.cutout // 2, 32 - self.cutout // 2, (2,))).tolist()
            image[:, max(0, top) : top + self.cutout, max(0, left) : left + self.cutout] = 0
        return image, self.labels[i]


def loader(args: Args, data: DataSet, workers: int) -> Iterator[list[Tensor]]:
    """Endless batches of an ordinary DataLoader."""
    # Forked: a fresh interpreter would import this module and with it start MPI a second time. The workers never call it.
    options = {"multiprocessing_context": "fork", "persistent_workers": True} if workers else {}
    batches = DataLoader(OrdinaryImages(data), args.batch_size, shuffle=True, num_workers=workers, drop_last=True, **options)
    while True:
        yield from batches


def ordinary(args: Args, device: torch.device, batches: Iterator[list[Tensor]]) -> Callable[[], float]:
    """The ordinary loop: float32, plain layout, ASAM and SGD tensor by tensor."""
    module = build(args, device)
    parameters = list(module.parameters())
    optimizer = torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=5e-4)

    def backward(images: Tensor, labels: Tensor) -> None:
        optimizer.zero_grad()
        F.cross_entropy(module(images), labels, label_smoothing=0.1).backward()

    def work() -> None:
        for _ in range(args.steps):
            images, labels = (t.to(device) for t in next(batches))
            backward(images, labels)
            with torch.no_grad():
                norm = torch.stack([(p.abs() * p.grad).norm() for p in parameters]).norm() + 1e-12
                before = [p.clone() for p in parameters]
                for p in parameters:
                    p.add_(RHO * p.square() * p.grad / norm)
            backward(images, labels)
            with torch.no_grad():
                for p, old in zip(parameters, before, strict=True):
                    p.copy_(old)
            optimizer.step()

    return lambda: clock(args.steps * args.batch_size, device, work)


def report(args: Args, topology: Topology, medians: dict[str, float], rates: dict[str, list[float]]) -> None:
    """Print and write the table."""
    top = medians["ceiling, one process"]
    loop = max(value for name, value in medians.items() if name.startswith("ordinary"))
    ranks, precision = topology.world.size, resolve_precision("auto", topology.device.type)
    prefix = f"mpirun --oversubscribe --bind-to none -np {ranks} " if ranks > 1 else ""
    lines = [
        f"{model_title('wrn', args.depth, args.width)} with ASAM, batch {args.batch_size} in one process, "
        f"{args.world_batch_size} over all ranks; {machine.available_cores()} cores; median of {args.repeats}, interleaved.",
        "",
        "| measured | images/s | of the ceiling | against the ordinary loop |",
        "| --- | --- | --- | --- |",
        *(f"| {name} | {value:.0f} | {100 * value / top:.0f} % | {value / loop:.2f} x |" for name, value in medians.items()),
        "",
        f"Step and ceiling in {precision}, the ordinary loop in float32 as usual. ASAM makes two passes, so the "
        "ceiling is half of the images per second that forward and backward reach.",
        "",
        f"Made by `{prefix}python benchmarks/throughput.py`.",
    ]
    print("\n".join(lines))
    folder = Path(args.out)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "throughput.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    record = {"arguments": vars(args), "medians": medians, "all": rates, "environment": environment(topology)}
    (folder / "throughput.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    launch.run(main)
