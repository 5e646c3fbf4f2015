"""The registry, packed records, which runs are there, and the workflow's plan."""

import argparse
import gzip
import json
import subprocess
import sys
from dataclasses import replace
from itertools import permutations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up import EOA, add_run, lines_of, one_population

from common.commit import commit
from common.errors import UsageError
from experiments import __main__ as main
from experiments.job import beside, can_go_on, command, last_loss, packed, restore_replayed
from experiments.jobs import Job, Records, job_of, make_jobs, row_options
from experiments.packed import METRICS, RUNS, options_of, pack, read_rounds, read_runs, restore
from experiments.progress import clock, status
from experiments.registry import PROFILES, Experiment, Profile, Table, Tune, load_profile

ROOT = Path(__file__).parents[2]
TUNED = Experiment("easgd", "EASGD", "EASGD/EASGD.py", "--period 4", 3, 4, Tune("--learning-rate", ("0.1", "0.4")))
EOA_RUN = Experiment("eoa", "EOA", "EOA-SAM/EOASAM.py", ranks=4)
REPLAY = Experiment("replay", "replay", "baselines/Baselines.py", "--batch-size 8", replays="eoa")
PROFILE = Profile(
    "cpu", "cpu", 1, (Table("methods", "methods", "Methods", (EOA_RUN, REPLAY)), Table("tau", "periods", "Periods", (TUNED,)))
)
JOB = Job("tau", TUNED, 1, "0.4")


class TestRegistry:
    @pytest.mark.parametrize("name", PROFILES)
    def test_names_are_unique_and_scripts_replayed_experiments_and_jobs_are_found_by_theirs(self, name):
        profile = load_profile(name)
        assert len({t.name for t in profile.tables}) == len(profile.tables)
        experiments = [(t.name, e) for t, e in profile.experiments()]
        for table in profile.tables:
            for part in (table.experiments, table.first_steps):
                assert len({e.name for e in part}) == len(part)
        by_name = {}
        for table, experiment in experiments:
            assert by_name.setdefault(experiment.name, table) == table, "an experiment belongs to one table"
            assert (ROOT / experiment.script).exists()
            assert not experiment.replays or experiment.replays in {e.name for _, e in experiments}
        assert not set(by_name) & ({t.name for t in profile.tables} - {"vit", "vit-cifar10"})
        jobs = make_jobs(profile, 3)
        assert len({job.id for job in jobs}) == len(jobs)
        assert all(job_of(profile, job.experiment.name, job.seed, job.value).table == job.table for job in jobs)

    def test_tuned_rows_run_every_value_once_and_the_best_on_other_seeds(self):
        jobs = make_jobs(PROFILE, 3, ["easgd"])
        assert [job.id for job in jobs] == ["easgd-0.1-seed0", "easgd-0.4-seed0", "easgd-best-seed1", "easgd-best-seed2"]
        assert [job.id for job in jobs[-1].candidates()] == ["easgd-0.1-seed0", "easgd-0.4-seed0"]

    def test_only_takes_experiments_tables_and_globs(self):
        names = {only: [j.experiment.name for j in make_jobs(PROFILE, 1, [only])] for only in ("methods", "e*", "replay")}
        assert names == {"methods": ["eoa", "replay"], "e*": ["eoa", "easgd", "easgd"], "replay": ["replay"]}


class TestPacked:
    def test_the_lowest_seed_keeps_its_workers_and_others_a_line_a_population(self, tmp_path):
        for seed in (1, 0):
            add_run(tmp_path, "eoa", seed)
        rounds = read_rounds(tmp_path)
        whole, merged = (rounds[rounds.run == f"eoa-seed{seed}"] for seed in (0, 1))
        assert (len(whole), len(merged)) == (16, 8)
        assert set(merged.workers) == {2}
        np.testing.assert_allclose(merged.lr, [x for t in range(4) for x in (0.105 / (t + 1), 0.125 / (t + 1))], rtol=1e-8)
        assert list(merged.species[:2]) == ["gwo", "woa"]
        raw = pd.read_csv(tmp_path / "runs/eoa-seed0/metrics.csv")
        pd.testing.assert_frame_equal(whole.reset_index(drop=True)[list(raw)].astype(raw.dtypes), raw)

    def test_any_order_gives_the_same_bytes_and_nothing_is_dropped(self, tmp_path):
        runs = [("eoa", 0, EOA), ("eoa", 1, EOA), ("eoa", 2, EOA), ("cosine", 0, one_population("cosine"))]
        contents = set()
        for k, order in enumerate(permutations(runs)):
            folder = tmp_path / str(k)
            for name, seed, populations in order:
                add_run(folder, name, seed, populations=populations)
            contents.add(((folder / RUNS).read_bytes(), (folder / METRICS).read_bytes()))
        assert len(contents) == 1
        assert [(r["name"], r["seed"]) for r in lines_of(folder / RUNS)] == [("cosine", 0), ("eoa", 0), ("eoa", 1), ("eoa", 2)]
        assert len(read_rounds(folder)) == 16 + 16 + 8 + 8

    def test_a_run_takes_the_place_of_one_of_the_same_name_and_seed(self, tmp_path):
        add_run(tmp_path, "eoa", 0, 0.5)
        (tmp_path / "runs/eoa-seed0").rename(tmp_path / "runs/before")
        add_run(tmp_path, "eoa", 0, 0.9, diverged_after=2)
        (run,) = read_runs(tmp_path)
        assert run.summary["test_accuracy"] == 0.9
        assert sorted(set(read_rounds(tmp_path)["round"])) == [0, 1]

    def test_gaps_and_infinities_survive(self, tmp_path):
        def change(frame):
            return frame.assign(fitness=frame.fitness.where(frame["rank"] != 1, -np.inf), val_accuracy=np.nan)

        for seed in (0, 1):
            add_run(tmp_path, "eoa", seed, change=change)
        rounds = read_rounds(tmp_path)
        assert rounds.val_accuracy.isna().all()
        assert np.isneginf(rounds[rounds["rank"] == 1].fitness).all()
        assert list(np.isneginf(rounds[rounds.run == "eoa-seed1"].fitness)) == [True, False] * 4

    @pytest.mark.parametrize("seed", [0, 1])
    def test_restored_rounds_hold_the_same_mean_rates(self, tmp_path, seed):
        uneven = ({"species": "gwo", "workers": 3, "optimizer": "sgd"}, {"species": "woa", "workers": 1, "optimizer": "sgd"})
        runs = [add_run(tmp_path, "eoa", s, populations=uneven) for s in (0, 1)]
        restore(runs[seed], tmp_path, tmp_path / "again")
        before, after = (pd.read_csv(f / "metrics.csv") for f in (tmp_path / f"runs/eoa-seed{seed}", tmp_path / "again"))
        np.testing.assert_allclose(after.groupby("round").lr.mean(), before.groupby("round").lr.mean(), rtol=1e-8)
        assert json.loads((tmp_path / "again/config.json").read_text()) == runs[seed].config

    def test_two_processes_at_once_lose_nothing(self, tmp_path):
        code = (
            "import sys; sys.path.insert(0, 'tests/unit'); from pathlib import Path; from made_up import add_run\n"
            "for seed in range(8): add_run(Path(sys.argv[1]), sys.argv[2], seed)"
        )
        started = [subprocess.Popen([sys.executable, "-c", code, tmp_path, name], cwd=ROOT) for name in ("a", "b")]
        assert [process.wait(120) for process in started] == [0, 0]
        assert [(run.name, run.seed) for run in read_runs(tmp_path)] == [(n, s) for n in "ab" for s in range(8)]
        assert read_rounds(tmp_path).run.nunique() == 16

    def test_a_damaged_line_is_named(self, tmp_path):
        add_run(tmp_path, "eoa")
        with open(tmp_path / RUNS, "a", encoding="utf-8") as file:
            file.write('\n{"name": "eo')
        with pytest.raises(UsageError, match=r"runs.jsonl, line 3 is damaged"):
            read_runs(tmp_path)

    def test_files_hold_no_time(self, tmp_path):
        add_run(tmp_path, "eoa")
        content = (tmp_path / METRICS).read_bytes()
        assert content == gzip.compress(gzip.decompress(content), mtime=0)


WORDS = st.text("abc.1", min_size=1, max_size=5)


@given(st.dictionaries(st.text("abc-", min_size=1, max_size=6).map("--x{}".format), st.one_of(st.just(""), WORDS), max_size=5))
@settings(max_examples=50, deadline=None)
def test_options_are_read_from_a_command_line_in_any_order_and_form(options):
    apart = [word for name, value in options.items() for word in (name, value) if word]
    joined = [f"{name}={value}" if value else name for name, value in reversed(options.items())]
    assert options_of(apart) == options_of(joined) == options
    assert options_of([*apart, "--seed", "3", "--out", "x", "--resume"]) == options


class TestThere:
    def add(self, tmp_path, job, test=0.9, **more):
        options = " ".join(word for pair in row_options(job).items() for word in pair)
        name, seed = job.name, job.seed
        script = {"populations": one_population("x", workers=job.experiment.ranks)}
        folder = tmp_path / "cpu" / job.table
        run = add_run(folder, name, seed, test, options=options, **script, **more)
        pack(replace(run, script=job.experiment.script), folder / "runs" / run.id, folder)

    def test_a_run_is_there_with_the_script_ranks_and_options_of_its_row(self, tmp_path):
        job = job_of(PROFILE, "eoa", 0, None)
        assert Records(PROFILE, tmp_path).find(job) is None
        self.add(tmp_path, job)
        assert Records(PROFILE, tmp_path).find(job)
        for changed in ({"options": "--depth 4"}, {"ranks": 8}, {"script": "EOA-SAM/EOASAM-cifar100.py"}):
            assert Records(PROFILE, tmp_path).find(replace(job, experiment=replace(EOA_RUN, **changed))) is None

    def test_the_value_that_was_best_on_validation_images_is_run_on_other_seeds(self, tmp_path):
        low, high, other = make_jobs(PROFILE, 2, ["easgd"])
        assert Records(PROFILE, tmp_path).resolve(other) is None
        self.add(tmp_path, low, 0.8)
        assert Records(PROFILE, tmp_path).resolve(other) is None, "not before all values have a record"
        self.add(tmp_path, high, 0.9, diverged_after=2)
        assert Records(PROFILE, tmp_path).resolve(other).value == "0.1", "a run that diverged is not chosen"
        self.add(tmp_path, replace(other, value="0.1"))
        assert Records(PROFILE, tmp_path).find(other).name == "easgd-0.1"

    def test_a_plan_has_what_is_missing_and_what_that_needs(self, tmp_path):
        args = argparse.Namespace(jobs=2, slurm=False, results=tmp_path, workers=8, fresh=False)

        def plan(only, seeds=1):
            records = Records(PROFILE, tmp_path)
            todo = [job for job in make_jobs(PROFILE, seeds, only) if not main.is_there(records, job)]
            return {j["id"]: j for j in main.make_plan(PROFILE, main.with_needs(todo, records), args, 2)["jobs"]}

        assert list(plan(["replay"])) == ["replay-seed0", "eoa-seed0"]
        assert plan(["replay"])["replay-seed0"]["needs"] == ["eoa-seed0"]
        self.add(tmp_path, job_of(PROFILE, "eoa", 0, None))
        assert list(plan(["replay"])) == ["replay-seed0"]
        jobs = make_jobs(PROFILE, 1)
        source, replay = (job_of(PROFILE, name, 0, None) for name in ("eoa", "replay"))
        assert main.with_replays([source], jobs, PROFILE) == [source, replay], "rates that change are replayed again"
        assert plan(["replay"])["replay-seed0"]["needs"] == []
        self.add(tmp_path, replay, summary={"replayed_weights": f"{0:064x}"})
        assert not plan(["replay"])
        (tmp_path / "cpu/methods/runs/eoa-seed0").rename(tmp_path / "before")
        self.add(tmp_path, source, summary={"weights_sha256": f"{1:064x}"})
        assert list(plan(["replay"])) == ["replay-seed0"], "the rates that it replayed are another run's"
        easgd = plan(["easgd"], 2)
        assert easgd["easgd-best-seed1"]["needs"] == ["easgd-0.1-seed0", "easgd-0.4-seed0"]

    def test_of_profile_smoke_a_record_of_another_commit_is_not_there(self, tmp_path, monkeypatch):
        smoke = replace(PROFILE, name="smoke")
        job = job_of(smoke, "eoa", 0, None)
        self.add(tmp_path, job)
        (tmp_path / "cpu").rename(tmp_path / "smoke")
        records = Records(smoke, tmp_path)
        assert records.find(job)
        monkeypatch.setattr(main, "commit", lambda: "abc1234")
        assert main.is_there(records, job)
        monkeypatch.setattr(main, "commit", lambda: "def5678")
        assert not main.is_there(records, job)


@pytest.mark.parametrize(
    ("ranks", "jobs", "cores", "share"),
    [(1, 2, 2, (1, 1)), (1, 1, 2, (2, None)), (8, 2, 2, (2, None)), (1, 4, 16, (4, 4)), (2, 4, 16, (4, 2)), (8, 4, 16, (8, 1))],
)
def test_cores_and_threads_of_a_job(ranks, jobs, cores, share, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    found = main.share_of(Job("t", replace(EOA_RUN, ranks=ranks), 0), jobs, cores)
    assert (found.cores, found.threads, found.side_by_side) == (*share, share[0] < cores)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert main.share_of(Job("t", replace(EOA_RUN, ranks=ranks), 0), jobs, cores).threads == 3


class TestJob:
    def test_names_with_dots_have_logs_of_their_own(self):
        logs = {beside(Path("runs") / f"cosine-{rate}-seed0", ".log").name for rate in ("0.001", "0.01")}
        assert logs == {"cosine-0.001-seed0.log", "cosine-0.01-seed0.log"}

    def test_command_lines(self, tmp_path):
        folder = ROOT / "results/cpu/tau/runs/easgd-0.4-seed1"
        words = command(JOB, folder, "cpu", "mpirun")
        assert " ".join(words) == (
            "mpirun --oversubscribe --bind-to none -np 3 python EASGD/EASGD.py --preset cpu --seed 1 "
            "--out results/cpu/tau/runs/easgd-0.4-seed1 --period 4 --learning-rate 0.4"
        )
        assert command(JOB, folder, "cpu", "srun")[:3] == ["srun", "-n", "3"]

    def test_a_replay_reads_the_rates_of_a_packed_run(self, tmp_path):
        add_run(tmp_path / "cpu/methods", "eoa", 0)
        job, folder = Job("methods", REPLAY, 0), tmp_path / "replay-seed0"
        restore_replayed(job, folder, Records(PROFILE, tmp_path))
        words = command(job, folder, "cpu", "mpirun")
        assert words[-2:] == ["--replay", str(tmp_path / "replay-seed0.replayed")]
        assert len(pd.read_csv(tmp_path / "replay-seed0.replayed/metrics.csv")) == 16

    @pytest.mark.parametrize(
        ("given", "marker", "goes_on"),
        [
            ("--period 4 --learning-rate 0.4", "", True),
            ("--learning-rate=0.4 --period 4 --resume", "", True),
            ("--period 4 --learning-rate 0.1", "", False),
            ("--period 4 --learning-rate 0.4", "packed", False),
        ],
    )
    def test_an_interrupted_run_goes_on_if_its_options_are_the_same(self, tmp_path, given, marker, goes_on):
        assert not can_go_on(JOB, tmp_path), "there is no record"
        line = f"mpirun -np 3 python EASGD/EASGD.py --preset cpu --seed 1 --out x {given}"
        told = {"command": line, "ranks": 3, "commit": commit()}
        (tmp_path / "environment.json").write_text(json.dumps(told))
        if marker:
            (tmp_path / marker).touch()
        assert can_go_on(JOB, tmp_path) == goes_on
        for other in ({"ranks": 4}, {"commit": "abc1234"}):
            (tmp_path / "environment.json").write_text(json.dumps(told | other))
            assert not can_go_on(JOB, tmp_path)

    def test_a_record_leaves_paths_out_and_knows_the_last_loss(self, tmp_path):
        content = {"config": {"out": "/x", "data_dir": "/y", "seed": 0}, "environment": {}, "summary": {"rounds": 2}}
        for name, keys in content.items():
            (tmp_path / f"{name}.json").write_text(json.dumps(keys))
        (tmp_path / "metrics.csv").write_text("round,train_loss\n0,9\n1,2\n1,4\n1,nan\n")
        source = add_run(tmp_path / "methods", "eoa")
        assert packed(Job("methods", REPLAY, 0), tmp_path, False, source).summary["replayed_weights"] == f"{0:064x}"
        run = packed(Job("tau", TUNED, 0, "0.4"), tmp_path, side_by_side=True)
        assert (run.name, run.seed, run.script, run.ranks, run.side_by_side) == ("easgd-0.4", 0, "EASGD/EASGD.py", 3, True)
        assert run.options == {"--period": "4", "--learning-rate": "0.4"}
        assert run.config == {"seed": 0}
        assert run.summary == {"rounds": 2, "train_loss": 3.0}
        assert last_loss(tmp_path / "nothing") == {}


def test_progress_in_words():
    assert [clock(s) for s in (5, 80, 7505)] == ["0:05", "1:20", "2:05:05"]
    seen = {"done": {"a": Path(), "b": Path()}, "failed": {"c": Path()}}
    assert status(9, seen, ["e", "d"], 61, 100) == "[2/9, 1 failed] 1:01, about 1:40 to go; running: d, e"
    assert status(9, {"done": {}, "failed": {}}, [], 0, None) == "[0/9] 0:00"


def run_all(*words):
    command = [sys.executable, "-m", "experiments", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8", check=False)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--profile", "large"], "invalid choice: 'large'"),
        (["--only"], "--only: expected at least one argument"),
        (["--only", "eoa", "nothing"], "has no experiment or table 'nothing'; it has: "),
        (["--seeds", "0"], "has to be a whole number of at least 1, not '0'"),
        (["--jobs", "-1"], "--jobs"),
        (["--unknown"], "unrecognized arguments: --unknown"),
        (["--results", "README.md/x"], "README.md is not a writable folder; name another"),
    ],
)
def test_wrong_usage_is_one_line_before_anything_runs(words, said):
    done = run_all(*words)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def test_help_and_mistakes_need_nothing_installed():
    bare = [sys.executable, "-S", "-m", "experiments.options"]  # -S: no installed packages
    done = subprocess.run([*bare, "--help"], cwd=ROOT, capture_output=True, encoding="utf-8", check=True)
    assert "--profile" in done.stdout
    assert subprocess.run([*bare, "--seeds", "0"], cwd=ROOT, capture_output=True, check=False).returncode == 2


def test_listing_and_dry_run(tmp_path):
    done = run_all("--list", "--only", "search", "--results", str(tmp_path))
    assert done.stdout.splitlines()[1] == "  search-grid                      ranks  2   0 of 1 runs are there"
    done = run_all("--dry-run", "--only", "replay", "salsa", "--results", str(tmp_path))
    lines = done.stdout.splitlines()
    assert lines[0] == "== profile smoke: 2 runs, 0 of them are there"
    assert "# replay-seed0: after eoa-seed0" in lines
    assert any(line.startswith("mpirun ") and "SaLSA/SaLSA.py --preset smoke --seed 0 --out" in line for line in lines)
    assert not list(tmp_path.iterdir())
