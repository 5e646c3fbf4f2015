"""Profile `smoke`: every experiment at its smallest, on the digits; minutes on two cores, nothing to download."""

from experiments.registry import Experiment, Profile, Table

EOA, EOA100, VIT = "EOA-SAM/EOASAM.py", "EOA-SAM/EOASAM-cifar100.py", "EOA-ViT/EOAViT.py"
BASELINES, EASGD, PSOPS, SALSA, DHPO = (
    "baselines/Baselines.py",
    "EASGD/EASGD.py",
    "PSO-PS/PSOPS.py",
    "SaLSA/SaLSA.py",
    "DHPO/DHPO.py",
)
BARE = "--label-smoothing 0"  # training losses that mean the same
BARE_SGD, BARE_ADAM = f"{BARE} --optimizer sgd --weight-decay 0", f"{BARE} --adam-decay 0"
SHORT_TEXT = "--dataset topics --rounds 3 --round-steps 12"
STRATEGIES = {
    "grid": "grid",
    "random": "random",
    "evolution": "evolution (μ + μ)",
    "async-evolution": "asynchronous evolution",
    "tpe": "TPE (Optuna)",
}


def profile(name: str, ranks: int) -> Profile:
    """All tables. ranks: workers of an ecosphere."""
    return Profile(name, "smoke", 1, (ecosphere(ranks), vit(max(1, ranks // 2)), coupled(), step_sizes(), text(), search()))


def ecosphere(ranks: int) -> Table:
    """The ecosphere, and schedules that a user would pick instead. Half the ranks where a start of many takes the time."""
    half = max(1, ranks // 2)
    return Table(
        "ecosphere",
        "methods",
        "Ecosphere and schedules",
        (
            Experiment("eoa", "EOA", EOA, ranks=ranks),
            Experiment("foraging", "foraging", EOA, "--base-rate forage --learning-rate 0.001", half),
            Experiment("eoa-reference", "EOA with reference rules", EOA100, "--reference", half),
            Experiment("cosine", "cosine", BASELINES, "--method cosine"),
            Experiment("linear", "linear scaling", BASELINES, "--method linear", 2),
            Experiment("sqrt", "square-root scaling", BASELINES, "--method sqrt", 2),
            # at the batch of one of the two populations
            Experiment("replay", "replay of EOA's rates", BASELINES, "--batch-size 32", replays="eoa"),
        ),
    )


def vit(ranks: int) -> Table:
    """The ecosphere on a Vision Transformer."""
    return Table("vit", "methods", "Vision Transformer", (Experiment("vit", "EOA", VIT, "--rounds 8", ranks),))


def coupled() -> Table:
    """Weights coupled now and then: elastic averaging, local SGD, a swarm, workers that copy."""
    easgd = {"easgd": ("EASGD", 4), "aeasgd": ("AEASGD", 3), "eamsgd": ("EAMSGD", 3)}  # the last two: one rank is the server
    local = {"average": "periodic averaging", "diloco": "DiLoCo", "pbt": "population-based training"}
    return Table(
        "coupled",
        "methods",
        "Weights coupled now and then",
        (
            *(Experiment(m, label, EASGD, f"--method {m}", n) for m, (label, n) in easgd.items()),
            Experiment("msgd", "MSGD alone", EASGD, "--method msgd"),
            *(Experiment(m, label, BASELINES, f"--method {m}", 4) for m, label in local.items()),
            Experiment("psops", "PSO-PS (our reconstruction)", PSOPS, ranks=4),
        ),
    )


def step_sizes() -> Table:
    """Line searches beside rates, schedules and optimizers."""
    schedules = {"constant": "constant rate", "step": "step schedule", "onecycle": "one cycle"}
    optimizers = {
        "adamw": "cosine, Adam",
        "schedulefree-adamw": "constant rate, schedule-free Adam",
        "prodigy": "cosine, Prodigy",
    }
    return Table(
        "step-sizes",
        "steps",
        "Step sizes",
        (
            *(Experiment(f"{m}-sgd", f"{label}, SGD", BASELINES, f"--method {m} {BARE_SGD}") for m, label in schedules.items()),
            *(Experiment(o, label, BASELINES, f"--optimizer {o} {BARE_ADAM}") for o, label in optimizers.items()),
            Experiment("salsa", "SaLSA, Adam", SALSA, ranks=2),
            Experiment("salsa-sgd", "SaLSA, SGD", SALSA, "--direction sgd"),
            Experiment("sls", "Armijo line search (SLS), Adam", SALSA, "--plain"),
        ),
    )


def text() -> Table:
    """A line search on a small transformer."""
    return Table(
        "step-sizes-text",
        "steps",
        "Step sizes on text",
        (
            Experiment("adam-text", "cosine, Adam", BASELINES, f"{SHORT_TEXT} --optimizer adamw {BARE_ADAM}"),
            Experiment("salsa-text", "SaLSA, Adam", SALSA, SHORT_TEXT),
        ),
    )


def search() -> Table:
    """Hyper-parameter search by five strategies."""
    searches = (Experiment(f"search-{s}", label, DHPO, f"--strategy {s}", 2) for s, label in STRATEGIES.items())
    return Table("search", "search", "Hyper-parameter search", tuple(searches))
