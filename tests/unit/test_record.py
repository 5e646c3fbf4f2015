"""The record of a run: strict JSON, one line per round, lines of rounds run again forgotten, weights."""

import csv
import hashlib
import json
import math
import os
import subprocess
import time
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from common import commit
from common.commit import commit_and_reason
from common.errors import UsageError
from common.training import record as module
from common.training.provenance import environment, launcher
from common.training.record import Record, Totals, check_same_config, choose_directory


def row(lr, fitness=0.5):
    told = {"species": "gwo", "optimizer": "sgd", "train_loss": 1.5, "val_accuracy": 0.25, "bytes_across": 12}
    return {**told, "lr": lr, "fitness": fitness}


def lines(directory):
    with open(directory / "metrics.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def start(tmp_path, alone):
    """Opens a record at a round; closes them all at the end."""
    opened = []

    def begin(first_round=0):
        opened.append(Record(tmp_path, alone, first_round))
        return opened[-1]

    yield begin
    for record in opened:
        record.close()


def refuse_constant(name):
    raise AssertionError(f"{name} is not JSON")


def test_json_is_strict_whatever_it_is_given(tmp_path, start):
    plain = {"text": "é", "none": None, "yes": True}
    nested = {"list": [1, math.inf, (-math.inf, "x")], 3: Path("a/b")}
    start().write_json("summary.json", {**plain, "loss": math.nan, "nested": nested})
    read = json.loads((tmp_path / "summary.json").read_text(), parse_constant=refuse_constant)
    assert read == {**plain, "loss": None, "nested": {"list": [1, None, [None, "x"]], "3": "a/b"}}
    assert not list(tmp_path.glob("*.tmp"))


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path, start):
    record = start()
    record.write_json("summary.json", {"a": 1})
    with pytest.raises(TypeError):
        record.write_json("summary.json", {"a": object()})
    assert json.loads((tmp_path / "summary.json").read_text()) == {"a": 1}


def test_metrics_grow_by_one_line_a_round_and_numbers_keep_nine_digits(tmp_path, start):
    record = start()
    for t, lr in enumerate([0.1 + 0.2, 1 / 3, 1e-30]):
        (returned,) = record.add_round(t, row(lr, fitness=-math.inf if t == 1 else 0.5))
        assert (returned["round"], returned["rank"], returned["lr"]) == (t, 0, lr)
    read = lines(tmp_path)
    assert [line["round"] for line in read] == ["0", "1", "2"]
    assert [float(line["lr"]) for line in read] == pytest.approx([0.3, 1 / 3, 1e-30], rel=1e-8)
    assert [float(line["fitness"]) for line in read] == [0.5, -math.inf, 0.5]
    assert list(read[0])[:2] == ["round", "rank"]
    assert (tmp_path / "metrics.csv").read_text().count("round") == 1, "one header"


def test_rounds_that_are_run_again_are_forgotten_and_a_resumed_record_equals_one_that_was_never_interrupted(tmp_path, start):
    record = start()
    for t in range(4):
        record.add_round(t, row(1 / (t + 3)))
    whole = (tmp_path / "metrics.csv").read_bytes()
    resumed = start(2)
    assert [line["round"] for line in lines(tmp_path)] == ["0", "1"]
    for t in range(2, 4):
        resumed.add_round(t, row(1 / (t + 3)))
    assert (tmp_path / "metrics.csv").read_bytes() == whole
    start(0)
    assert not (tmp_path / "metrics.csv").exists()


def test_a_line_cut_off_by_a_kill_does_not_stop_the_resumption(tmp_path, start):
    record = start()
    for t in range(11, 14):
        record.add_round(t, row(0.125))
    path = tmp_path / "metrics.csv"
    whole = path.read_bytes()
    last = whole.rindex(b"\n", 0, -1) + 1
    for end in range(last, len(whole)):  # round 13 was being written; the checkpoint is that of round 12
        path.write_bytes(whole[:end])
        start(13)
        assert [line["round"] for line in lines(tmp_path)] == ["11", "12"], whole[last:end]


def test_weights_load_into_the_same_module(tmp_path, start):
    module, other = (nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)) for _ in range(2))
    module(torch.randn(4, 3))
    start().write_weights(module)
    other.load_state_dict(load_file(tmp_path / "weights.safetensors"))
    images = torch.randn(5, 3)
    assert torch.equal(other.eval()(images), module.eval()(images))


def test_config_and_environment_are_written_and_name_what_a_reader_needs(tmp_path, start):
    start().start({"seed": 3})
    assert json.loads((tmp_path / "config.json").read_text()) == {"seed": 3}
    environment = json.loads((tmp_path / "environment.json").read_text(), parse_constant=refuse_constant)
    assert environment["ranks"] == 1
    assert {"commit", "versions", "processor", "launcher", "command"} <= environment.keys()


def test_a_directory_with_a_record_is_refused_unless_resumed(tmp_path, alone):
    def choose(out, resume):
        return choose_directory(str(out), "x", "digits", 0, resume, alone)

    assert choose(tmp_path / "new", False) == tmp_path / "new"
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UsageError, match=r"already holds a record.*--resume"):
        choose(tmp_path, False)
    assert choose(tmp_path, True) == tmp_path
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="not a writable directory"):
        choose(tmp_path / "file" / "below", False)
    with pytest.raises(UsageError, match="--resume needs --out"):
        choose("auto", True)


def test_resuming_with_another_configuration_is_refused_by_what_differs(tmp_path, alone, start):
    start().start({"seed": 3, "rounds": 5, "out": "a", "rho": math.inf})
    check_same_config(tmp_path, {"seed": 3, "rounds": 5, "out": "b", "rho": math.inf, "resume": True}, alone)
    with pytest.raises(UsageError, match=r"'seed': 3.*'seed': 4") as refusal:
        check_same_config(tmp_path, {"seed": 4, "rounds": 5, "out": "a", "rho": math.inf}, alone)
    assert "rounds" not in str(refusal.value)


def test_totals_survive_a_checkpoint():
    totals = Totals(train_images=3)
    totals.seconds["train"] += 1.5
    again = Totals(**json.loads(json.dumps(totals.as_dict())))
    assert again == totals
    again.seconds["train"] += 1
    assert totals.seconds["train"] == 1.5


FIELDS = ("commit", "python", "mpi", "launcher", "device", "processor", "cores", "memory_gib", "system", "command")


def refuse(*_, **__):
    raise psutil.AccessDenied(1)


@pytest.mark.parametrize(
    ("target", "field"),
    [
        ("psutil.virtual_memory", "memory_gib"),
        ("common.training.provenance._processor", "processor"),
        ("common.training.provenance.launcher", "launcher"),
        ("common.training.provenance.command", "command"),
        ("common.training.provenance.commit", "commit"),
        ("common.parallel.machine.available_cores", "cores"),
        ("platform.platform", "system"),
    ],
)
def test_what_cannot_be_told_is_unknown_with_a_reason(target, field, alone, monkeypatch):
    monkeypatch.setattr(target, refuse)
    told = environment(alone)
    assert told[field] == "unknown"
    assert "AccessDenied" in told["reasons"][field]
    unknown = {name for name in FIELDS if told[name] == "unknown"}
    assert unknown == told["reasons"].keys()
    assert unknown <= {field, "commit", *(["command"] if field == "launcher" else [])}  # a command names its launcher


def test_a_record_is_not_begun_before_its_environment_is_known(tmp_path, alone, monkeypatch):
    monkeypatch.setattr(module, "environment", refuse)
    with pytest.raises(psutil.AccessDenied):
        Record(tmp_path / "run", alone, 0)
    assert not (tmp_path / "run").exists()


@pytest.fixture
def mpirun(monkeypatch):
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "0")
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "1")


@pytest.mark.parametrize(
    "error", [psutil.AccessDenied(1), psutil.NoSuchProcess(1), psutil.ZombieProcess(1), FileNotFoundError()]
)
@pytest.mark.parametrize("method", ["cmdline", "parent"])
def test_a_process_table_that_is_hidden_leaves_the_launcher_at_mpirun(error, method, monkeypatch, mpirun):
    def fail(self):
        raise error

    monkeypatch.setattr(psutil.Process, method, fail)
    assert launcher() == "mpirun"


def test_horovodrun_is_recognised_below_a_hidden_part_of_the_table(monkeypatch, mpirun):
    words = iter([["python"], ["mpirun", "--tag-output", "-map-by", "slot", "-mca", "pml", "ob1"], None])

    def cmdline(self):
        if (found := next(words)) is None:
            raise psutil.AccessDenied(1)
        return found

    monkeypatch.setattr(psutil.Process, "cmdline", cmdline)
    monkeypatch.setattr(psutil.Process, "parent", lambda self: self)
    assert launcher() == "horovodrun"


@pytest.fixture
def unasked():
    """As if git had not been asked for the commit yet."""
    commit_and_reason.cache_clear()
    yield
    commit_and_reason.cache_clear()


DUBIOUS = "fatal: detected dubious ownership in repository"
CHANGED = hashlib.sha256(b"changed").hexdigest()[:4]


@pytest.mark.parametrize(
    ("git", "patience", "told"),
    [
        (f"echo {DUBIOUS} >&2; echo more >&2; exit 128", 60, ("unknown", DUBIOUS)),
        ("exec sleep 30", 0.3, ("unknown", "git gave no answer in 0.3 s")),
        # Without locks, and about this checkout.
        ('case "$*" in *rev-parse*) echo "locks$GIT_OPTIONAL_LOCKS$GIT_DIR" ;; esac', 60, ("locks0", "")),
        ('case "$*" in *rev-parse*) echo abc ;; *diff*) echo changed ;; esac', 60, (f"abc+{CHANGED}", "")),
        ("", 60, ("unknown", "git cannot be run: No such file or directory")),
    ],
)
def test_a_commit_is_what_git_tells_or_unknown_with_its_reason(git, patience, told, tmp_path, monkeypatch, unasked):
    if git:
        (tmp_path / "git").write_text(f"#!/bin/sh\n{git}\n", encoding="utf-8")
        (tmp_path / "git").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}" if git else "/nowhere")
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    monkeypatch.setattr(commit, "GIT_PATIENCE", patience)
    began = time.monotonic()
    assert commit_and_reason() == told
    assert time.monotonic() - began < 10


@pytest.mark.slow
def test_a_checkout_of_another_owner_has_a_reason(tmp_path, alone, monkeypatch, unasked):
    if os.geteuid() != 0:
        pytest.skip("needs root, to give a checkout to another owner")
    for name in ("GLOBAL", "SYSTEM"):
        monkeypatch.setenv(f"GIT_CONFIG_{name}", "/dev/null")
    (tmp_path / "common").mkdir()
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True, timeout=60)
    for path in (tmp_path, tmp_path / ".git"):
        os.chown(path, 12345, 12345)
    monkeypatch.setattr(commit, "__file__", str(tmp_path / "common/commit.py"))
    told = environment(alone)
    assert told["commit"] == "unknown"
    assert "dubious ownership" in told["reasons"]["commit"]
