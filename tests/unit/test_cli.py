"""The command line: help for every option, presets, one-line refusals, the batch of a world, and the paper's preset."""

import ast
import importlib.util
import inspect
import math
import re
import sys
from dataclasses import dataclass, fields, replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from common.data.options import DataOptions
from common.errors import UsageError
from common.models import build_model
from common.models.options import ModelOptions
from common.optim.options import OptimizerOptions, refuse_clipping
from common.optim.registry import OPTIMIZERS
from common.options import check
from common.parallel.populations import PopulationSpec
from common.training import options as cli
from common.training.eoa import EoaArgs, check_search, settle_reference
from common.training.options import PRESETS, CommonArgs, RunOptions, parse_args, resolve_batch, resolve_precision
from common.training.setup import over_wrong_classes

OURS = {
    "smoke": CommonArgs(preset="smoke", dataset="digits", rounds=2, batch_size=64),
    "cpu": CommonArgs(preset="cpu"),
    "paper": CommonArgs(preset="paper", rounds=200),
}
SCRIPTS = Path(__file__).parents[2] / "EOA-SAM"
SALSA = Path(__file__).parents[2] / "SaLSA"


def parse(*argv):
    return parse_args(OURS, "a test", list(argv))


def load_script(name, monkeypatch, folder=SCRIPTS):
    """An experiment script as a module; its folder is no importable name."""
    monkeypatch.syspath_prepend(str(folder))
    spec = importlib.util.spec_from_file_location(name.replace("-", "_"), folder / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


def undocumented(kind):
    """Fields of a dataclass that no string follows: the string is the option's help."""
    body = ast.parse(inspect.getsource(kind)).body[0].body
    missing = []
    for statement, following in zip(body, [*body[1:], None], strict=True):
        if isinstance(statement, ast.AnnAssign) and "ClassVar" not in ast.unparse(statement.annotation):
            described = isinstance(following, ast.Expr) and isinstance(getattr(following.value, "value", None), str)
            missing += [] if described else [statement.target.id]
    return missing


def test_every_option_of_every_script_has_a_help_text():
    for owner in (RunOptions, DataOptions, ModelOptions, OptimizerOptions, CommonArgs, EoaArgs):
        assert undocumented(owner) == []


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


def test_of_two_presets_the_last_counts_wholly():
    for argv in (("--preset", "smoke", "--preset", "paper"), ("--preset=smoke", "--preset=paper")):
        assert parse(*argv)[0] == OURS["paper"]


@pytest.mark.parametrize("argv", [("--preset", "smoke"), ("--preset=smoke",), ("--rounds", "5", "--preset", "smoke")])
def test_options_are_read_over_the_chosen_preset(argv):
    args, given_names = parse(*argv)
    assert replace(args, rounds=2) == OURS["smoke"]
    assert args.rounds == (5 if "--rounds" in argv else 2)
    assert given_names == ({"preset", "rounds"} if "--rounds" in argv else {"preset"})


@pytest.mark.parametrize("cuda", [False, True])
def test_without_a_preset_it_is_paper_where_cuda_is_visible_and_cpu_elsewhere(monkeypatch, cuda):
    monkeypatch.setattr("torch.cuda.is_available", lambda: cuda)
    assert parse()[0] == OURS["paper" if cuda else "cpu"]


def test_given_options_are_known_in_every_spelling():
    _, given_names = parse("--preset", "smoke", "--batch-size=32", "--no-resume", "--val_fraction", "0.2", "--seed", "3")
    assert given_names == {"preset", "batch_size", "resume", "val_fraction", "seed"}


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (["--no-such-option", "3"], "--no-such-option"),
        (["--preset", "tiny"], "tiny"),
        (["--preset"], "--preset"),
        (["--dataset", "svhn"], "svhn"),
        (["--rounds", "many"], "many"),
        (["--rounds", "2.5"], "2.5"),
        (["--learning-rate", "fast"], "fast"),
        (["stray"], "stray"),
    ],
)
def test_an_unreadable_command_line_is_refused_in_one_line(argv, named, capsys):
    with pytest.raises(UsageError) as refusal:
        parse(*argv)
    message = str(refusal.value)
    assert named in message
    assert "\n" not in message
    assert not set("╭╮╰╯│─") & set(message)
    assert "---" not in message
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("option", "values"),
    [
        ("rounds", [0, -1]),
        ("batch_size", [0, -64]),
        ("seed", [-1, 2**63, 10**22]),
        ("batch_size", [2**31, 10**20]),
        ("rounds", [10**6 + 1, 10**20]),
        ("depth", [10**20]),
        ("width", [10**20]),
        ("image_size", [10**20]),
        ("accumulate", [10**20]),
        ("round_steps", [-1]),
        ("max_steps", [-1]),
        ("fitness_images", [-1]),
        ("learning_rate", [0.0, -0.1, float("nan"), float("inf")]),
        ("rho", [0.0, -0.5, float("nan"), float("inf")]),
        ("val_fraction", [0.0, 1.0, 1.5, float("nan")]),
        ("momentum_factor", [-0.1, 1.0, float("nan")]),
        ("weight_decay", [-1e-4, float("nan"), float("inf")]),
        ("dropout", [-0.1, 1.0]),
        ("label_smoothing", [-0.1, 1.0]),
    ],
)
def test_numbers_that_cannot_work_are_refused_by_option_and_value(option, values):
    for value in values:
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


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_pass_their_own_checks(preset, monkeypatch):
    for script in ("EOASAM", "EOASAM-cifar100"):
        module = load_script(script, monkeypatch)
        args = (module.PRESETS if script == "EOASAM" else module.PRESETS_CIFAR100)[preset]
        check(args)
        assert args.preset == preset
        assert (args.dataset == "digits") == (preset == "smoke")


@given(st.integers(1, 5000), st.integers(1, 64))
def test_a_presets_batch_is_rounded_to_the_nearest_multiple_of_the_ranks(batch_size, ranks):
    settled = resolve_batch(CommonArgs(batch_size=batch_size), set(), ranks)
    assert settled % ranks == 0
    assert settled >= ranks
    nearest = min(range(ranks, batch_size + 2 * ranks, ranks), key=lambda b: abs(b - batch_size))
    assert abs(settled - batch_size) == abs(nearest - batch_size)


@given(st.integers(1, 5000), st.integers(1, 64))
def test_a_given_batch_has_to_divide_or_is_refused_with_the_two_nearest(batch_size, ranks):
    args = CommonArgs(batch_size=batch_size)
    if batch_size % ranks == 0:
        assert resolve_batch(args, {"batch_size"}, ranks) == batch_size
        return
    with pytest.raises(UsageError) as refusal:
        resolve_batch(args, {"batch_size"}, ranks)
    below = batch_size - batch_size % ranks
    words = str(refusal.value).replace(":", "").replace(";", "").split()
    assert {str(batch_size), str(ranks), str(below + ranks)} <= set(words)
    assert (str(below) in words) == (below > 0 or "0" in (str(batch_size), str(ranks)))


def test_a_wanted_precision_is_not_second_guessed():
    assert [resolve_precision(p, "cpu") for p in ("float32", "bfloat16")] == ["float32", "bfloat16"]
    assert resolve_precision("auto", "cpu") in ("float32", "bfloat16")


def test_the_presets_of_the_script_are_the_published_setting(monkeypatch):
    """The specification's protocol table, WRN + SAM."""
    for script, dataset in (("EOASAM", "cifar10"), ("EOASAM-cifar100", "cifar100")):
        module = load_script(script, monkeypatch)
        paper = (module.PRESETS if dataset == "cifar10" else module.PRESETS_CIFAR100)["paper"]
        assert (paper.dataset, paper.model, paper.depth, paper.width, paper.dropout) == (dataset, "wrn", 22, 8, 0)
        assert (paper.rounds, paper.round_steps, paper.max_steps, paper.batch_size) == (200, 0, 0, 1024)
        assert (paper.optimizer, paper.rho, paper.momentum_factor, paper.weight_decay) == ("asam", 0.5, 0.9, 5e-4)
        assert (paper.label_smoothing, paper.learning_rate) == (0.1, 0.1)


@pytest.mark.parametrize(
    ("script", "folder"),
    [("EOASAM", "EOA-SAM"), ("EOASAM-cifar100", "EOA-SAM"), ("Baselines", "baselines"), ("SaLSA", "SaLSA")],
)
def test_every_script_of_the_published_wide_resnet_trains_the_one_of_17_million_parameters(script, folder, monkeypatch):
    module = load_script(script, monkeypatch, SCRIPTS.parent / folder)
    paper = (module.PRESETS_CIFAR100 if script == "EOASAM-cifar100" else module.PRESETS)["paper"]
    with torch.device("meta"):
        network = build_model(paper.model, 3, 10, paper.depth, paper.width)
    assert sum(p.numel() for p in network.parameters()) == 17_158_106
    if script != "EOASAM-cifar100":
        assert "WRN-22-8" in module.PRESETS.expect["paper"]


def test_the_paper_preset_of_the_vit_script_is_the_published_setting(monkeypatch):
    """The specification's protocol table, ViT: 512 images for each of 8 ranks behind one gradient, in parts of 32."""
    paper = load_script("EOAViT", monkeypatch, SCRIPTS.parent / "EOA-ViT").PRESETS["paper"]
    assert (paper.model, paper.image_size, paper.crop_scale, paper.dropout, paper.flip) == ("vit-b16", 224, 0.05, 0.1, False)
    assert (paper.batch_size, paper.accumulate, paper.rounds, paper.learning_rate) == (8 * 512, 16, 200, 0.0075)
    assert resolve_batch(paper, set(), 8) // 8 // paper.accumulate == 32
    assert (paper.optimizer, paper.momentum_factor, paper.weight_decay, paper.clip_norm) == ("sgd", 0.9, 0.0, 1.0)
    assert paper.label_smoothing == 0


@given(st.floats(0.0, 0.5), st.integers(2, 100), st.integers(0, 99))
def test_torchs_label_smoothing_is_made_that_of_the_wrong_classes_alone(smoothing, classes, seed):
    """-(1 - s) ln p(right) - s/(K - 1) sum of ln p(wrong), written out."""
    draw = torch.Generator().manual_seed(seed)
    logits = torch.randn(6, classes, generator=draw, dtype=torch.float64)
    labels = torch.randint(classes, (6,), generator=draw)
    expected = 0.0
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        total = sum(math.exp(z) for z in row)
        logs = [z - math.log(total) for z in row]
        wrong = sum(log for k, log in enumerate(logs) if k != label)
        expected -= ((1 - smoothing) * logs[label] + smoothing / (classes - 1) * wrong) / 6
    loss = F.cross_entropy(logits, labels, label_smoothing=over_wrong_classes(smoothing, classes))
    assert loss.item() == pytest.approx(expected, rel=1e-12)


def test_a_tenth_over_nine_wrong_classes_is_a_ninth_over_ten():
    assert over_wrong_classes(0.1, 10) == pytest.approx(1 / 9, rel=1e-15)
    assert over_wrong_classes(0.1, 100) == pytest.approx(10 / 99, rel=1e-15)
    assert over_wrong_classes(0.0, 10) == 0.0


REFERENCES = {  # script, its folder, column: what --reference sets beside the rules of the moves
    ("EOASAM", "EOA-SAM", "cifar10"): {"momentum": "reset", "initialisation": "fan-in", "dropout": 0.0, "flip": True},
    ("EOASAM-cifar100", "EOA-SAM", "cifar100"): {"momentum": "reset", "initialisation": "fan-in", "dropout": 0.0, "flip": True},
    ("EOAViT", "EOA-ViT", "vit"): {"momentum": "keep", "initialisation": "fan-out", "dropout": 0.1, "flip": False},
}


@pytest.mark.parametrize("preset", ["cpu", "paper"])
@pytest.mark.parametrize(("script", "folder", "column"), REFERENCES)
def test_reference_is_the_published_network_and_arithmetic(script, folder, column, preset, monkeypatch):
    module = load_script(script, monkeypatch, SCRIPTS.parent / folder)
    presets = module.PRESETS_CIFAR100 if column == "cifar100" else module.PRESETS
    args, _, said = settle_reference(replace(presets[preset], reference=True), {"reference", "preset"}, column, 16)
    wanted = {**REFERENCES[script, folder, column], "precision": "float32"}
    assert {name: getattr(args, name) for name in wanted} == wanted
    batches = {"cpu": 256, "paper": 16 * 512 if column == "vit" else 1024}  # of the ViT script for every rank
    assert args.batch_size == batches[preset]
    rates = {"cpu": presets["cpu"].learning_rate, "paper": 0.03 if column == "vit" else 0.1}
    assert args.learning_rate == rates[preset]
    assert any("--precision float32 (instead of auto)" in line for line in said)
    assert any("wrong classes alone" in line for line in said) == (column != "vit")  # whose labels are not smoothed
    left = "\n".join(said[said.index("not reproduced:") :])
    for word in ("test set", "theirs are four", "draw the moves of their superiors anew", "rounded to float32"):
        assert word in left
    assert ("0.8 (8 x 0.1)" in left) == (column == "cifar100")
    assert ("broadcast at every forward pass, evaluation included" in left) == (column != "vit")
    assert ("bilinearly" in left) == (column == "vit")


def test_options_that_were_given_or_that_the_network_has_not_are_left_alone_by_reference(monkeypatch):
    module = load_script("EOASAM", monkeypatch)
    asked = replace(module.PRESETS["cpu"], reference=True, precision="bfloat16", label_smoothing=0.2)
    args, _, said = settle_reference(asked, {"reference", "precision", "label_smoothing"}, "cifar10", 8)
    assert (args.precision, args.label_smoothing, args.initialisation) == ("bfloat16", 0.2, "fan-in")
    assert "kept as given: --precision bfloat16 --label-smoothing 0.2" in said
    assert not any("wrong classes alone" in line or "  --precision" in line for line in said)
    args, _, said = settle_reference(replace(module.PRESETS["smoke"], reference=True), {"reference"}, "cifar10", 8)
    assert (args.model, args.initialisation) == ("cnn", "fan-out")
    assert not any("--initialisation" in line for line in said)
    vit = load_script("EOAViT", monkeypatch, SCRIPTS.parent / "EOA-ViT").PRESETS["paper"]
    asked = replace(vit, reference=True, flip=True, batch_size=64)
    args, _, said = settle_reference(asked, {"reference", "flip", "batch_size"}, "vit", 8)
    assert (args.flip, args.batch_size) == (True, 64)
    args, _, said = settle_reference(replace(vit, reference=True, flip=True), {"reference"}, "vit", 8)
    assert "  --no-flip (instead of --flip)" in said
    assert not any("sam" in line.lower() for line in said), "no SAM takes part"


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ("--preset smoke --model cnn --initialisation fan-in", "--initialisation is not an option of --model cnn"),
        ("--model vit-b16 --initialisation fan-in", "--initialisation is not an option of --model vit-b16"),
        ("--dataset topics --model transformer --initialisation fan-out", "--model transformer"),
        ("--dataset digits --flip", "--flip: mirror images of digits"),
        ("--dataset mnist --flip", "--flip: mirror images of MNIST"),
    ],
)
def test_options_that_would_do_nothing_are_refused(argv, said):
    with pytest.raises(UsageError, match=said):
        check(*parse(*argv.split()))


def test_flips_can_be_turned_off_and_initial_weights_chosen():
    assert parse("--no-flip")[0].flip is False
    assert parse("--flip")[0].flip is True
    assert parse("--dataset", "mnist", "--no-flip")[0].flip is False
    assert parse("--model", "wrn", "--initialisation", "fan-in")[0].initialisation == "fan-in"


def test_reference_takes_the_column_except_for_options_that_were_given(monkeypatch):
    module = load_script("EOASAM", monkeypatch)
    asked = replace(module.PRESETS["smoke"], reference=True, damping="none")
    args, settings, said = settle_reference(asked, {"reference", "damping"}, "cifar10", 8)
    assert (args.damping, settings.rules.damping) == ("none", "none")
    assert (args.scope, args.sam_scope, args.momentum, args.exchange) == ("world", "world", "reset", "average")
    assert (args.base_rate, settings.base_rule, settings.count_workers, settings.limited) == ("best", "best", True, False)
    assert not settings.rules.signed
    assert any("--scope world" in line for line in said)
    assert [line for line in said if "damping" in line] == ["kept as given: --damping none"]
    args, settings, said = settle_reference(replace(asked, reference=False), set(), "cifar10", 8)
    assert (args.scope, settings.base_rule, settings.rules.damping, settings.limited) == ("population", "blend", "none", True)
    assert said == []


@dataclass(frozen=True)
class More(CommonArgs):
    """A script's own options after the common ones."""

    extra: bool = False
    """a flag"""


def test_a_scripts_own_flags_can_be_turned_on_and_off():
    presets = {name: More(preset=name, extra=name == "paper") for name in PRESETS}
    assert cli.parse_args(presets, "x", ["--preset", "smoke", "--extra"])[0].extra
    args, given_names = cli.parse_args(presets, "x", ["--preset", "paper", "--no-extra"])
    assert (args.extra, given_names) == (False, {"preset", "extra"})


def test_the_line_search_takes_what_is_not_given_from_its_variant(monkeypatch):
    module = load_script("SaLSA", monkeypatch, SALSA)

    def settled(*argv):
        return module.resolve(*parse_args(module.PRESETS, "x", ["--preset", "smoke", *argv]))

    args, rules = settled()
    assert (args.optimizer, rules) == ("salsa", module.PAPER)
    args, rules = settled("--variant", "released", "--c", "0.7", "--direction", "sgd")
    assert (args.optimizer, args.c, args.beta3, args.eta0) == ("salsa-sgd", 0.7, 0.9, 1.0)
    assert rules == replace(module.RELEASED, c=0.7)
    args, rules = settled("--plain", "--interval", "3")
    assert (args.c, args.beta3, rules) == (0.1, 0.0, replace(module.PLAIN, interval=3))
    assert undocumented(module.Args) == []
    for preset in PRESETS:
        check(module.PRESETS[preset])
    for argv, said in (
        (("--optimizer", "sgd"), "--optimizer is for optimizers with a rate"),
        (("--plain", "--beta3", "0.5"), "leave --beta3 and --variant out"),
        (("--c", "1.5"), "--c 1.5 has to lie between 0 and 1"),
        (("--eta0", "20"), "--eta0 20.0 has to lie in (0, 10]"),
        (("--dataset", "topics", "--model", "cnn"), "--model cnn is for images"),
        (("--rounds", "0"), "--rounds 0"),
    ):
        with pytest.raises(UsageError) as refusal:
            settled(*argv)
        assert said in str(refusal.value)


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


@pytest.mark.parametrize(("script", "own"), [("EASGD/EASGD", "decay"), ("PSO-PS/PSOPS", "adam_rate")])
def test_workers_may_search_alone_where_they_are_coupled_but_not_beside_options_of_a_rate(script, own, monkeypatch):
    folder, name = script.split("/")
    module = load_script(name, monkeypatch, SCRIPTS.parent / folder)

    def settled(*argv):
        args, given = parse_args(module.PRESETS, "x", ["--preset", "cpu", "--optimizer", "salsa", *argv])
        return module.resolve(args, given, *([4] if name == "PSOPS" else []))

    for argv in ((), ("--dataset", "topics")):
        settled(*(("--method", "easgd") if name == "EASGD" else ()), *argv)
    for option in ("learning_rate", own):
        flag = f"--{option.replace('_', '-')}"
        with pytest.raises(UsageError, match=f"{flag} is for optimizers with a rate, and salsa"):
            settled(flag, "0.5")
