"""Profile `cpu`: CIFAR-10 and CIFAR-100 at a size for two cores; about two days for three seeds of everything."""

from collections.abc import Iterator

from experiments.registry import Experiment, Profile, Table, Tune
from experiments.smoke import BASELINES, DHPO, EASGD, EOA, EOA100, PSOPS, SALSA, STRATEGIES, VIT

RATE, ADAM_RATE = "--learning-rate", "--adam-rate"
DATA = {"mnist": "MNIST", "cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "digits": "digits", "topics": "Python topics"}


def profile(name: str, ranks: int) -> Profile:
    """All tables. ranks: workers of an ecosphere."""
    return Profile(
        name,
        "cpu",
        1,
        (
            ecosphere("cifar10", EOA, ranks),
            ecosphere("cifar100", EOA100, ranks),
            Table("vit-cifar10", "methods", "ViT-4-96, CIFAR-10", (Experiment("vit-cifar10", "EOA", VIT, ranks=ranks),)),
            start_rates(ranks),
            elastic_periods(),
            local_images("mnist"),
            local_images("cifar10"),
            step_sizes("mnist"),
            step_sizes("cifar10", first_steps=True),
            step_sizes("topics"),
            Table("step-sizes-digits", "steps", "Step sizes, digits", first_steps=tuple(first_steps_of("digits"))),
            search("mnist"),
            search("cifar10"),
        ),
    )


def ecosphere(data: str, script: str, ranks: int) -> Table:
    """The ecosphere, and schedules that a user would pick instead."""

    def baseline(method: str, label: str, ranks: int, more: str = "", replays: str = "") -> Experiment:
        of = f" --dataset {data}" if data != "cifar10" or method != "cosine" else ""
        return Experiment(f"{method}-{data}", label, BASELINES, f"{more}{of}".strip(), ranks, replays=replays)

    return Table(
        f"ecosphere-{data}",
        "methods",
        f"Ecosphere and schedules, {DATA[data]}",
        (
            Experiment(f"eoa-{data}", "EOA", script, ranks=ranks),
            baseline("cosine", "cosine", 1, "--method cosine"),
            baseline("linear", "linear scaling", 2, "--method linear --batch-size 256"),
            baseline("sqrt", "square-root scaling", 2, "--method sqrt --batch-size 256"),
            baseline("replay", "replay of EOA's rates", 1, replays=f"eoa-{data}"),
        ),
    )


def start_rates(ranks: int) -> Table:
    """What a wrong base rate does to each method: a small network, part of the data."""
    small = "--depth 10 --train-images 20000 --rounds 12 --fitness-images 250 --optimizer sgd --precision float32"
    rows = []
    for rate in ("0.001", "0.01", "0.1", "1", "10"):
        for name, label, script, n, options in (
            ("foraging", "foraging", EOA, ranks, "--base-rate forage"),
            ("reference", "EOA with reference rules", EOA, ranks, "--reference"),
            ("cosine", "cosine", BASELINES, 1, "--method cosine --batch-size 256"),
            ("linear", "linear scaling", BASELINES, 1, "--method linear --batch-size 256"),
        ):
            rows.append(Experiment(f"{name}-{rate}", label, script, f"{small} {RATE} {rate} {options}", n, float(rate)))
    return Table("start-rates", "start", "What a wrong base rate costs, CIFAR-10", tuple(rows))


def elastic_periods() -> Table:
    """Elastic averaging by communication period, rates tuned; the average z is over 1000 steps whatever the period."""
    rows = []
    for tau in (1, 4, 16, 64):
        low = ("0.005", "0.0025") if tau >= 16 else ()
        for method, rates, options in (
            ("aeasgd", ("0.4", "0.2", "0.1"), ""),
            ("eamsgd", ("0.01", "0.005", "0.0025"), ""),
            ("downpour", ("0.1", "0.05", "0.02", "0.01", *low), ""),
            ("mvadownpour", ("0.1", "0.05", "0.02", "0.01", *low), f" --average-rate {tau / 1000:.3f}"),
        ):
            words = f"--method {method} --period {tau}{options}"
            rows.append(Experiment(f"{method}-tau{tau}", method.upper(), EASGD, words, 5, tau, Tune(RATE, rates)))
    return Table("elastic-periods", "periods", "Communication periods, CIFAR-10", tuple(rows))


def local_images(data: str) -> Table:
    """A swarm of weights, and what a user would pick instead, by period; each worker keeps to its own images, rates tuned."""
    network, rates, higher, lower = "--model easgd-cnn --width 4", ("0.8", "0.4", "0.2", "0.1"), (), ()
    if data == "cifar10":  # batch norm: without it so short a training comes to nothing
        network, rates, higher, lower = "--model cnn --width 2", ("1.6", "0.8", "0.4", "0.2", "0.1"), ("3.2",), ("0.05",)
    own = (
        f"--dataset {data} {network} --crop 28 --pixels normalised --train-images 10000 --rounds 8 --worker-batch 32 "
        "--fitness-images 500 --optimizer sgd --momentum-factor 0 --weight-decay 1e-4 --label-smoothing 0 --shards own"
    )

    def tuned(name: str, label: str, script: str, rates: tuple[str, ...], options: str, at: float | None) -> Experiment:
        return Experiment(name, label, script, f"{options} {own}".strip(), 4, at, Tune(RATE, rates))

    def rows() -> Iterator[Experiment]:
        swarm = "PSO-PS (our reconstruction)"
        yield tuned(f"sync-{data}", "synchronous SGD", BASELINES, (*higher, *rates), "--method sync", 1)
        yield tuned(f"independent-{data}", "independent SGD", BASELINES, rates, "--method independent", None)
        for tau in (1, 5, 20, 100):
            every = f"--period {tau}"
            average = f"--method average {every}"
            yield tuned(f"average-{data}-tau{tau}", "periodic averaging", BASELINES, rates, average, tau)
            yield tuned(f"easgd-{data}-tau{tau}", "EASGD", EASGD, rates, f"--method easgd {every}", tau)
            yield tuned(f"hull-{data}-tau{tau}", f"{swarm}, hull", PSOPS, (*rates, *lower), every, tau)
        for name in ("clerc", "shi", "oz"):
            words = f"--period 20 --swarm {name}"
            yield tuned(f"{name}-{data}-tau20", f"{swarm}, {name}", PSOPS, (*rates, *lower), words, 20)

    title = f"Communication periods, {DATA[data]}, workers with images of their own"
    return Table(f"local-images-{data}", "periods", title, tuple(rows()))


SMALL = {  # data and network of the comparisons of step sizes
    "digits": "--model cnn --width 2 --batch-size 64 --rounds 12",
    "mnist": "--model cnn --width 2 --batch-size 128 --train-images 10000 --rounds 8",
    "cifar10": "--model cnn --width 2 --batch-size 128 --train-images 10000 --rounds 12",
    "topics": "--depth 2 --width 2 --batch-size 16 --rounds 4",
}
RATES = {
    "mnist": ("0.003 0.01 0.03 0.1 0.3 1 3", "0.0003 0.001 0.003 0.01 0.03 0.1 0.3"),
    "cifar10": ("0.01 0.03 0.1 0.3 1 3", "0.001 0.003 0.01 0.03 0.1 0.3"),
    "topics": ("0.01 0.03 0.1 0.3 1", "0.0003 0.001 0.003 0.01 0.03"),
}
SCHEDULES = {"constant": "constant rate", "cosine": "cosine", "step": "step schedule", "onecycle": "one cycle"}
DIRECTIONS = {"adam": "Adam", "sgd": "SGD"}
SGD, ADAM = "--optimizer sgd --weight-decay 0", "--optimizer adamw --adam-decay 0"


def small(data: str) -> str:
    """What all runs of a comparison of step sizes share."""
    return f"--dataset {data} --precision float32 {SMALL[data]}"


def step_sizes(data: str, first_steps: bool = False) -> Table:
    """Line searches that are not tuned; and rates, schedules and optimizers at the best of five to seven rates."""
    sgd_rates, adam_rates = (Tune(o, tuple(r.split())) for o, r in zip((RATE, ADAM_RATE), RATES[data], strict=True))
    bare = f"{small(data)} --label-smoothing 0"  # losses without smoothing or decay

    def baseline(name: str, label: str, options: str, tune: Tune | None = None) -> Experiment:
        return Experiment(f"{name}-{data}", label, BASELINES, f"{bare} {options}", tune=tune)

    def rows() -> Iterator[Experiment]:
        for method, label in SCHEDULES.items():
            yield baseline(f"{method}-sgd", f"{label}, SGD", f"--method {method} {SGD}", sgd_rates)
            if method in ("constant", "cosine"):
                yield baseline(f"{method}-adam", f"{label}, Adam", f"--method {method} {ADAM}", adam_rates)
                prodigy = f"--method {method} --optimizer prodigy --adam-decay 0"
                yield baseline(f"{method}-prodigy", f"{label}, Prodigy", prodigy)
        free = "--optimizer schedulefree-"
        free_rates = Tune(RATE, ("0.03", "0.1", "0.3", "1", "3"))
        yield baseline("schedulefree-sgd", "schedule-free SGD", f"{free}sgd --weight-decay 0", free_rates)
        yield baseline("schedulefree-adam", "schedule-free Adam", f"{free}adamw --adam-decay 0", adam_rates)
        for direction, along in DIRECTIONS.items():
            words = f"--direction {direction}"
            yield Experiment(f"salsa-{direction}-{data}", f"SaLSA, {along}", SALSA, f"{words} {small(data)}")
            sls = f"{words} --plain {small(data)}"
            yield Experiment(f"sls-{direction}-{data}", f"Armijo line search (SLS), {along}", SALSA, sls)

    swept = tuple(first_steps_of(data)) if first_steps else ()
    return Table(f"step-sizes-{data}", "steps", f"Step sizes, {DATA[data]}", tuple(rows()), swept)


def first_steps_of(data: str) -> Iterator[Experiment]:
    """The first step of a line search from 1e-4 to 10, and the same as a rate."""
    bare = f"{small(data)} --label-smoothing 0 --method constant"
    for x in ("0.0001", "0.001", "0.01", "0.1", "1", "10"):
        for direction, along in DIRECTIONS.items():
            usual = x == "0.1"  # the run of the table above
            name = f"salsa-{direction}-{data}" + ("" if usual else f"-first-{x}")
            words = f"--direction {direction} {small(data)}" + ("" if usual else f" --eta0 {x}")
            yield Experiment(name, f"SaLSA, {along}", SALSA, words, at=float(x))
        for name, along, rate, words in (("sgd", "SGD", RATE, SGD), ("adam", "Adam", ADAM_RATE, ADAM)):
            options = f"{bare} {words} {rate} {x}"
            yield Experiment(f"constant-{name}-{data}-{x}", f"constant rate, {along}", BASELINES, options, at=float(x))


def search(data: str) -> Table:
    """64 trials by each strategy; two ranks need no longer lag than 4."""
    mnist = (
        " --dataset mnist --space mnist --model dhpo-cnn --width 1 --crop 28 --rounds 1 --train-images 0 --schedule constant "
        "--label-smoothing 0 --weight-decay 0"
    )

    def rows() -> Iterator[Experiment]:
        for strategy, label in STRATEGIES.items():
            lag = " --lag 4" if strategy in ("async-evolution", "tpe") else ""
            words = f"--strategy {strategy}{lag}{mnist if data == 'mnist' else ''}"
            yield Experiment(f"search-{data}-{strategy}", label, DHPO, words, 2, seeds=3)

    return Table(f"search-{data}", "search", f"Hyper-parameter search, {DATA[data]}", tuple(rows()))
