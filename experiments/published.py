"""Profiles `gpu` and `paper`: the published setting."""

from experiments.registry import Experiment, Profile, Table
from experiments.smoke import BASELINES, DHPO, EOA, EOA100, STRATEGIES

SCHEDULES = {"cosine": "cosine", "linear": "linear scaling", "sqrt": "square-root scaling"}
DATA = {"cifar10": ("CIFAR-10", EOA), "cifar100": ("CIFAR-100", EOA100)}


def profile(name: str, ranks: int) -> Profile:
    """gpu: one seed. paper: five seeds, the reference scripts' rules and the searches of DHPO as well."""
    paper = name == "paper"
    tables = (*(ecosphere(data, ranks, paper) for data in DATA), *([search()] if paper else []))
    return Profile(name, "paper", 5 if paper else 1, tables)


def ecosphere(data: str, ranks: int, with_reference: bool) -> Table:
    """The ecosphere and synchronous training on the same ranks."""
    title, script = DATA[data]
    reference = Experiment(f"eoa-reference-{data}", "EOA with reference rules", script, "--reference", ranks)
    return Table(
        f"ecosphere-{data}",
        "methods",
        f"Ecosphere and schedules, {title}",
        (
            Experiment(f"eoa-{data}", "EOA", script, ranks=ranks),
            *([reference] if with_reference else []),
            *(
                Experiment(f"{m}-{data}", label, BASELINES, f"--method {m} --dataset {data}", ranks)
                for m, label in SCHEDULES.items()
            ),
        ),
    )


def search() -> Table:
    """MNIST, as published but for the test set."""
    searches = (Experiment(f"search-{s}", label, DHPO, f"--strategy {s}", 4, seeds=3) for s, label in STRATEGIES.items())
    return Table("search", "search", "Hyper-parameter search, MNIST", tuple(searches))
