"""Which spaces training can search: options that have an effect, values and combinations that work."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from common.errors import UsageError
from common.search.checks import check_searchable, check_training
from common.search.objective import Trials
from common.search.space import Space
from common.training.options import CommonArgs

BASE = CommonArgs(dataset="digits", model="cnn", optimizer="sgd")
RATE = {"kind": "float", "low": 0.001, "high": 1.0, "scale": "log"}
DEPTH = {"kind": "int", "low": 10, "high": 16}
SHARE = {"kind": "float", "low": 0.1, "high": 0.5}


def choice(*choices, **fields):
    return {"kind": "categorical", "choices": list(choices), **fields}


def check(space, given=(), **trials):
    check_searchable(Space.of(space), Trials(**{"base": BASE, **trials}), set(given))


@pytest.mark.parametrize(
    ("name", "fields", "said"),
    [
        ("gamma", {"kind": "float", "low": 0.1, "high": 1.0}, "no option of a trial"),
        ("damping", choice("none"), "no option of a trial"),
        ("momentum_factor", {"kind": "float", "low": 0.1, "high": 1.0}, "--momentum-factor 1.0"),
        ("width", {"kind": "float", "low": 1.0, "high": 2.0}, "integers"),
        ("optimizer", choice("sgd", "adagrad"), "adagrad"),
        ("batch_size", {"kind": "int", "low": 0, "high": 8}, "--batch-size 0"),
        ("optimizer", choice("sgd", "salsa"), "salsa finds its steps by itself"),
        ("optimizer", choice("sgd", "schedulefree-sgd"), "--schedule cosine"),
    ],
)
def test_values_that_are_none_of_a_trial_are_refused(name, fields, said):
    with pytest.raises(UsageError, match=said):
        check({name: fields})


@pytest.mark.parametrize(
    ("space", "said"),
    [
        ({"adam_rate": RATE}, "'adam_rate', which does nothing beside --optimizer sgd"),
        ({"rho": SHARE}, "'rho', which does nothing beside --optimizer sgd"),
        ({"depth": DEPTH}, "'depth', which does nothing beside --optimizer sgd and --model cnn"),
        ({"dropout": SHARE}, "'dropout'"),
        (
            {"optimizer": choice("sgd", "adamw"), "learning_rate": RATE},
            "'learning_rate', which does nothing beside --optimizer adamw",
        ),
        ({"optimizer": choice("sgd", "sam"), "rho": SHARE}, "'rho', which does nothing beside --optimizer sgd"),
        ({"model": choice("cnn", "wrn"), "depth": choice(10, 16)}, "beside --optimizer sgd and --model cnn"),
    ],
)
def test_variables_without_effect_are_refused(space, said):
    with pytest.raises(UsageError) as error:
        check(space)
    assert said in str(error.value)


def test_a_bound_on_the_gradient_is_refused_beside_an_optimizer_that_estimates_its_rate():
    optimizer = "prodigy"
    clip = {"kind": "float", "low": 0.5, "high": 2.0}
    for space, options in (
        ({"optimizer": choice("sgd", optimizer), "clip_norm": clip}, {}),
        ({"adam_decay": SHARE}, {"base": replace(BASE, optimizer=optimizer, clip_norm=1.0)}),
    ):
        with pytest.raises(UsageError, match=r"--clip-norm .*: prodigy estimates its rate"):
            check(space, **options)
    eoa = {"kind": "eoa", "populations": f"gwo:1:sgd,woa:1:{optimizer}", "ranks": 2}
    with pytest.raises(UsageError, match="estimates its rate"):
        check({"clip_norm": clip}, **eoa)
    check({"optimizer": choice("sgd", optimizer), "clip_norm": {**clip, "when": {"optimizer": "sgd"}}})


def test_conditions_say_where_a_variable_has_an_effect():
    check({"optimizer": choice("sgd", "asam"), "rho": {**SHARE, "when": {"optimizer": "asam"}}})
    check({"model": choice("cnn", "wrn"), "depth": {**choice(10, 16), "when": {"model": "wrn"}}})
    optimizer = {"optimizer": choice("sgd", "adamw")}
    batch = {**choice(16, 32), "when": {"optimizer": "adamw"}}  # the rate exists only where the batch does: beside adamw
    check({**optimizer, "batch_size": batch, "adam_rate": {**RATE, "when": {"batch_size": [16, 32]}}})
    with pytest.raises(UsageError, match="'learning_rate'"):
        check({**optimizer, "batch_size": batch, "learning_rate": {**RATE, "when": {"batch_size": 16}}})


def test_options_that_no_trial_looks_at_are_refused():
    check({"learning_rate": RATE}, given={"momentum_factor", "rounds", "train_images"})
    check({"optimizer": choice("sgd", "adamw")}, given={"adam_rate"})
    for name in ("adam_rate", "rho"):
        with pytest.raises(UsageError, match=f"--{name.replace('_', '-')} is looked at by no trial"):
            check({"learning_rate": RATE}, given={name})


def test_rules_of_an_ecosphere_are_searchable_in_one_and_have_to_go_together():
    ecosphere = {"kind": "eoa", "ranks": 2}
    check({"damping": choice("none", "fixed"), "learning_rate": RATE}, **ecosphere)
    with pytest.raises(UsageError, match="--lr-space log needs --damping"):
        check({"damping": choice("none", "fixed"), "lr_space": choice("linear", "log")}, **ecosphere)
    check({"lr_space": choice("linear", "log"), "damping": choice("none", "fixed", when={"lr_space": "linear"})}, **ecosphere)


def test_a_variable_that_one_of_the_populations_looks_at_has_an_effect():
    check({"rho": SHARE}, kind="eoa", ranks=2, populations="gwo:1:sgd,woa:1:asam")
    with pytest.raises(UsageError, match="'rho'"):
        check({"rho": SHARE}, kind="eoa", ranks=2, populations="gwo:1:sgd,woa:1:adamw")


class Images(list):
    """A number of images of 28 x 28 pixels, which are not read."""

    size = 28


class TestTraining:
    def check(self, space, **options):
        data = SimpleNamespace(train=Images(range(1500)), source=SimpleNamespace(channels=1, classes=10))
        check_training(Space.of(space), Trials(replace(BASE, **options)), data)

    def test_batches_have_to_be_filled(self):
        self.check({"batch_size": choice(16, 128)})
        with pytest.raises(UsageError, match=r"a batch of 4096 .*the search space has batch_size = 4096"):
            self.check({"batch_size": {"kind": "int", "low": 16, "high": 4096}})

    def test_long_ranges_are_checked_at_their_ends(self):
        self.check({"width": {"kind": "int", "low": 1, "high": 3000}})
        self.check({"depth": {"kind": "int", "low": 10, "high": 10 + 6 * 40}}, model="wrn")

    def test_every_depth_has_to_be_one(self):
        self.check({"depth": choice(10, 16)}, model="wrn")
        with pytest.raises(UsageError, match="not 11"):
            self.check({"depth": DEPTH}, model="wrn")
        with pytest.raises(UsageError, match="not 12"):
            self.check({"model": choice("cnn", "wrn"), "depth": {**choice(10, 12), "when": {"model": "wrn"}}})
