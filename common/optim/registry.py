"""Weight optimizers by name, for `--optimizer` and `--populations`."""

from common.optim.bases import BASES
from common.optim.sam import PERTURBATIONS

UNDER_SAM = [  # besides sgd, which sam and asam alone use
    name
    for name, base in BASES.items()
    if name != "sgd" and not (base.line_search or base.averages_iterates or base.lr_option == "one")
]
OPTIMIZERS = (*BASES, *PERTURBATIONS, *(f"{sharp}+{base}" for sharp in PERTURBATIONS for base in UNDER_SAM))


def split_name(name: str) -> tuple[str, str]:
    """(perturbation or '', base) of one of OPTIMIZERS, e.g. ('sam', 'adamw')."""
    sharp, _, base = name.rpartition("+")
    return (base, "sgd") if base in PERTURBATIONS else (sharp, base)


def lr_option(name: str) -> str:
    """Option with the base rate of one of OPTIMIZERS: `sgd` (--learning-rate), `adam` (--adam-rate), or `one` (fixed at 1)."""
    return BASES[split_name(name)[1]].lr_option


def has_line_search(name: str) -> bool:
    """Whether the step sizes of one of OPTIMIZERS come from a line search."""
    return BASES[split_name(name)[1]].line_search


def is_schedule_free(name: str) -> bool:
    """Whether one of OPTIMIZERS is evaluated at an average of its iterates."""
    return BASES[split_name(name)[1]].averages_iterates


def lr_scale(name: str, learning_rate: float, adam_rate: float, momentum: float) -> float:
    """Ratio of this optimizer's base rate to SGD's, `learning_rate`, the reference for all rates.

    1 / (1 - momentum) for a line search along SGD's momentum, which averages gradients where SGD sums them.
    """
    if lr_option(name) != "sgd":
        return (adam_rate if lr_option(name) == "adam" else 1.0) / learning_rate
    return 1 / (1 - momentum) if has_line_search(name) else 1.0
