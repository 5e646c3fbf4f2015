"""The command line: help, presets, one-line refusals, the batch of a world, the papers' presets and the reference behaviour."""

import math
import re
from dataclasses import dataclass, fields, replace
from inspect import get_annotations

import pytest
import torch
import torch.nn.functional as F
from experiment_scripts import ROOT, command_line, presets, script, values
from hypothesis import given
from hypothesis import strategies as st

from common.errors import UsageError
from common.models import build_model
from common.optim.armijo import PLAIN, RELEASED
from common.optim.options import refuse_clipping
from common.optim.registry import OPTIMIZERS
from common.options import check, help_of
from common.parallel.populations import PopulationSpec
from common.training.eoa import EoaArgs, check_search, settle_reference
from common.training.options import PRESETS, CommonArgs, parse_args, resolve_batch, resolve_precision
from common.training.setup import over_wrong_classes

SMOKE = CommonArgs(preset="smoke", dataset="digits", rounds=2, batch_size=64)
CPU = CommonArgs(preset="cpu")
PAPER = CommonArgs(preset="paper", rounds=200)
CIFAR10, CIFAR100, VIT = "EOA-SAM/EOASAM", "EOA-SAM/EOASAM-cifar100", "EOA-ViT/EOAViT"


def parse(options=""):
    return parse_args({"smoke": SMOKE, "cpu": CPU, "paper": PAPER}, "a test", options.split())


def test_help_is_printed_names_every_option_and_ends_with_success(capsys):
    with pytest.raises(SystemExit) as request:
        parse("--help")
    assert not request.value.code
    printed = capsys.readouterr().out
    for field in fields(CommonArgs):
        assert f"--{field.name.replace('_', '-')}" in printed
    assert "a test" in printed


def test_help_is_printed_on_rank_zero_only(capsys, monkeypatch):
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "3")
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "4")
    with pytest.raises(SystemExit):
        parse("--help")
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("options", "expected", "given_names"),
    [
        ("--preset smoke", SMOKE, "preset"),
        ("--preset=smoke", SMOKE, "preset"),
        ("--rounds 5 --preset smoke", replace(SMOKE, rounds=5), "preset rounds"),
        ("--preset smoke --preset paper", PAPER, "preset"),  # the last counts wholly
        ("--preset=smoke --preset=paper", PAPER, "preset"),
        (
            "--preset smoke --batch-size=32 --no-resume --val_fraction 0.2 --seed 3",
            replace(SMOKE, batch_size=32, val_fraction=0.2, seed=3),
            "preset batch_size resume val_fraction seed",
        ),
        ("--preset cpu --flip", replace(CPU, flip=True), "preset flip"),
        ("--preset cpu --dataset mnist --no-flip", replace(CPU, dataset="mnist", flip=False), "preset dataset flip"),
        ("--preset cpu --initialisation fan-in", replace(CPU, initialisation="fan-in"), "preset initialisation"),
    ],
)
def test_options_are_read_over_the_chosen_preset_and_known_in_every_spelling(options, expected, given_names):
    assert parse(options) == (expected, set(given_names.split()))
    check(*parse(options))


@dataclass(frozen=True)
class More(CommonArgs):
    """A script's own options after the common ones."""

    extra: bool = False
    """a flag"""


@pytest.mark.parametrize(("options", "extra"), [("--preset smoke --extra", True), ("--preset paper --no-extra", False)])
def test_a_scripts_own_flags_can_be_turned_on_and_off(options, extra):
    own = {name: More(preset=name, extra=name == "paper") for name in PRESETS}
    args, given_names = parse_args(own, "x", options.split())
    assert (args.extra, given_names) == (extra, {"preset", "extra"})


@pytest.mark.parametrize("cuda", [False, True])
def test_without_a_preset_it_is_paper_where_cuda_is_visible_and_cpu_elsewhere(monkeypatch, cuda):
    monkeypatch.setattr("torch.cuda.is_available", lambda: cuda)
    assert parse()[0] == (PAPER if cuda else CPU)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ("--no-such-option 3", "--no-such-option"),
        ("--preset tiny", "tiny"),
        ("--preset", "--preset"),
        ("--dataset svhn", "svhn"),
        ("--rounds many", "many"),
        ("--rounds 2.5", "2.5"),
        ("--learning-rate fast", "fast"),
        ("stray", "stray"),
    ],
)
def test_an_unreadable_command_line_is_refused_in_one_line(options, named, capsys):
    with pytest.raises(UsageError) as refusal:
        parse(options)
    message = str(refusal.value)
    assert named in message
    assert "\n" not in message
    assert not set("╭╮╰╯│─") & set(message)
    assert "---" not in message
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("option", "wrong"),
    [
        ("rounds", [0, -1, 10**6 + 1, 10**20]),
        ("batch_size", [0, -64, 2**31, 10**20]),
        ("seed", [-1, 2**63, 10**22]),
        *((option, [10**20]) for option in ("depth", "width", "image_size", "accumulate")),
        *((option, [-1]) for option in ("round_steps", "max_steps", "fitness_images")),
        ("learning_rate", [0.0, -0.1, math.nan, math.inf]),
        ("rho", [0.0, -0.5, math.nan, math.inf]),
        ("val_fraction", [0.0, 1.0, 1.5, math.nan]),
        ("momentum_factor", [-0.1, 1.0, math.nan]),
        ("weight_decay", [-1e-4, math.nan, math.inf]),
        ("dropout", [-0.1, 1.0]),
        ("label_smoothing", [-0.1, 1.0]),
    ],
)
def test_numbers_that_cannot_work_are_refused_by_option_and_value(option, wrong):
    for value in wrong:
        with pytest.raises(UsageError) as refusal:
            check(replace(CommonArgs(), **{option: value}))
        assert f"--{option.replace('_', '-')} {value} " in str(refusal.value)


def test_the_largest_seed_is_taken():
    check(CommonArgs(seed=2**63 - 1))


@pytest.mark.parametrize("name", ["prodigy", "salsa", "salsa-sgd"])
def test_a_bound_on_the_gradient_is_refused_where_steps_follow_from_it_as_it_is(name):
    with pytest.raises(UsageError, match=rf"--clip-norm 0\.5: {re.escape(name)} .*; give --clip-norm 0"):
        refuse_clipping(0.5, ["sgd", name])
    refuse_clipping(0.0, [name])
    refuse_clipping(0.5, sorted({*OPTIMIZERS} - {"salsa", "salsa-sgd", *(o for o in OPTIMIZERS if "prodigy" in o)}))


@given(st.integers(1, 5000), st.integers(1, 64))
def test_a_presets_batch_is_rounded_to_the_ranks_and_a_given_one_that_does_not_divide_refused(batch_size, ranks):
    args, below = CommonArgs(batch_size=batch_size), batch_size - batch_size % ranks
    nearest = [multiple for multiple in (below, below + ranks) if multiple]
    rounded = resolve_batch(args, set(), ranks)
    assert rounded in nearest
    assert abs(rounded - batch_size) == min(abs(multiple - batch_size) for multiple in nearest)
    if batch_size == below:
        assert resolve_batch(args, {"batch_size"}, ranks) == batch_size
        return
    with pytest.raises(UsageError) as refusal:
        resolve_batch(args, {"batch_size"}, ranks)
    assert [int(number) for number in re.findall(r"\d+", str(refusal.value))] == [batch_size, ranks, *nearest]


def test_a_wanted_precision_is_not_second_guessed():
    assert [resolve_precision(p, "cpu") for p in ("float32", "bfloat16")] == ["float32", "bfloat16"]
    assert resolve_precision("auto", "cpu") in ("float32", "bfloat16")


WRN_SAM = {
    **{"model": "wrn", "depth": 22, "width": 8, "dropout": 0, "rounds": 200, "round_steps": 0, "max_steps": 0},
    **{"batch_size": 1024, "optimizer": "asam", "rho": 0.5, "momentum_factor": 0.9, "weight_decay": 5e-4},
    **{"label_smoothing": 0.1, "learning_rate": 0.1},
}
PUBLISHED = {
    CIFAR10: {"dataset": "cifar10", **WRN_SAM},
    CIFAR100: {"dataset": "cifar100", **WRN_SAM},
    VIT: {
        **{"model": "vit-b16", "image_size": 224, "crop_scale": 0.05, "dropout": 0.1, "flip": False, "label_smoothing": 0},
        **{"batch_size": 8 * 512, "accumulate": 16, "rounds": 200, "learning_rate": 0.0075},  # of 8 ranks, in parts of 32
        **{"optimizer": "sgd", "momentum_factor": 0.9, "weight_decay": 0.0, "clip_norm": 1.0},
    },
}


@pytest.mark.parametrize("path", PUBLISHED)
def test_the_paper_preset_is_the_published_setting(path):
    """The specification's protocol table."""
    assert values(presets(path)["paper"], PUBLISHED[path]) == PUBLISHED[path]


@pytest.mark.parametrize("path", [CIFAR10, CIFAR100, "baselines/Baselines", "SaLSA/SaLSA"])
def test_every_script_of_the_published_wide_resnet_trains_the_one_of_17_million_parameters(path):
    paper = presets(path)["paper"]
    with torch.device("meta"):
        network = build_model(paper.model, 3, 10, paper.depth, paper.width)
    assert sum(p.numel() for p in network.parameters()) == 17_158_106
    assert "WRN-22-8" in presets(path).expect["paper"]


@given(st.floats(0.0, 0.5), st.integers(2, 100), st.integers(0, 99))
def test_torchs_label_smoothing_is_made_that_of_the_wrong_classes_alone(smoothing, classes, seed):
    """-(1 - s) ln p(right) - s/(K - 1) sum of ln p(wrong), written out."""
    draw = torch.Generator().manual_seed(seed)
    logits = torch.randn(6, classes, generator=draw, dtype=torch.float64)
    labels = torch.randint(classes, (6,), generator=draw)
    logs = F.log_softmax(logits, dim=1)
    right = logs[torch.arange(6), labels]
    expected = -((1 - smoothing) * right + smoothing / (classes - 1) * (logs.sum(1) - right)).mean().item()
    loss = F.cross_entropy(logits, labels, label_smoothing=over_wrong_classes(smoothing, classes))
    assert loss.item() == pytest.approx(expected, rel=1e-12)


REFERENCES = {  # column, and what --reference sets beside the rules of the moves
    CIFAR10: ("cifar10", {"momentum": "reset", "initialisation": "fan-in", "dropout": 0.0, "flip": True}),
    CIFAR100: ("cifar100", {"momentum": "reset", "initialisation": "fan-in", "dropout": 0.0, "flip": True}),
    VIT: ("vit", {"momentum": "keep", "initialisation": "fan-out", "dropout": 0.1, "flip": False}),
}


def settled(path, preset, ranks=8, **asked):
    """--reference beside a preset and some options: the arguments, the rules, and the lines that are printed."""
    args = replace(presets(path)[preset], reference=True, **asked)
    return settle_reference(args, {"reference", *asked}, REFERENCES[path][0], ranks)


@pytest.mark.parametrize("preset", ["cpu", "paper"])
@pytest.mark.parametrize("path", REFERENCES)
def test_reference_is_the_published_network_and_arithmetic(path, preset):
    args, _, said = settled(path, preset, ranks=16)
    wanted = {**REFERENCES[path][1], "precision": "float32"}
    assert values(args, wanted) == wanted
    batches = {"cpu": 256, "paper": 16 * 512 if path == VIT else 1024}  # of the ViT script for every rank
    assert args.batch_size == batches[preset]
    rates = {"cpu": presets(path)["cpu"].learning_rate, "paper": 0.03 if path == VIT else 0.1}
    assert args.learning_rate == rates[preset]
    assert any("--precision float32 (instead of auto)" in line for line in said)
    assert any("wrong classes alone" in line for line in said) == (path != VIT)  # whose labels are not smoothed
    left = "\n".join(said[said.index("not reproduced:") :])
    for word in ("test set", "theirs are four", "draw the moves of their superiors anew", "rounded to float32"):
        assert word in left
    assert ("0.8 (8 x 0.1)" in left) == (path == CIFAR100)
    assert ("broadcast at every forward pass, evaluation included" in left) == (path != VIT)
    assert ("bilinearly" in left) == (path == VIT)


def test_options_that_were_given_or_that_the_network_has_not_are_left_alone_by_reference():
    args, _, said = settled(CIFAR10, "cpu", precision="bfloat16", label_smoothing=0.2)
    assert (args.precision, args.label_smoothing, args.initialisation) == ("bfloat16", 0.2, "fan-in")
    assert "kept as given: --precision bfloat16 --label-smoothing 0.2" in said
    assert not any("wrong classes alone" in line or "  --precision" in line for line in said)
    args, _, said = settled(CIFAR10, "smoke")
    assert (args.model, args.initialisation) == ("cnn", "fan-out")
    assert not any("--initialisation" in line for line in said)
    args, _, _ = settled(VIT, "paper", flip=True, batch_size=64)
    assert (args.flip, args.batch_size) == (True, 64)
    flipped = replace(presets(VIT)["paper"], reference=True, flip=True)
    _, _, said = settle_reference(flipped, {"reference"}, "vit", 8)
    assert "  --no-flip (instead of --flip)" in said
    assert not any("sam" in line.lower() for line in said), "no SAM takes part"


def test_reference_takes_the_column_except_for_options_that_were_given():
    args, settings, said = settled(CIFAR10, "smoke", damping="none")
    assert (args.damping, settings.rules.damping) == ("none", "none")
    assert (args.scope, args.sam_scope, args.momentum, args.exchange) == ("world", "world", "reset", "average")
    assert (args.base_rate, settings.base_rule, settings.count_workers, settings.limited) == ("best", "best", True, False)
    assert not settings.rules.signed
    assert any("--scope world" in line for line in said)
    assert [line for line in said if "damping" in line] == ["kept as given: --damping none"]
    asked = replace(presets(CIFAR10)["smoke"], damping="none")
    args, settings, said = settle_reference(asked, set(), "cifar10", 8)
    assert (args.scope, settings.base_rule, settings.rules.damping, settings.limited) == ("population", "blend", "none", True)
    assert said == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--preset smoke --model cnn --initialisation fan-in", "--initialisation is not an option of --model cnn"),
        ("--model vit-b16 --initialisation fan-in", "--initialisation is not an option of --model vit-b16"),
        ("--dataset topics --model transformer --initialisation fan-out", "--model transformer"),
        ("--dataset digits --flip", "--flip: mirror images of digits"),
        ("--dataset mnist --flip", "--flip: mirror images of MNIST"),
    ],
)
def test_options_that_would_do_nothing_are_refused(options, said):
    with pytest.raises(UsageError, match=said):
        check(*parse(options))


@pytest.mark.parametrize(
    ("options", "rules"),
    [
        ("--variant released --c 0.7 --direction sgd", replace(RELEASED, c=0.7)),
        ("--plain --interval 3", replace(PLAIN, interval=3)),
    ],
)
def test_the_line_search_takes_what_is_not_given_from_its_variant(options, rules):
    args, found = script("SaLSA/SaLSA").resolve(*command_line("SaLSA/SaLSA", options))
    assert (found, args.c, args.beta3, args.eta0) == (rules, rules.c, rules.beta3, rules.eta0)
    assert args.optimizer == ("salsa-sgd" if "sgd" in options else "salsa")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--eta0 20", "--eta0 20.0 has to lie in (0, 10]"),
        ("--c 1.5", "--c 1.5 has to lie between 0 and 1"),
        ("--dataset topics --model cnn", "--model cnn is for images"),
    ],
)
def test_the_line_search_refuses_what_cannot_work(options, said):
    with pytest.raises(UsageError, match=re.escape(said)):
        script("SaLSA/SaLSA").resolve(*command_line("SaLSA/SaLSA", options))


def test_a_line_search_is_refused_where_others_would_not_come_to_its_trials_or_its_rate_is_sought():
    searching = [PopulationSpec("gwo", 2, "sgd"), PopulationSpec("hold", 2, "salsa")]
    alike = [PopulationSpec("gwo", 2, "salsa"), PopulationSpec("hold", 2, "salsa")]
    check_search(EoaArgs(), searching)
    check_search(EoaArgs(scope="world"), alike)
    check_search(EoaArgs(scope="world", base_rate="forage"), [PopulationSpec("gwo", 4, "sam+adamw")])
    with pytest.raises(UsageError, match=r"--scope world.*salsa, but there are also sgd"):
        check_search(EoaArgs(scope="world"), searching)
    with pytest.raises(UsageError, match="--base-rate forage looks for what salsa finds"):
        check_search(EoaArgs(base_rate="forage"), searching)


@pytest.mark.parametrize(
    ("path", "method", "own"), [("EASGD/EASGD", "--method easgd", "decay"), ("PSO-PS/PSOPS", "", "adam_rate")]
)
def test_workers_may_search_alone_where_they_are_coupled_but_not_beside_options_of_a_rate(path, method, own):
    def resolve(options):
        args, given_names = command_line(path, f"--preset cpu --optimizer salsa {options}")
        return script(path).resolve(args, given_names, *([4] if "PSO" in path else []))

    for options in ("", "--dataset topics"):
        resolve(f"{method} {options}")
    for option in ("learning_rate", own):
        flag = f"--{option.replace('_', '-')}"
        with pytest.raises(UsageError, match=f"{flag} is for optimizers with a rate, and salsa"):
            resolve(f"{flag} 0.5")


SCRIPTS = ROOT / "EOA-SAM"


def load_script(name, monkeypatch, folder=SCRIPTS):
    """For tests that still name a script by its folder."""
    return script(f"{folder.name}/{name}")


def undocumented(kind):
    """Fields of a dataclass without a help text."""
    return [name for name in get_annotations(kind) if not help_of(kind).get(name)]
