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


CLIP = {"kind": "float", "low": 0.5, "high": 2.0}
EOA = {"kind": "eoa", "ranks": 2}


def choice(*choices, **fields):
    return {"kind": "categorical", "choices": list(choices), **fields}


def check(space, given=(), **trials):
    check_searchable(Space.of(space), Trials(**{"base": BASE, **trials}), set(given))


OPTIMIZER = {"optimizer": choice("sgd", "adamw")}
BATCH = {"batch_size": choice(16, 32, when={"optimizer": "adamw"})}  # a rate exists only where the batch does: beside adamw
SPACES = {"lr_space": choice("linear", "log")}


@pytest.mark.parametrize(
    ("space", "options", "said"),
    [
        # Values that are none of a trial.
        ({"gamma": {"kind": "float", "low": 0.1, "high": 1.0}}, {}, "no option of a trial"),
        ({"damping": choice("none")}, {}, "no option of a trial"),
        ({"momentum_factor": {"kind": "float", "low": 0.1, "high": 1.0}}, {}, "--momentum-factor 1.0"),
        ({"width": {"kind": "float", "low": 1.0, "high": 2.0}}, {}, "integers"),
        ({"optimizer": choice("sgd", "adagrad")}, {}, "adagrad"),
        ({"batch_size": {"kind": "int", "low": 0, "high": 8}}, {}, "--batch-size 0"),
        ({"optimizer": choice("sgd", "salsa")}, {}, "salsa finds its steps by itself"),
        ({"optimizer": choice("sgd", "schedulefree-sgd")}, {}, "--schedule cosine"),
        # Variables without effect.
        ({"adam_rate": RATE}, {}, "'adam_rate', which does nothing beside --optimizer sgd"),
        ({"rho": SHARE}, {}, "'rho', which does nothing beside --optimizer sgd"),
        ({"depth": DEPTH}, {}, "'depth', which does nothing beside --optimizer sgd and --model cnn"),
        ({"dropout": SHARE}, {}, "'dropout'"),
        (OPTIMIZER | {"learning_rate": RATE}, {}, "'learning_rate', which does nothing beside --optimizer adamw"),
        ({"optimizer": choice("sgd", "sam"), "rho": SHARE}, {}, "'rho', which does nothing beside --optimizer sgd"),
        ({"model": choice("cnn", "wrn"), "depth": choice(10, 16)}, {}, "beside --optimizer sgd and --model cnn"),
        (OPTIMIZER | BATCH | {"learning_rate": {**RATE, "when": {"batch_size": 16}}}, {}, "'learning_rate'"),
        ({"rho": SHARE}, {**EOA, "populations": "gwo:1:sgd,woa:1:adamw"}, "'rho'"),
        # A bound on the gradient beside an optimizer that estimates its rate.
        ({"optimizer": choice("sgd", "prodigy"), "clip_norm": CLIP}, {}, r"--clip-norm .*: prodigy estimates its rate"),
        (
            {"adam_decay": SHARE},
            {"base": replace(BASE, optimizer="prodigy", clip_norm=1.0)},
            r"--clip-norm .*: prodigy estimates its rate",
        ),
        ({"clip_norm": CLIP}, {**EOA, "populations": "gwo:1:sgd,woa:1:prodigy"}, "estimates its rate"),
        # Rules of an ecosphere that do not go together.
        (SPACES | {"damping": choice("none", "fixed")}, EOA, "--lr-space log needs --damping"),
        # Options that no trial looks at.
        ({"learning_rate": RATE}, {"given": {"adam_rate"}}, "--adam-rate is looked at by no trial"),
        ({"learning_rate": RATE}, {"given": {"rho"}}, "--rho is looked at by no trial"),
    ],
)
def test_what_has_no_value_no_effect_or_does_not_go_together_is_refused(space, options, said):
    with pytest.raises(UsageError, match=said):
        check(space, **options)


@pytest.mark.parametrize(
    ("space", "options"),
    [
        ({"optimizer": choice("sgd", "asam"), "rho": {**SHARE, "when": {"optimizer": "asam"}}}, {}),
        ({"model": choice("cnn", "wrn"), "depth": choice(10, 16, when={"model": "wrn"})}, {}),
        (OPTIMIZER | BATCH | {"adam_rate": {**RATE, "when": {"batch_size": [16, 32]}}}, {}),
        ({"optimizer": choice("sgd", "prodigy"), "clip_norm": {**CLIP, "when": {"optimizer": "sgd"}}}, {}),
        ({"learning_rate": RATE}, {"given": {"momentum_factor", "rounds", "train_images"}}),
        (OPTIMIZER, {"given": {"adam_rate"}}),
        ({"damping": choice("none", "fixed"), "learning_rate": RATE}, EOA),
        (SPACES | {"damping": choice("none", "fixed", when={"lr_space": "linear"})}, EOA),
        ({"rho": SHARE}, {**EOA, "populations": "gwo:1:sgd,woa:1:asam"}),
    ],
)
def test_what_has_an_effect_wherever_it_exists_can_be_searched(space, options):
    check(space, **options)


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
