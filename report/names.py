"""What data sets and species are called in tables and figures; methods: the labels of the registry."""

DATASETS = {  # others under their own name
    "digits": "digits",
    "mnist": "MNIST",
    "fashion-mnist": "Fashion-MNIST",
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "topics": "Python topics",
}
SPECIES = {
    "gwo": "grey wolves (gwo)",
    "woa": "whales (woa)",
    "pso": "particles (pso)",
    "de": "differential evolution (de)",
}
LINE_SEARCHES = ("salsa", "salsa-released", "sls")  # methods
