"""A line search on the harness: its options, its steps, its counts and what it leaves alone; losses of images and of texts."""

import copy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from test_cli import load_script, undocumented
from test_weight_optimizer import assert_close, batches, network
from torch import nn

from common.coupling.elastic import Coupling
from common.data.augment import Augmenter
from common.data.dataset import ImageDataset, Texts
from common.data.registry import SOURCES
from common.ecosphere.rates import ScheduledRates
from common.evaluate import evaluate
from common.models import build_model
from common.models.flat import FlatModel
from common.optim.armijo import PAPER, PLAIN, RELEASED
from common.optim.bases import OptimizerSettings
from common.optim.registry import OPTIMIZERS, has_line_search
from common.optim.salsa import Salsa
from common.training.loop import Plan, _closure, train_round
from common.training.options import parse_args
from common.training.worker import build_worker

STEPS, BATCH = len(batches()), len(batches()[0][1])
PLAN = Plan(BATCH, STEPS, 0.1, "float32")


def member(alone, name, module=None, coupling=None, **options):
    """A worker, and its optimizer."""
    rates = ScheduledRates(lambda progress: 1.0, 0.1, 0.1, 1, 5)
    settings = OptimizerSettings(name, **options)
    worker = build_worker(alone, FlatModel(module or network()), rates, settings, coupling=coupling)
    return worker, worker.optimizer


@pytest.mark.parametrize(("name", "direction", "momentum"), [("salsa", "adam", 0.9), ("salsa-sgd", "sgd", 0.6)])
def test_on_the_flat_buffer_it_is_the_optimizer_on_single_tensors(alone, name, direction, momentum):
    worker, optimizer = member(alone, name, momentum=0.6, weight_decay=0.01, adam_decay=0.01, seed=4)
    plain = network()
    reference = Salsa(
        plain.parameters(), PAPER, direction, (momentum, 0.999), weight_decay=0.01, buffers=plain.buffers(), seed=4
    )
    trained = train_round(worker, batches(), 0, 0, PLAN)
    total = 0.0
    for x, y in batches():

        def closure(backwards, x=x, y=y):
            losses = F.cross_entropy(plain(x), y, label_smoothing=0.1, reduction="none").double()
            if backwards:
                losses.mean().backward()
            return losses.mean()

        reference.zero_grad()
        total += reference.step(closure).item()
    assert optimizer.salsa.search.eta == pytest.approx(reference.search.eta, rel=1e-6)
    counts = optimizer.counts()
    assert (counts["searches"], counts["trials"]) == (reference.search.searches, reference.search.trials)
    assert_close(worker.model, plain, rtol=1e-4, atol=1e-6)  # sums over one long tensor instead of several, in float32
    assert trained.loss == pytest.approx(total / STEPS, rel=1e-5)
    assert trained.gradient_evaluations == STEPS * BATCH
    assert trained.forward_evaluations == STEPS * BATCH + trained.trials * BATCH
    assert {name: getattr(trained, name) for name in counts} == counts
    assert trained.trials >= trained.searches > 0
    assert int(worker.model.module[2].num_batches_tracked) == STEPS, "trials do not count as batches"


@pytest.mark.parametrize(("name", "passes"), [("sgd", 1), ("asam", 2), ("adamw", 1)])
def test_without_a_search_forward_passes_are_as_many_as_backward_passes(alone, name, passes):
    worker, _ = member(alone, name)
    trained = train_round(worker, batches(), 0, 0, PLAN)
    assert trained.forward_evaluations == trained.gradient_evaluations == passes * STEPS * BATCH
    assert (trained.searches, trained.trials) == (0, 0)


def test_its_steps_do_not_depend_on_the_rates_unless_these_are_moved(alone):
    ends = []
    for first, second in ((0.1, 0.1), (7.0, 7.0), (0.1, 0.05)):
        worker, optimizer = member(alone, "salsa")
        for rate in (first, second):
            worker.rate = rate
            train_round(worker, batches(), 0, 0, PLAN)
        ends.append((worker.model.state.detach().clone(), optimizer.effective_lr(rate)))
    assert torch.equal(ends[0][0], ends[1][0])
    assert not torch.equal(ends[0][0], ends[2][0])


def test_a_rate_that_is_halved_halves_where_the_next_search_begins(alone):
    worker, optimizer = member(alone, "salsa")
    optimizer.begin_round(0.1)
    train_round(worker, batches(), 0, 0, PLAN)
    eta = optimizer.salsa.search.eta
    optimizer.begin_round(worker.rate)
    assert optimizer.salsa.param_groups[0]["lr"] == eta
    optimizer.begin_round(0.5 * worker.rate)
    assert optimizer.salsa.param_groups[0]["lr"] == pytest.approx(0.5 * eta)
    optimizer.begin_round(0.0)  # the end of a schedule is no factor
    assert optimizer.salsa.param_groups[0]["lr"] == pytest.approx(0.5 * eta)


def test_what_a_checkpoint_keeps_brings_the_search_and_the_rate_back(alone):
    worker, optimizer = member(alone, "salsa-sgd")
    train_round(worker, batches(), 0, 0, PLAN)
    again, other = member(alone, "salsa-sgd", copy.deepcopy(worker.model.module))
    other.load_state_tensors({n: t.clone() for n, t in optimizer.state_tensors().items()})
    for w in (worker, again):
        w.rate = 0.02
        train_round(w, batches(2), 0, 1, PLAN)
    assert torch.equal(worker.model.state, again.model.state)
    assert other.salsa.search == optimizer.salsa.search


class Listener(Coupling):
    """Notes what it is told, and allows or forbids steps."""

    def __init__(self, steps):
        self.steps, self.told = steps, []

    def begin(self, t, x):
        self.told.append(("begin", x.clone()))

    def observe(self, report):
        self.told.append(("observe", report.clone()))

    def take(self, t, gradient, finite):
        return finite and self.steps

    def end(self, t, x, gradient):
        self.told.append(("end", x.clone()))
        return False


@pytest.mark.parametrize("steps", [True, False])
@pytest.mark.parametrize("name", ["salsa", "salsa-sgd", "sgd"])
def test_a_coupling_sees_one_report_a_step_and_the_weights_around_it_and_may_forbid_it(alone, name, steps):
    listener = Listener(steps)
    worker, _ = member(alone, name, coupling=listener)
    trained = train_round(worker, batches(), 0, 0, PLAN)
    kinds, values = zip(*listener.told, strict=True)
    assert kinds == ("begin", "observe", "end") * STEPS, "trial points are not reported"
    for before, after in zip(values[::3], values[2::3], strict=True):
        assert torch.equal(before, after) != steps
    reports = torch.stack(values[1::3])
    assert reports[:, 0].sum().item() / (BATCH * STEPS) == pytest.approx(trained.loss, rel=1e-5)
    assert (trained.trials > 0) == (steps and has_line_search(name))


def test_a_step_without_any_finite_gradient_is_left_out_but_reported(alone):
    worker, optimizer = member(alone, "salsa")
    model, before = worker.model, worker.model.state.detach().clone()

    def closure(backwards=True):
        assert backwards
        model.gradient.fill_(torch.inf)
        return torch.tensor([6.0, 1.0, 3.0])

    assert optimizer.step(closure, 0.1).tolist() == [6.0, 1.0, 3.0]
    assert torch.equal(model.state, before)
    assert optimizer.salsa.search.skipped == 1


def test_sam_is_not_offered_over_a_search():
    assert {name for name in OPTIMIZERS if has_line_search(name)} == {"salsa", "salsa-sgd"}
    assert "sam+adamw" in OPTIMIZERS


@settings(max_examples=20)
@given(st.integers(1, 4), st.booleans(), st.floats(0, 0.3))
def test_the_report_of_a_batch_is_the_sums_of_its_parts(alone, parts, exact, smoothing):
    worker, _ = member(alone, "sgd", nn.Linear(5, 3))
    x, y = batches()[0]
    plan = Plan(BATCH, 1, smoothing, "float32", parts)
    report = _closure(worker.model, x, y, plan, exact)()
    logits = worker.model.module(x).detach()
    losses = F.cross_entropy(logits, y, label_smoothing=smoothing, reduction="none").double()
    assert report.dtype == (torch.float64 if exact else torch.float32)
    assert report[0].item() == pytest.approx(losses.sum().item(), rel=1e-12 if exact and parts == 1 else 1e-5)
    assert report[1:].tolist() == [float((logits.argmax(1) == y).sum()), BATCH]
    gradient = worker.model.gradient.clone()
    again = _closure(worker.model, x, y, plan, exact)(backwards=False)
    assert torch.equal(again, report)
    assert torch.equal(worker.model.gradient, gradient), "a trial leaves the gradient alone"


def test_losses_of_texts_are_means_over_all_places(alone):
    module = build_model("transformer", 0, 97, depth=1, width=1, image_size=6)
    worker, _ = member(alone, "salsa", module)
    generator = torch.Generator().manual_seed(0)
    symbols, labels = (torch.randint(97, (9, 6), generator=generator) for _ in range(2))
    texts = Texts(symbols, labels)
    judged = evaluate(module, texts, "float32")
    with torch.no_grad():
        logits = torch.cat([module.eval()(window[None])[0] for window in symbols])  # of 9 x 6 places
    losses = -logits.log_softmax(1)[range(54), labels.flatten()]
    assert judged.loss == pytest.approx(losses.mean().item(), rel=1e-5)
    assert judged.accuracy == (logits.argmax(1) == labels.flatten()).sum().item() / 54
    trained = train_round(worker, [(symbols, labels)], 0, 0, Plan(9, 1, 0.0, "float32"))
    assert trained.loss == pytest.approx(judged.loss, rel=1e-5)
    assert (trained.images, trained.gradient_evaluations) == (9, 9), "windows, not characters"


def test_pictures_and_texts_answer_the_same_questions():
    images = torch.randint(256, (4, 6, 6, 1), dtype=torch.uint8)
    pictures = ImageDataset(Augmenter(images, SOURCES["digits"]), torch.arange(4))
    texts = Texts(torch.zeros(4, 9, dtype=torch.int64), torch.ones(4, 9, dtype=torch.int64))
    for split, size, shape in ((pictures, 6, (2, 1, 6, 6)), (texts, 9, (2, 9))):
        indices = torch.tensor([3, 1])
        assert (len(split), split.size) == (4, size)
        for inputs, labels in (split.plain(indices), split.augmented(indices, split.draw(0, 0))):
            assert inputs.shape == shape
            assert torch.equal(labels, split.labels[indices])
        taken = split.take(indices)
        for ours, theirs in zip(taken.plain(torch.tensor([0, 1])), split.plain(indices), strict=True):
            assert torch.equal(ours, theirs)


@pytest.fixture
def script(monkeypatch):
    return load_script("SaLSA", monkeypatch, Path(__file__).parents[2] / "SaLSA")


def test_every_option_has_a_help_text(script):
    assert undocumented(script.Args) == []


@pytest.mark.parametrize(
    ("options", "rules", "optimizer"),
    [
        ("", PAPER, "salsa"),
        ("--plain --direction sgd", PLAIN, "salsa-sgd"),
        ("--variant released", RELEASED, "salsa"),
        ("--direction sgd --momentum-factor 0.5 --weight-decay 0.1", PAPER, "salsa-sgd"),
        ("--adam-decay 0.1", PAPER, "salsa"),
    ],
)
def test_each_variant_has_rules_of_its_own_and_the_record_tells_them(script, options, rules, optimizer):
    args, found = script.resolve(*parse_args(script.PRESETS, "a test", ["--preset", "smoke", *options.split()]))
    assert found == rules
    assert args.optimizer == optimizer
    assert (args.eta0, args.c, args.beta3) == (rules.eta0, rules.c, rules.beta3)
