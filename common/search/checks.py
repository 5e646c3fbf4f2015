"""Validate a search space before training: every variable is an option that has an effect, every combination works.

Ranges are checked at both ends, depths at every value.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from common.data.dataset import DataSet
from common.ecosphere.exchange import POLICIES
from common.ecosphere.species.moves import DAMPINGS, SPACES
from common.errors import UsageError
from common.models import MODELS, build_model, without
from common.optim.options import refuse_clipping, without_effect
from common.optim.registry import OPTIMIZERS, has_line_search, is_schedule_free
from common.options import flag
from common.search.objective import Trials
from common.search.space import Setting, Space, Value, Variable
from common.training.eoa import EoaArgs, check_sam_scope, check_search, check_space
from common.training.options import CommonArgs

SEARCHABLE = (  # options of a script that a space may name
    *("learning_rate", "momentum_factor", "weight_decay", "batch_size", "rounds", "optimizer", "adam_rate", "adam_decay"),
    *("label_smoothing", "clip_norm", "rho", "dropout", "width", "depth", "model"),
)
EOA_SEARCHABLE = {  # additional ones of an ecosphere, and their values
    "base_rate": ("best", "blend", "anneal"),
    "damping": tuple(DAMPINGS),
    "lr_space": SPACES,
    "exchange": POLICIES,
}
WORDS = {"optimizer": OPTIMIZERS, "model": tuple(MODELS), **EOA_SEARCHABLE}
RULES = ("optimizer", "clip_norm", *EOA_SEARCHABLE)  # options that may exclude each other
BUILT_BY = ("model", "depth", "width")
MOST_DEPTHS = 100


def check_searchable(space: Space, trials: Trials, given: set[str]) -> None:
    """Refuse variables that are no options of a trial or have no effect, values that cannot work alone or together, and given
    options without effect in any trial. given: names of the options that were given. Raises UsageError.
    """
    names = (*SEARCHABLE, *(EOA_SEARCHABLE if trials.kind == "eoa" else ()))
    for variable in space.variables:
        if variable.name not in names:
            raise UsageError(
                f"the search space has '{variable.name}', which is no option of a trial; there are {', '.join(names)}"
            )
        _check_values(variable, trials)
    for setting in space.corners(RULES, _ends):
        with _named(setting):
            _check_rules(trials, trials.options(setting))
    _check_use(space, trials, given)


def check_training(space: Space, trials: Trials, data: DataSet) -> None:
    """Refuse batches larger than the training set, and networks that cannot be built. Raises UsageError."""
    for setting in space.corners(("batch_size",), _ends):
        with _named(setting):
            trials.sizes(trials.options(setting), len(data.train))
    source = data.source
    for setting in space.corners(BUILT_BY, _built):
        args = trials.options(setting)
        with _named(setting), torch.device("meta"):  # shapes alone
            build_model(args.model, source.channels, source.classes, args.depth, args.width, image_size=data.train.size)


def _ends(variable: Variable) -> Sequence[Value]:
    """Test values of a variable: its choices, or the ends of its range."""
    return [variable.from_unit(0.0), variable.from_unit(1.0)] if variable.is_numeric else variable.choices


def _built(variable: Variable) -> Sequence[Value]:
    """Every depth, since some depths make no network; the ends of other variables, and of more than MOST_DEPTHS depths."""
    return variable.values if variable.name == "depth" and len(variable.values) <= MOST_DEPTHS else _ends(variable)


@contextmanager
def _named(setting: Setting) -> Iterator[None]:
    """Add the setting to the message of a UsageError."""
    try:
        yield
    except UsageError as error:
        values = ", ".join(f"{name} = {value}" for name, value in setting.items())
        raise UsageError(f"{error} (the search space has {values})" if values else str(error)) from None


def _check_values(variable: Variable, trials: Trials) -> None:
    """Check the test values of a variable one by one, by type, choices and the rules of the script."""
    name = variable.name
    default = getattr(trials.base, name, "")
    for value in _ends(variable):
        fits = isinstance(value, type(default)) or (isinstance(default, float) and isinstance(value, int))
        if not fits or value not in WORDS.get(name, (value,)):
            kinds = {float: "numbers", int: "integers", str: f"words out of {', '.join(WORDS.get(name, ()))}"}
            raise UsageError(f"the search space has {name} = {value}, but its values are {kinds[type(default)]}")
        with _named({name: value}):
            trials.options({name: value})


def _check_rules(trials: Trials, args: CommonArgs) -> None:
    """Check the combination of weight optimizers and rate rules."""
    specs = trials.specs(args)
    kinds = {s.optimizer for s in specs}
    searching = sorted(k for k in kinds if has_line_search(k))
    refuse_clipping(args.clip_norm, kinds)
    if isinstance(args, EoaArgs):
        check_sam_scope(args, specs)
        check_search(args, specs)
        check_space(args)
        return
    if searching:
        raise UsageError(
            f"{searching[0]} finds its steps by itself, and trials of --objective train have a rate: use SaLSA/SaLSA.py"
        )
    if trials.schedule != "constant" and any(is_schedule_free(k) for k in kinds):
        raise UsageError(
            f"--schedule {trials.schedule}: schedule-free optimizers want a constant rate; use --schedule constant"
        )


def _check_use(space: Space, trials: Trials, given: set[str]) -> None:
    """Check that every variable has an effect wherever it exists, and every given option in some trial."""
    for variable in space.variables:
        for setting in space.corners((variable.name, "optimizer", "model"), _ends):
            args = trials.options(setting)
            if variable.name in setting and variable.name in _unused(trials, args):
                raise UsageError(
                    f"the search space has '{variable.name}', which does nothing beside --optimizer {args.optimizer} and "
                    f"--model {args.model}: say `when` it exists, or leave it out"
                )
    kinds = [trials.options(setting) for setting in space.corners(("optimizer", "model"), _ends)]
    for name in sorted(given.intersection(*(_unused(trials, args) for args in kinds))):
        raise UsageError(f"{flag(name)} is looked at by no trial of this space: leave it out")


def _unused(trials: Trials, args: CommonArgs) -> set[str]:
    """Options without effect in a trial: those of other weight optimizers and other networks."""
    names = set.intersection(*(without_effect(s.optimizer) for s in trials.specs(args)))
    if isinstance(args, EoaArgs):
        names -= {"learning_rate"}  # rates move as multiples of it, with every optimizer
    return names.union(without(args.model))
