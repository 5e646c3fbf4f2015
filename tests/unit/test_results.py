"""Tables, figures and report from made-up records whose means can be worked out by hand."""

import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

RESULTS = Path(__file__).parents[2] / "results"
sys.path.insert(0, str(RESULTS))  # a folder of scripts, which find each other there

import best  # noqa: E402
import make_figures  # noqa: E402
import make_report  # noqa: E402
import make_tables  # noqa: E402
import names  # noqa: E402
import records as recorded  # noqa: E402
import step_tables  # noqa: E402
import sweep_tables  # noqa: E402
import update_readme  # noqa: E402

EOA = [{"species": "gwo", "workers": 2, "optimizer": "asam"}, {"species": "woa", "workers": 2, "optimizer": "asam"}]
ROUNDS, ROUND_IMAGES = 4, 5 * 8


def add_run(root, name, seed=0, test=0.9, method="eoa", populations=EOA, finish=True, diverged_after=None, **options):
    """One run of four ranks, as common/training/record.py leaves it: `ROUNDS` rounds of five steps of eight images."""
    rounds = ROUNDS if diverged_after is None else diverged_after
    workers = [(k, p) for k, p in enumerate(populations) for _ in range(p["workers"])]
    directory = root / "smoke" / name
    directory.mkdir(parents=True)
    config = {
        **{"method": method, "dataset": "digits", "model": "cnn", "width": 2, "seed": seed, "ranks": len(workers)},
        **{"rounds": ROUNDS, "population_list": populations, "batch_size": 8, "round_steps": 5, "out": str(directory)},
        **options,
    }
    environment = {
        **{"commit": "abc1234", "command": f"mpirun -np 4 python EOA-SAM/EOASAM.py --seed {seed}", "device": "cpu"},
        **{"processor": "Example", "cores": 2, "memory_gib": 8.0},
    }
    passes = 2 if populations[0]["optimizer"] == "asam" else 1
    seconds = {"setup": 1.0, "train": 6.0 + seed, "evaluate": 0.5, "exchange": 1.5, "other": 0.25}
    summary = {
        **{"method": method, "model": "CNN-2", "ranks": len(workers), "rounds": rounds, "diverged": diverged_after is not None},
        **{"train_images": rounds * ROUND_IMAGES, "gradient_evaluations": passes * rounds * ROUND_IMAGES},
        **{"validation_accuracy": test - 0.05, "test_accuracy": test, "images_per_second": 100.0, "commit": "abc1234"},
        **{"seconds": {"total": sum(seconds.values()), **seconds}, "bytes_sent": {"inside": 3_000_000, "across": 250_000}},
    }
    lines = [
        {
            **{"round": t, "rank": rank, "population": k, "species": p["species"], "optimizer": p["optimizer"]},
            **{"lr": 0.1 / (t + 1) * (1 + 0.1 * rank * (method == "eoa"))},
            **dict.fromkeys(("fitness", "val_accuracy"), round(test - 0.3 / (t + 1) - 0.01 * ((rank + t) % 4), 6)),
        }
        for t in range(rounds)
        for rank, (k, p) in enumerate(workers)
    ]
    if diverged_after is not None:
        lost = {"lr": 0.1, "fitness": -np.inf, "val_accuracy": np.nan}
        lines += [
            {"round": rounds, "rank": rank, "population": k, **{w: p[w] for w in ("species", "optimizer")}, **lost}
            for rank, (k, p) in enumerate(workers)
        ]
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "environment.json").write_text(json.dumps(environment))
    if lines:
        pd.DataFrame(lines).to_csv(directory / "metrics.csv", index=False)
    if finish:
        (directory / "summary.json").write_text(json.dumps(summary))
    return directory


def plain(method, optimizer="asam"):
    """The one population of a baseline."""
    return {"method": method, "populations": [{"species": method, "workers": 4, "optimizer": optimizer}]}


@pytest.fixture
def root(tmp_path):
    """Three seeds of EOA, two of cosine of which one diverged, one that never finished of linear scaling."""
    for seed, test in enumerate((0.90, 0.92, 0.97)):
        add_run(tmp_path, f"eoa-sam/eoa-s{seed}", seed, test)
    add_run(tmp_path, "baselines/cosine-s0", 0, 0.8, **plain("cosine"))
    add_run(tmp_path, "baselines/cosine-s1", 1, 0.2, diverged_after=2, **plain("cosine"))
    add_run(tmp_path, "baselines/linear-s0", 0, finish=False, **plain("linear"))
    return tmp_path


@pytest.fixture
def records(root):
    return recorded.load(root, "smoke")


def line(records, method):
    return records.rows[records.rows.method == method].iloc[0]


class TestRows:
    def test_records_from_before_an_option_belong_to_its_default(self, tmp_path):
        add_run(tmp_path, "eoa-sam/eoa-s0", 0)
        add_run(tmp_path, "eoa-sam/eoa-s1", 1, initialisation="fan-out", flip=True)
        add_run(tmp_path, "eoa-sam/other-s0", 0, initialisation="fan-in", flip=True)
        rows = recorded.load(tmp_path, "smoke").rows
        assert sorted(rows.n) == [1, 2]

    def test_mean_and_deviation_over_seeds(self, records):
        eoa = line(records, "eoa")
        assert eoa.n == 3
        assert eoa.test_accuracy_mean == pytest.approx(0.93)
        # deviations -0.03, -0.01, 0.04: squares sum to 0.0026, over n - 1 = 2
        assert eoa.test_accuracy_sd == pytest.approx(0.0013**0.5)
        assert eoa.seconds_train_mean == pytest.approx(7.0)
        assert eoa.sync_share_mean == pytest.approx((2 / 8 + 2 / 9 + 2 / 10) / 3)
        assert (eoa.mb_inside_mean, eoa.mb_across_mean) == (3.0, 0.25)
        assert (eoa.train_images_mean, eoa.gradient_evaluations_mean) == (160, 320)

    def test_order_and_titles(self, records):
        assert list(records.rows.method) == ["eoa", "cosine", "linear"]
        assert list(records.rows.label) == ["EOA", "cosine", "linear scaling"]

    def test_diverged_run_counts(self, records):
        cosine = line(records, "cosine")
        assert (cosine.n, cosine.diverged, cosine.incomplete) == (2, 1, 0)
        assert cosine.test_accuracy_mean == pytest.approx(0.5)
        assert "diverged after 2 of 4 rounds" in records.runs.problem["baselines/cosine-s1"]

    def test_incomplete_run_has_a_row_without_numbers(self, records):
        linear = line(records, "linear")
        assert (linear.n, linear.incomplete) == (0, 1)
        assert np.isnan(linear.test_accuracy_mean)
        assert records.runs.problem["baselines/linear-s0"] == "no summary.json (4 of 4 rounds recorded)"

    def test_one_seed_has_no_deviation(self, tmp_path):
        add_run(tmp_path, "eoa-sam/only")
        rows = recorded.load(tmp_path, "smoke").rows
        assert rows.n.item() == 1
        assert np.isnan(rows.test_accuracy_sd.item())

    def test_same_seed_twice_counts_once(self, tmp_path):
        add_run(tmp_path, "eoa-sam/a", 0, 0.9)
        add_run(tmp_path, "eoa-sam/b", 0, 0.7)
        records = recorded.load(tmp_path, "smoke")
        assert list(records.runs.status) == ["finished", "repeated"]
        assert (records.rows.n.item(), records.rows.repeated.item()) == (1, 1)
        assert records.rows.test_accuracy_mean.item() == pytest.approx(0.9)

    def test_another_option_is_another_row_and_is_named(self, tmp_path):
        add_run(tmp_path, "eoa-sam/a", exchange="average")
        add_run(tmp_path, "eoa-sam/b", exchange="ring", data_dir="elsewhere")
        add_run(tmp_path, "eoa-sam/c", 1, exchange="ring")
        rows = recorded.load(tmp_path, "smoke").rows
        assert list(rows.setting) == ["exchange average", "exchange ring"]
        assert list(rows.n) == [1, 2]

    def test_optimizers_and_populations_are_named_where_they_differ(self, tmp_path):
        add_run(tmp_path, "eoa-sam/a")
        add_run(tmp_path, "eoa-sam/b", populations=[{**EOA[0], "optimizer": "sgd"}, EOA[1]])
        rows = recorded.load(tmp_path, "smoke").rows
        assert set(rows.workers) == {"4: 2 gwo + 2 woa", "4: 2 gwo with sgd + 2 woa with asam"}
        assert set(rows.setting) == {"asam", "sgd, asam"}
        assert rows.label.is_unique

    def test_same_records_in_another_order_of_creation(self, tmp_path, root):
        again = tmp_path / "again"
        for seed, test in reversed(list(enumerate((0.90, 0.92, 0.97)))):
            add_run(again, f"eoa-sam/eoa-s{seed}", seed, test)
        before, after = (line(recorded.load(r, "smoke"), "eoa") for r in (root, again))
        assert (before.seeds, before.command) == (after.seeds, after.command) == ("0, 1, 2", after.command)


class TestUnusableRuns:
    @pytest.mark.parametrize(
        ("file", "content", "problem"),
        [
            ("summary.json", "{", "summary.json is not valid JSON"),
            ("summary.json", "{}", "summary.json lacks method, model, ranks"),
            ("config.json", None, "no config.json"),
            ("environment.json", None, "no environment.json"),
            ("metrics.csv", "round,rank\n0,0\n", "metrics.csv lacks population"),
            ("metrics.csv", "", "metrics.csv is not readable"),
            ("metrics.csv", None, "no metrics.csv"),
        ],
    )
    def test_named_and_counted(self, tmp_path, file, content, problem):
        add_run(tmp_path, "eoa-sam/good", 0)
        path = add_run(tmp_path, "eoa-sam/bad", 1) / file
        path.unlink() if content is None else path.write_text(content)
        records = recorded.load(tmp_path, "smoke")
        assert records.runs.status.to_dict() == {"eoa-sam/bad": "incomplete", "eoa-sam/good": "finished"}
        assert problem in records.runs.problem["eoa-sam/bad"]
        assert records.rows.incomplete.sum() == 1
        make_tables.write(records, tmp_path / "tables")
        assert list(make_figures.draw(records))

    def test_summary_without_a_phase(self, tmp_path):
        path = add_run(tmp_path, "eoa-sam/old") / "summary.json"
        summary = json.loads(path.read_text())
        del summary["seconds"]["exchange"]
        path.write_text(json.dumps(summary))
        assert "summary.json lacks exchange" in recorded.load(tmp_path, "smoke").runs.problem.item()

    def test_cut_metrics(self, tmp_path):
        path = add_run(tmp_path, "eoa-sam/cut") / "metrics.csv"
        path.write_text("\n".join(path.read_text().splitlines()[:-3]) + "\n")
        problem = recorded.load(tmp_path, "smoke").runs.problem.item()
        assert "metrics.csv has 13 lines instead of 16" in problem

    def test_empty_directory(self, tmp_path):
        (tmp_path / "smoke/eoa-sam/nothing").mkdir(parents=True)
        records = recorded.load(tmp_path, "smoke")
        assert records.runs.status.item() == "incomplete"
        make_tables.write(records, tmp_path / "tables")
        assert list(make_figures.draw(records)) == []

    @pytest.mark.parametrize("rounds", [0, 2])
    @pytest.mark.parametrize("with_the_fatal_round", [True, False])
    def test_diverged(self, tmp_path, rounds, with_the_fatal_round):
        path = add_run(tmp_path, "eoa-sam/gone", diverged_after=rounds) / "metrics.csv"
        metrics = pd.read_csv(path)
        metrics = metrics if with_the_fatal_round else metrics[metrics["round"] < rounds]
        metrics.to_csv(path, index=False) if len(metrics) else path.unlink()
        records = recorded.load(tmp_path, "smoke")
        assert records.runs.status.item() == "diverged"
        assert f"diverged after {rounds} of 4 rounds" in records.runs.problem.item()
        make_tables.write(records, tmp_path / "tables")
        make_figures.write(records, tmp_path / "figures")

    def test_a_run_whose_workers_lost_their_weights_for_a_round(self, tmp_path):
        path = add_run(tmp_path, "eoa-sam/shaken") / "metrics.csv"
        metrics = pd.read_csv(path)
        metrics.loc[metrics["rank"] == 0, ["fitness", "val_accuracy"]] = -np.inf, np.nan
        metrics.to_csv(path, index=False)
        records = recorded.load(tmp_path, "smoke")
        assert not records.metrics.leader[records.metrics["rank"] == 0].any()
        assert make_figures.write(records, tmp_path / "figures")

    def test_no_runs_at_all(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"no runs under .*smoke: make some with `./run_all.sh --profile smoke`"):
            recorded.load(tmp_path, "smoke")


class TestMetrics:
    def test_images_seen_by_all_workers(self, records):
        images = records.rounds_of("eoa-sam/eoa-s0").groupby("round").images.first()
        assert list(images) == [40, 80, 120, 160]

    def test_leader_is_the_fittest(self, records):
        leaders = records.rounds_of("eoa-sam/eoa-s0").query("leader")
        assert list(leaders["rank"]) == [0, 3, 2, 1]  # fitness falls with (rank + t) mod 4

    def test_ties_go_to_the_higher_rate_then_to_the_lower_rank(self, tmp_path):
        path = add_run(tmp_path, "eoa-sam/tie") / "metrics.csv"
        metrics = pd.read_csv(path)
        metrics["fitness"] = 0.5
        metrics["lr"] = metrics["rank"].map({0: 0.1, 1: 0.3, 2: 0.3, 3: 0.2})
        metrics.to_csv(path, index=False)
        leaders = recorded.load(tmp_path, "smoke").metrics.query("leader")
        assert list(leaders["rank"]) == [1] * ROUNDS


class TestTables:
    def test_accuracy(self, records):
        table = make_tables.accuracy_table(records).set_index("method")
        assert list(table["test accuracy, %"]) == ["93.00 ± 3.61 (n = 3)", "50.00 ± 42.43 (n = 2)", "– (n = 0)"]
        assert table["validation, %"]["EOA"] == "88.00 ± 3.61"
        assert table["gradient evaluations"]["EOA"] == "320"
        assert list(table["ranks: populations"]) == ["4: 2 gwo + 2 woa", "4", "4"]
        assert list(table["remarks"]) == ["", "1 diverged", "1 incomplete"]

    def test_what_a_line_search_tried_besides_is_remarked(self, tmp_path):
        for seed, extra in enumerate((0.10, 0.14)):
            directory = add_run(tmp_path, f"salsa/salsa-s{seed}", seed, **plain("salsa", "salsa"))
            path = directory / "summary.json"
            path.write_text(json.dumps(json.loads(path.read_text()) | {"extra_forward": extra}))
        add_run(tmp_path, "baselines/cosine-s0", 0, 0.8, **plain("cosine"))
        table = make_tables.accuracy_table(recorded.load(tmp_path, "smoke"))
        assert sorted(table.remarks) == ["", "trial points: + 12.0 % of the training"]

    def test_cost(self, records):
        table = make_tables.cost_table(records).set_index("method")
        assert table["evaluate + exchange, %"]["cosine"] == "23.6"  # (2/8 + 2/9) / 2
        assert table["training, s"]["EOA"] == "7.0"
        assert table["across, MB"]["EOA"] == "0.25"

    def test_files(self, records, tmp_path):
        paths = make_tables.write(records, tmp_path / "tables")
        assert [p.name for p in paths] == ["accuracy.md", "cost.md", "accuracy.csv", "runs.csv"]
        text = paths[0].read_text()
        assert (
            "| 1 | digits, CNN-2 | EOA | 4: 2 gwo + 2 woa | 8 | 4 | 160 | 320 | 93.00 ± 3.61 (n = 3) | 88.00 ± 3.61 |  |"
            in text
        )
        assert "   mpirun -np 4 python EOA-SAM/EOASAM.py --seed 0\n" in text
        assert "python results/make_tables.py smoke" in text
        assert "Test images were read once per run" in text
        assert "| baselines/linear-s0 | incomplete |" in text
        rows, runs = pd.read_csv(paths[2]), pd.read_csv(paths[3])
        assert rows.test_accuracy_mean[0] == pytest.approx(0.93)
        assert len(runs) == 6

    def test_a_bar_inside_a_cell_does_not_split_it(self):
        assert make_tables.markdown(pd.DataFrame({"method": ["a|b"], "n": [1]})).endswith("| a\\|b | 1 |")


class TestFigures:
    def test_files(self, records, tmp_path):
        (tmp_path / "old.png").write_bytes(b"from another time")
        names = [p.name for p in make_figures.write(records, tmp_path)]
        assert names == ["accuracy-digits-cnn-2.png", "seconds-digits-cnn-2.png", "workers-digits-cnn-2-eoa.png"]
        assert sorted(p.name for p in tmp_path.glob("*.png")) == names
        assert all(10_000 < (tmp_path / n).stat().st_size < 200_000 for n in names)

    def test_accuracy_curve(self, records):
        number = records.rows.index[records.rows.method == "eoa"][0]
        curve = make_figures._curve(records, number)
        # workers of one run: test - 0.3 / (t + 1) - (0, 0.01, 0.02, 0.03), so their mean is 0.015 below the best
        np.testing.assert_allclose(curve["mean"], [0.93 - 0.3 / (t + 1) - 0.015 for t in range(ROUNDS)], atol=1e-9)
        np.testing.assert_allclose(curve.high - curve.low, 0.07, atol=1e-9)  # over seeds, 0.97 - 0.90
        assert list(curve.index) == [40, 80, 120, 160]

    def test_band_of_one_seed_is_over_its_workers(self, tmp_path):
        add_run(tmp_path, "eoa-sam/only")
        curve = make_figures._curve(recorded.load(tmp_path, "smoke"), 1)
        np.testing.assert_allclose(curve.high - curve.low, 0.03, atol=1e-9)

    def test_rounds_of_several_lengths_are_placed_by_their_images(self, tmp_path):
        add_run(tmp_path, "eoa-sam/uneven", round_steps=[1, 3, 6, 10])
        curve = make_figures._curve(recorded.load(tmp_path, "smoke"), 1)
        assert list(curve.index) == [8, 32, 80, 160]

    def test_several_base_rates_are_drawn_over_the_rate_and_the_middle_one_alone_over_time(self, tmp_path):
        for rate, test in ((0.001, 0.5), (0.1, 0.9), (10.0, 0.4)):
            for seed in range(2):
                name = f"eoa-sam/eoa-{rate}-s{seed}"
                add_run(tmp_path, name, seed, test + 0.02 * seed, learning_rate=rate)
        records = recorded.load(tmp_path, "smoke")
        pictures = {p.name: p for p in make_figures.draw(records)}
        assert set(pictures) == {
            "start-digits-cnn-2",
            "accuracy-digits-cnn-2",
            "seconds-digits-cnn-2",
            "workers-digits-cnn-2-eoa",
        }
        (line,) = pictures["start-digits-cnn-2"].figure.axes[0].get_lines()
        np.testing.assert_allclose(line.get_xdata(), [0.001, 0.1, 10])
        np.testing.assert_allclose(line.get_ydata(), [51, 91, 41])
        assert len(pictures["accuracy-digits-cnn-2"].figure.axes[0].get_lines()) == 1

    def test_a_sweep_over_base_rates_has_a_table_of_its_own(self, tmp_path):
        for rate, test in ((0.001, 0.5), (0.1, 0.9), (10.0, 0.4)):
            add_run(tmp_path, f"eoa-sam/eoa-{rate}", 0, test, learning_rate=rate)
            if rate < 1:
                add_run(tmp_path, f"baselines/cosine-{rate}", 0, test / 2, learning_rate=rate, **plain("cosine", "sgd"))
        add_run(tmp_path, "eoa-sam/other", 0, 0.7, dataset="mnist", learning_rate=0.1)
        add_run(tmp_path, "eoa-sam/twin", 0, 0.8, learning_rate=0.1, width=3)
        records = recorded.load(tmp_path, "smoke")
        ((_, rows),) = records.sweeps()
        table = sweep_tables.start_table(rows).set_index("method")
        assert list(table.columns) == ["0.001", "0.1", "10", "worst", "best", "evaluating, %"]
        assert list(table.loc["EOA"]) == ["50.00", "90.00", "40.00", "40.00", "90.00", "6.2"]  # 0.5 of 6 + 0.5 + 1.5 seconds
        assert list(table.loc["EOA (#4)"])[:3] == ["–", "80.00", "–"], "another configuration has a line of its own"
        assert list(table.loc["cosine"]) == ["25.00", "45.00", "–", "25.00", "45.00", "6.2"]
        assert len(make_tables.accuracy_table(records)) == 1, "the rows of the sweep are not in the other table"
        assert list(make_tables.accuracy_table(records)["#"]) == [1], "and come after it"
        paths = {p.name for p in make_tables.write(records, tmp_path / "tables")}
        assert "start.md" in paths
        assert "90.00" in make_report.render(records, tmp_path)
        text = "<!-- start table -->\nold\n<!-- end of start table -->\n"
        table = update_readme.table_of((tmp_path / "tables/start.md").read_text())
        assert update_readme.updated(text, "start", table) == text.replace("old", table)
        with pytest.raises(ValueError, match="no results table markers"):
            update_readme.updated(text, "results", table)
        cost = make_tables.cost_table(records).set_index("method")
        assert cost.loc["EOA, all of its sweep", ["#", "n"]].tolist() == ["2 to 5", 4], "its three rates and its twin"
        assert len(cost) == 3, "the row outside of the sweep, and a line for each of its two methods"

    def test_methods_that_never_meet_have_a_column_and_any_number_of_methods_can_be_drawn(self, tmp_path):
        methods = [*names.ELASTIC][:9]
        for method in methods:
            for tau in (1, 4, 16):
                add_run(tmp_path, f"easgd/{method}-{tau}", **plain(method, "sgd"), period=tau, learning_rate=0.1)
        apart = [{"species": "pbt", "workers": 1, "optimizer": "sgd"}] * 4
        add_run(tmp_path, "baselines/pbt", method="pbt", populations=apart, period=0, learning_rate=0.1)
        records = recorded.load(tmp_path, "smoke")
        assert line(records, "pbt").workers == "4"
        ((_, rows),) = records.periods()
        table = sweep_tables.period_table(records, rows)
        assert list(table.columns[1:5]) == ["τ = 1", "τ = 4", "τ = 16", "never"]
        assert list(table.method) == [*(names.METHODS[m] for m in methods), "population-based training"]
        assert list(table.iloc[-1, 1:5]) == ["–", "–", "–", "90.00 (n = 1; η 0.1)"]
        (picture,) = (p for p in make_figures.draw(records) if p.name.startswith("period"))
        looks = {(drawn.get_color(), drawn.get_linestyle()) for drawn in picture.figure.axes[0].get_lines()}
        assert len(looks) == len(methods) + 1

    def test_swarms_have_a_table_and_a_figure_of_their_own(self, tmp_path):
        name, own = "PSO-PS (our reconstruction)", {"shards": "own", "learning_rate": 0.1}

        def add(run, tau, swarm, distances):
            directory = add_run(tmp_path, f"pso-ps/{run}", 0, 0.8, **plain(name, "sgd"), period=tau, swarm=swarm, **own)
            summary = json.loads((directory / "summary.json").read_text())
            places = {"average_test_accuracy": 0.85, "best_worker_test_accuracy": 0.75, "new_best_share": 0.25, "distance": 2.0}
            (directory / "summary.json").write_text(json.dumps({**summary, "swarm": places}))
            metrics = pd.read_csv(directory / "metrics.csv")
            metrics.assign(
                distance=[distances[t] + rank for t, rank in zip(metrics["round"], metrics["rank"], strict=True)]
            ).to_csv(directory / "metrics.csv", index=False)

        for tau in (1, 5, 20):
            add(f"hull-{tau}", tau, "hull", [1, 2, 4, 8])
        add("clerc-20", 20, "clerc", [5, 5, np.inf, np.inf])
        add_run(tmp_path, "baselines/sync", 0, 0.9, **plain("sync", "sgd"), period=1, **own)
        add_run(tmp_path, "easgd/all-images", 0, 0.7, **plain("easgd", "sgd"), period=1, learning_rate=0.1)
        records = recorded.load(tmp_path, "smoke")
        ((subject, rows),) = records.periods()
        assert subject == "digits-CNN-2-own-images", "workers with all images are another comparison"
        table = sweep_tables.period_table(records, rows).set_index("method")
        assert list(table.loc[f"{name}, clerc"])[:3] == ["–", "–", "80.00 (n = 1; η 0.1)"], (
            "other coefficients are another method"
        )
        assert list(table.columns) == ["τ = 1", "τ = 5", "τ = 20", "rates tried"]
        swarms = sweep_tables.swarm_table(rows)
        assert list(swarms.loc[0])[:7] == [f"{name}, hull", "1", "80.00", "85.00", "75.00", "25.0", "2.00"]
        assert list(swarms["τ"]) == ["1", "5", "20", "20"], "in the order of the numbers"
        assert len(swarms) == 4
        pictures = {p.name: p for p in make_figures.draw(records)}
        level = pictures["period-digits-cnn-2-own-images"].figure.axes[0].get_lines()[0]
        np.testing.assert_allclose(level.get_xydata(), [[1, 90], [5, 90], [20, 90]])
        assert level.get_label() == "synchronous SGD: every step"
        hull, clerc, mark = pictures["distance-digits-cnn-2-own-images"].figure.axes[0].get_lines()
        np.testing.assert_allclose(clerc.get_ydata(), [6.5, 6.5], err_msg="until it flies apart")
        assert (mark.get_marker(), list(mark.get_xdata())) == ("^", [2])
        np.testing.assert_allclose(hull.get_ydata(), [2.5, 3.5, 5.5, 9.5])  # mean over ranks 0 to 3
        assert "85.00" in make_report.render(records, tmp_path)
        alone = add_run(tmp_path, "baselines/independent", 0, 0.7, **plain("independent", "sgd"), period=0, **own)
        summary = json.loads((alone / "summary.json").read_text())
        (alone / "summary.json").write_text(json.dumps({**summary, "averaged": {"test_accuracy": 0.65}}))
        ((_, rows),) = recorded.load(tmp_path, "smoke").periods()
        lines = sweep_tables.swarm_table(rows).set_index("method")
        assert list(lines.loc["independent SGD"])[:6] == ["never", "–", "65.00", "70.00", "–", "–"]
        assert len(lines) == 5

    def test_tables_made_with_pixels_in_0_to_1_say_so_where_methods_of_several_scripts_are_compared(self, tmp_path):
        own = {"shards": "own", "learning_rate": 0.1}
        for tau in (1, 5, 20):  # elastic averaging by itself is published so
            add_run(tmp_path / "a", f"easgd/{tau}", **plain("easgd", "sgd"), period=tau, learning_rate=0.1, crop=28)
            add_run(tmp_path / "b", f"easgd/{tau}", **plain("easgd", "sgd"), period=tau, crop=28, **own)
            add_run(tmp_path / "c", f"easgd/{tau}", **plain("easgd", "sgd"), period=tau, crop=28, pixels="normalised", **own)
            add_run(tmp_path / "d", f"easgd/{tau}", **plain("easgd", "sgd"), period=tau, **own)
        texts = [sweep_tables.period_text(recorded.load(tmp_path / name, "smoke")) for name in "abcd"]
        assert [text.count("> Made with pixels in [0, 1]") for text in texts] == [0, 1, 0, 0]
        table = update_readme.table_of(texts[1], "## digits, CNN-2, workers with images of their own\n")
        assert table.splitlines()[0].startswith("> Made with pixels in [0, 1]")
        assert "| method | τ = 1 |" in table
        assert not update_readme.table_of(texts[2]).startswith("> Made with pixels")

    def test_tables_with_statistics_of_few_plain_images_say_so(self, tmp_path):
        for tau in (1, 5, 20):
            sweep = {"period": tau, "shards": "own", "learning_rate": 0.1}
            add_run(tmp_path / "old", f"easgd/{tau}", **plain("easgd", "sgd"), **sweep)
            add_run(tmp_path / "new", f"easgd/{tau}", **plain("easgd", "sgd"), **sweep, statistics_images=2000)
            add_run(tmp_path / "none", f"easgd/{tau}", **plain("easgd", "sgd"), **{**sweep, "model": "easgd-cnn"})
        texts = [sweep_tables.period_text(recorded.load(tmp_path / name, "smoke")) for name in ("old", "new", "none")]
        assert [text.count("> Made with batch-norm statistics of evaluated weights (EASGD)") for text in texts] == [1, 0, 0]
        assert update_readme.table_of(texts[0]).startswith("> Made with batch-norm statistics")
        assert update_readme.table_of(texts[1]).startswith("| method |")
        for name, count in (("old", 1), ("new", 0)):
            page = make_report.render(recorded.load(tmp_path / name, "smoke"), tmp_path)
            assert page.count("Made with batch-norm statistics of evaluated weights (EASGD)") == count

    def test_records_from_before_pixels_were_an_option_share_a_row_with_later_ones(self, tmp_path):
        add_run(tmp_path, "eoa/old", 0)
        add_run(tmp_path, "eoa/new", 1, pixels="normalised")
        add_run(tmp_path, "easgd/old", 0, **plain("easgd", "sgd"), crop=28)
        add_run(tmp_path, "easgd/new", 1, **plain("easgd", "sgd"), crop=28, pixels="unit")
        assert list(recorded.load(tmp_path, "smoke").rows.n) == [2, 2]

    def test_periods_have_a_table_with_the_rate_that_validation_chose(self, tmp_path):
        # The higher rate is better on validation images at every period but the longest, where it diverged.
        for tau in (1, 4, 16):
            for rate, test in ((0.1, 0.8), (0.5, 0.6 if tau == 1 else 0.9)):
                lost = {"diverged_after": 2} if (tau, rate) == (16, 0.5) else {}
                name = f"easgd/aeasgd-{tau}-{rate}"
                add_run(tmp_path, name, 0, test, **plain("aeasgd", "sgd"), period=tau, learning_rate=rate, **lost)
        add_run(tmp_path, "easgd/aeasgd-4-0.5-s1", 1, 0.94, **plain("aeasgd", "sgd"), period=4, learning_rate=0.5)
        add_run(tmp_path, "eoa-sam/eoa", 0, 0.7)
        records = recorded.load(tmp_path, "smoke")
        assert not records.sweeps(), "rates were tuned, not swept"
        ((name, rows),) = records.periods()
        assert name == "digits-CNN-2-easgd"
        table = sweep_tables.period_table(records, rows).set_index("method")
        cells = list(table.loc["AEASGD"])
        assert cells[0] == "80.00 (n = 1; η 0.1)"
        assert cells[1] == "92.00 ± 2.83 (n = 2; η 0.5)"
        assert cells[2] == "80.00 (n = 1; η 0.1)", "a run that diverged is not chosen"
        assert cells[3:] == ["0.1, 0.5", "18.1 / 18.2 / 18.2 / 17.7"]
        assert "Diverged: AEASGD at τ = 16, η 0.5." in sweep_tables.period_text(records)
        assert list(make_tables.accuracy_table(records)["#"]) == [1]
        pictures = {p.name: p for p in make_figures.draw(records)}
        assert {n for n in pictures if n.endswith("easgd")} == {"period-digits-cnn-2-easgd"}
        (line,) = pictures["period-digits-cnn-2-easgd"].figure.axes[0].get_lines()
        np.testing.assert_allclose(line.get_xydata(), [[1, 80], [4, 92], [16, 80]])
        runs = [str(tmp_path / "smoke/easgd" / f"aeasgd-16-{rate}") for rate in (0.1, 0.5)]
        assert max(runs, key=best.score) == runs[0]

    def test_steps_have_a_table_with_tuned_rates_beside_line_searches_that_nobody_tuned(self, tmp_path):
        bare = {"label_smoothing": 0, "weight_decay": 0, "adam_decay": 0}

        def add(method, optimizer, loss, test, seed=0, **options):
            kind = {**plain(method, optimizer), "optimizer": optimizer, **bare, **options}
            name = f"{method}-{optimizer}-{'-'.join(map(str, options.values()))}-{seed}"
            directory = add_run(tmp_path, f"baselines/{name}", seed, test, **kind)
            metrics = pd.read_csv(directory / "metrics.csv")
            # falls to `loss` in the last round, a hundredth higher on odd ranks
            metrics.assign(train_loss=loss + 1.0 * (3 - metrics["round"]) + 0.01 * (metrics["rank"] % 2)).to_csv(
                directory / "metrics.csv", index=False
            )

        for rate, test in ((0.001, 0.7), (0.01, 0.9), (0.1, 0.8)):
            add("constant", "adamw", 0.195, test, adam_rate=rate)
        add("constant", "adamw", 0.295, 0.94, seed=1, adam_rate=0.01)
        add("cosine", "sgd", 0.1, 0.85, learning_rate=0.1)
        add("cosine", "sgd", 0.1, 0.95, learning_rate=0.1, weight_decay=1e-4)  # another comparison
        add("cosine", "prodigy", 0.1, 0.85, learning_rate=0.1)
        for eta0, test in ((0.001, 0.92), (0.1, 0.9), (1.0, 0.91)):
            add("salsa", "salsa", 0.095, test, eta0=eta0)
        records = recorded.load(tmp_path, "smoke")
        assert not records.sweeps()
        ((subject, rows),) = records.steps()
        assert subject == "digits-CNN-2-steps"
        table = step_tables.steps_table(rows).set_index("method")
        assert list(table.index) == ["cosine, SGD", "cosine, Prodigy", "constant rate, Adam", "SaLSA, Adam"]
        adam = table.loc["constant rate, Adam"]
        assert list(adam)[:4] == ["0.01 of 0.001, 0.01, 0.1", "0.25 ± 0.07", "0", "92.00 ± 2.83 (n = 2)"]
        salsa = table.loc["SaLSA, Adam"]
        assert list(salsa)[:4] == ["found", "0.1", "-60", "90.00 (n = 1)"], "the usual first step counts, not the luckiest"
        assert table.loc["cosine, Prodigy", "rate"] == "–"
        assert "published loss, other protocol" not in table, "nothing was published on digits"
        swept = step_tables.first_step_table(rows).set_index("method")
        assert list(swept.columns) == ["0.001", "0.01", "0.1", "1", "spread"]
        assert list(swept.loc["SaLSA, Adam"]) == ["92.00", "–", "90.00", "91.00", "2.0"]
        assert list(swept.index) == ["constant rate, Adam", "SaLSA, Adam"]
        assert list(make_tables.accuracy_table(records)["method"]) == ["cosine"], "with decay, its loss is another"
        pictures = {p.name: p for p in make_figures.draw(records)}
        left, right = pictures["steps-digits-cnn-2"].figure.axes
        assert [t.get_text() for t in left.get_yticklabels()] == list(table.index)
        assert [len(a.get_lines()) for a in (left, right)] == [2 * 4 + 3, 2 * 4]  # a line and dots each; the legend's dots
        curves = {c.get_label(): c for c in pictures["first-step-digits-cnn-2"].figure.axes[0].get_lines()}
        np.testing.assert_allclose(curves["SaLSA, Adam"].get_xydata(), [[0.001, 92], [0.1, 90], [1, 91]])
        np.testing.assert_allclose(curves["constant rate, Adam"].get_ydata(), [70, 92, 80])
        paths = {p.name for p in make_tables.write(records, tmp_path / "tables")}
        assert "steps.md" in paths
        assert "0.25 ± 0.07" in make_report.render(records, tmp_path)

    def test_published_losses_stand_in_a_column_of_their_own(self, tmp_path):
        bare = {"dataset": "cifar10", "label_smoothing": 0, "adam_decay": 0}
        add_run(tmp_path, "baselines/adam", **plain("constant", "adamw"), optimizer="adamw", adam_rate=0.1, **bare)
        add_run(tmp_path, "salsa/salsa", **plain("salsa", "salsa"), optimizer="salsa", eta0=0.1, **bare)
        ((_, rows),) = recorded.load(tmp_path, "smoke").steps()
        column = step_tables.steps_table(rows)["published loss, other protocol"]
        assert list(column) == ["0.01394", "0.003314; over all tasks about 50 % lower loss, about 3 % overhead"]

    def test_the_reconstruction_is_called_one_in_every_table_and_figure(self, tmp_path):
        name = "PSO-PS (our reconstruction)"
        for tau in (1, 4, 16):
            add_run(tmp_path, f"pso-ps/{tau}", 0, 0.8, **plain(name, "sgd"), period=tau, learning_rate=0.1)
            add_run(tmp_path, f"easgd/{tau}", 0, 0.7, **plain("easgd", "sgd"), period=tau, learning_rate=0.1)
        records = recorded.load(tmp_path, "smoke")
        assert name in sweep_tables.period_text(records)
        assert all(method.startswith((name, "EASGD")) for method in make_tables.cost_table(records)["method"])
        ((_, rows),) = records.groups()
        for picture in (*make_figures.draw(records), make_figures.accuracy(records, "all", rows)):
            words = [text.get_text() for text in picture.figure.axes[0].get_legend().get_texts()]
            assert any(word.startswith(name) for word in words)

    def test_axis_is_gradient_evaluations_where_an_image_costs_differently(self, tmp_path):
        add_run(tmp_path, "eoa-sam/a")
        add_run(tmp_path, "baselines/b", **plain("cosine", "sgd"))
        figure = next(make_figures.draw(recorded.load(tmp_path, "smoke"))).figure
        assert "gradient evaluations" in figure.axes[0].get_xlabel()
        ends = [drawn.get_xdata()[-1] for drawn in figure.axes[0].lines]
        assert ends == [320, 160]

    def test_same_records_give_the_same_files(self, records, tmp_path):
        first, second = (next(make_figures.draw(records)).save(tmp_path).read_bytes() for _ in range(2))
        assert first == second


class Links(HTMLParser):
    """Every src and href of a page."""

    def __init__(self):
        super().__init__()
        self.links, self.images = [], []

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.links += [found[k] for k in ("src", "href") if k in found]
        self.images += [found] if tag == "img" else []


@pytest.fixture
def folder(records, root):
    """The profile's folder with one of its figures."""
    figures = root / "smoke/figures"
    figures.mkdir()
    next(make_figures.draw(records)).save(figures)
    return root / "smoke"


class TestReport:
    def test_everything_is_on_the_page(self, records, folder):
        page = make_report.write(records, folder).read_text()
        text = re.sub(r"\s+", " ", page)
        for table in (
            make_tables.accuracy_table(records),
            make_tables.cost_table(records),
            make_tables.troubled_table(records),
        ):
            for cell in table.astype(str).to_numpy().ravel():
                assert f">{cell}</td>" in text
        assert "6 in 3 rows: 4 finished, 1 diverged, 1 incomplete" in text
        assert page.count("<pre><code>mpirun ") == 3

    def test_needs_no_other_file(self, records, folder):
        page = make_report.render(records, folder)
        parser = Links()
        parser.feed(page)
        assert [image["alt"] for image in parser.images] == ["Validation accuracy during training, digits (CNN-2)"]
        assert all(image["src"].startswith("data:image/png;base64,") for image in parser.images)
        assert "Line: mean over workers and seeds" in page
        assert [link for link in parser.links if not link.startswith("data:")] == ["../README.md"]
        assert not re.search(r"https?://|@import|url\(|<script", page)

    def test_without_figures_it_says_how_to_draw_them(self, records, root):
        assert "python results/make_figures.py smoke" in make_report.render(records, root / "smoke")

    def test_names_from_records_are_escaped(self, tmp_path):
        add_run(tmp_path, "eoa-sam/<script>alert", finish=False)
        page = make_report.render(recorded.load(tmp_path, "smoke"), tmp_path / "smoke")
        assert "&lt;script&gt;alert" in page
        assert "<script" not in page


class TestScripts:
    def test_command_line(self, root):
        for script in ("make_tables", "make_figures", "make_report"):
            command = [sys.executable, str(RESULTS / f"{script}.py"), "smoke", "--root", str(root)]
            assert subprocess.run(command, capture_output=True, check=True).stderr == b""
        assert (root / "smoke/report.html").exists()

    def test_unknown_profile(self, root):
        command = [sys.executable, str(RESULTS / "make_tables.py"), "nowhere", "--root", str(root)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 2
        assert "no runs under" in done.stderr
        assert "Traceback" not in done.stderr

    def test_neither_torch_nor_mpi_is_imported(self):
        code = "import sys, make_report, make_figures; print({'torch', 'mpi4py', 'common.parallel.mpi'} & set(sys.modules))"
        done = subprocess.run([sys.executable, "-c", code], cwd=RESULTS, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "set()"
