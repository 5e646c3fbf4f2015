"""What methods, data sets and species are called in tables and figures, and in which order methods come."""

ECOSPHERE = {  # methods as tables and figures name them, in their order; others follow under their own name
    "eoa": "EOA",
    "eoa-reference": "EOA with reference rules",
    "foraging": "foraging",
    "cosine": "cosine",
    "linear": "linear scaling",
    "sqrt": "square-root scaling",
    "replay": "replay of EOA's rates",
}
SCHEDULES = {
    "constant": "constant rate",
    "step": "step schedule",
    "onecycle": "one cycle",
}
SEARCHES = {  # steps found by a line search
    "salsa": "SaLSA",
    "salsa-released": "SaLSA, released class",
    "sls": "Armijo search (SLS)",
}
ELASTIC = {  # a group of their own in figures, with what they are compared to
    "easgd": "EASGD",
    "easgd-gs": "EASGD, Gauss-Seidel",
    "aeasgd": "AEASGD",
    "eamsgd": "EAMSGD",
    "downpour": "DOWNPOUR",
    "mdownpour": "MDOWNPOUR",
    "adownpour": "ADOWNPOUR",
    "mvadownpour": "MVADOWNPOUR",
    "admm": "ADMM",
    "sgd": "SGD alone",
    "msgd": "MSGD alone",
    "asgd": "ASGD alone",
    "mvasgd": "MVASGD alone",
    "sync": "synchronous SGD",
    "average": "periodic averaging",
    "post-local": "post-local SGD",
    "diloco": "DiLoCo",
    "independent": "independent SGD",
    "pbt": "population-based training",
    "PSO-PS (our reconstruction)": "PSO-PS (our reconstruction)",  # never without these words
}
METHODS = {**ECOSPHERE, **SCHEDULES, **SEARCHES, **ELASTIC}
DATASETS = {  # as they call themselves; others under their own name
    "digits": "digits",
    "mnist": "MNIST",
    "fashion-mnist": "Fashion-MNIST",
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "topics": "Python topics",
}
SPECIES = {  # as figures spell them out; others under their own name
    "gwo": "grey wolves (gwo)",
    "woa": "whales (woa)",
    "pso": "particles (pso)",
    "de": "differential evolution (de)",
}
STEPPING = ("cosine", *SCHEDULES, *SEARCHES)  # methods of a single worker that differ in their steps alone
OPTIMIZERS = {  # where steps are compared: what they are called (a line search by what it goes along), their rate and decay
    "sgd": ("SGD", "learning_rate", "weight_decay"),
    "adamw": ("Adam", "adam_rate", "adam_decay"),
    "salsa": ("Adam", "eta0", "adam_decay"),
    "salsa-sgd": ("SGD", "eta0", "weight_decay"),
    "schedulefree-sgd": ("schedule-free SGD", "learning_rate", "weight_decay"),
    "schedulefree-adamw": ("schedule-free Adam", "adam_rate", "adam_decay"),
    "prodigy": ("Prodigy", "", "adam_decay"),
}
SWARMS = ("hull", "clerc", "shi", "oz")  # coefficients of a swarm, the default ones first
