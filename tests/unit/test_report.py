"""Tables, figures, page and READMEs from made-up records whose means can be worked out by hand."""

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_up import ROUNDS, add_baseline, add_run, add_search, experiment, one_population, records, table

from report import __main__ as main
from report import cost, curves, methods, outdated, page, periods, readme, searches, start, steps
from report.cells import markdown
from report.records import mean_over_workers
from report.section import Block

ROOT = Path(__file__).parents[2]
METHODS = table("methods", experiment("eoa", "EOA"), experiment("cosine", "cosine"), experiment("linear", "linear scaling"))


@pytest.fixture
def folder(tmp_path):
    """Three seeds of EOA, two of cosine of which one diverged, none of linear scaling."""
    for seed, test in enumerate((0.90, 0.92, 0.97)):
        add_run(tmp_path / "methods", "eoa", seed, test)
    add_baseline(tmp_path / "methods", "cosine", "cosine", "asam", test=0.8)
    add_baseline(tmp_path / "methods", "cosine", "cosine", "asam", seed=1, test=0.2, diverged_after=2)
    return tmp_path


def one_run(folder, **run):
    """The records of a single run."""
    add_run(folder, "eoa", **run)
    return records(folder, METHODS)


@pytest.fixture
def found(folder):
    return records(folder / "methods", METHODS)


def rows(found):
    return found.rows(found.table.experiments)


class TestRows:
    def test_mean_and_deviation_over_seeds(self, found):
        eoa = rows(found).loc["eoa"]
        assert eoa.n == 3
        assert eoa.test_accuracy_mean == pytest.approx(0.93)
        # deviations -0.03, -0.01, 0.04: squares sum to 0.0026, over n - 1 = 2
        assert eoa.test_accuracy_sd == pytest.approx(0.0013**0.5)
        assert eoa.seconds_train_mean == pytest.approx(7.0)
        assert eoa.sync_share_mean == pytest.approx((2 / 8 + 2 / 9 + 2 / 10) / 3)
        assert (eoa.mb_inside_mean, eoa.mb_across_mean) == (3.0, 0.25)
        assert (eoa.train_images_mean, eoa.gradient_evaluations_mean) == (160, 320)

    def test_order_and_labels_are_the_registrys(self, found):
        assert list(rows(found).index) == ["eoa", "cosine"]
        assert list(rows(found).label) == ["EOA", "cosine"]
        assert found.missing() == ["linear"]

    def test_a_diverged_run_counts(self, found):
        cosine = rows(found).loc["cosine"]
        assert (cosine.n, cosine.diverged) == (2, 1)
        assert cosine.test_accuracy_mean == pytest.approx(0.5)
        assert "diverged after 2 of 4 rounds" in cost.diverged([found])["what happened"].item()

    def test_one_seed_has_no_deviation(self, tmp_path):
        assert np.isnan(rows(one_run(tmp_path)).test_accuracy_sd.item())

    def test_populations_of_several_optimizers_are_named(self, tmp_path):
        mixed = ({"species": "gwo", "workers": 2, "optimizer": "sgd"}, {"species": "woa", "workers": 2, "optimizer": "asam"})
        assert rows(one_run(tmp_path, populations=mixed)).workers.item() == "4: 2 gwo with sgd + 2 woa with asam"

    @pytest.mark.parametrize(
        ("given", "differing"), [("", ("--depth",)), ("--depth 10", ()), ("--depth 4 --flip", ("--depth", "--flip"))]
    )
    def test_records_made_with_other_options_are_out_of_date(self, tmp_path, given, differing):
        add_run(tmp_path, "eoa", options=given)
        row = rows(records(tmp_path, table("methods", experiment("eoa", "EOA", options="--depth 10")))).iloc[0]
        assert row.outdated == differing

    def test_records_of_another_script_or_of_other_ranks_are_out_of_date(self, tmp_path):
        add_run(tmp_path, "eoa")
        other = replace(experiment("eoa", "EOA"), script="EOA-ViT/EOAViT.py", ranks=8)
        assert rows(records(tmp_path, table("methods", other))).iloc[0].outdated == ("ranks", "script")


class TestRounds:
    def test_images_seen_by_all_workers(self, found):
        assert list(found.rounds_of("eoa-seed0").groupby("round").images.first()) == [40, 80, 120, 160]

    def test_leader_is_the_fittest(self, found):
        leaders = found.rounds_of("eoa-seed0").query("leader")
        assert list(leaders["rank"]) == [0, 3, 2, 1]  # fitness falls with (rank + t) mod 4

    def test_ties_go_to_the_higher_rate_then_to_the_lower_rank(self, tmp_path):
        rates = {0: 0.1, 1: 0.3, 2: 0.3, 3: 0.2}
        found = one_run(tmp_path, change=lambda frame: frame.assign(fitness=0.5, lr=frame["rank"].map(rates)))
        assert list(found.rounds.query("leader")["rank"]) == [1] * ROUNDS

    def test_rounds_of_several_lengths_are_placed_by_their_images(self, tmp_path):
        assert sorted(set(one_run(tmp_path, round_steps=[1, 3, 6, 10]).rounds.images)) == [8, 32, 80, 160]

    def test_a_populations_line_counts_for_all_its_workers(self):
        frame = pd.DataFrame({"round": [0, 0, 1, 1], "loss": [1.0, 4.0, 2.0, np.nan], "workers": [3, 1, 3, 1]})
        assert list(mean_over_workers(frame, "loss", "round")) == [1.75, 2.0]


class TestMethods:
    def test_accuracy(self, found):
        shown = methods.table(rows(found)).set_index("method")
        assert list(shown["test accuracy, %"]) == ["93.00 ± 3.61 (n = 3)", "50.00 ± 42.43 (n = 2)"]
        assert shown["validation, %"]["EOA"] == "88.00 ± 3.61"
        assert shown["gradient evaluations"]["EOA"] == "320"
        assert list(shown["ranks: populations"]) == ["4: 2 gwo + 2 woa", "4"]
        assert list(shown["remarks"]) == ["", "1 diverged"]

    def test_trial_points_of_a_line_search_are_remarked(self, tmp_path):
        for seed, extra in enumerate((0.10, 0.14)):
            add_run(tmp_path, "eoa", seed, summary={"extra_forward": extra})
        assert methods.table(rows(records(tmp_path, METHODS))).remarks.item() == "trial points: + 12.0 % of the training"

    def test_cost_and_seconds_beside_other_runs_in_brackets(self, folder, found):
        add_run(folder / "methods", "linear", side_by_side=True)
        (block,) = cost.section([records(folder / "methods", METHODS)]).blocks
        shown = block.table.set_index("method")
        assert shown["evaluate + exchange, %"]["cosine"] == "23.6"  # (2/8 + 2/9) / 2
        assert list(shown["training, s"]) == ["7.0", "6.5", "(6.0)"]
        assert shown["across, MB"]["EOA"] == "0.25"

    def test_curve_over_seeds(self, found):
        mean, low, high = curves.curve(found, "eoa")
        # workers of one run: test - 0.3 / (t + 1) - (0, 0.01, 0.02, 0.03), so their mean is 0.015 below the best
        np.testing.assert_allclose(mean, [0.93 - 0.3 / (t + 1) - 0.015 for t in range(ROUNDS)], atol=1e-9)
        np.testing.assert_allclose(high - low, 0.07, atol=1e-9)  # over seeds, 0.97 - 0.90
        assert list(mean.index) == [40, 80, 120, 160]

    def test_band_of_one_seed_is_over_its_workers(self, tmp_path):
        _, low, high = curves.curve(one_run(tmp_path), "eoa")
        np.testing.assert_allclose(high - low, 0.03, atol=1e-9)

    def test_axis_is_gradient_evaluations_where_an_image_costs_differently(self, tmp_path):
        add_baseline(tmp_path, "cosine", "cosine")
        found = one_run(tmp_path)
        axes = curves.accuracy(found, rows(found)).figure.axes[0]
        assert "gradient evaluations" in axes.get_xlabel()
        assert [line.get_xdata()[-1] for line in axes.lines] == [320, 160]

    def test_workers_that_lost_their_weights_for_a_round_are_drawn_with_a_gap(self, tmp_path):
        lost = {"fitness": -np.inf, "val_accuracy": np.nan}
        found = one_run(tmp_path, change=lambda frame: frame.where(frame["rank"] > 0, frame.assign(**lost)))
        assert not found.rounds.leader[found.rounds["rank"] == 0].any()
        drawn = [p.name for p in methods.section(found).figures]
        assert drawn == ["methods-accuracy", "methods-workers-eoa", "methods-seconds"]

    @pytest.mark.parametrize("after", [0, 2])
    def test_a_diverged_run_alone_can_be_shown(self, tmp_path, after):
        found = one_run(tmp_path, diverged_after=after, summary={"train_images": 40, "gradient_evaluations": 80})
        assert methods.section(found).blocks[0].table.remarks.item() == "1 diverged"


def test_start_rates_have_a_column_each(tmp_path):
    registered = []
    for rate, test in ((0.001, 0.5), (0.1, 0.9), (10.0, 0.4)):
        add_run(tmp_path, f"eoa-{rate:g}", 0, test)
        registered.append(experiment(f"eoa-{rate:g}", "EOA", at=rate))
        if rate < 1:
            add_baseline(tmp_path, f"cosine-{rate:g}", "cosine", test=test / 2)
            registered.append(experiment(f"cosine-{rate:g}", "cosine", at=rate))
    section = start.section(records(tmp_path, table("start", *registered)))
    shown = section.blocks[0].table.set_index("method")
    assert list(shown.columns) == ["0.001", "0.1", "10", "worst", "best", "evaluating, %"]
    assert list(shown.loc["EOA"]) == ["50.00", "90.00", "40.00", "40.00", "90.00", "6.2"]  # 0.5 of 6 + 0.5 + 1.5 seconds
    assert list(shown.loc["cosine"]) == ["25.00", "45.00", "–", "25.00", "45.00", "6.2"]
    pictures = {p.name: p for p in section.figures}
    assert set(pictures) == {"start", "start-accuracy", "start-seconds", "start-workers-eoa-0.1"}
    eoa, _ = pictures["start"].figure.axes[0].get_lines()
    np.testing.assert_allclose(eoa.get_xydata(), [[0.001, 50], [0.1, 90], [10, 40]])
    assert len(pictures["start-accuracy"].figure.axes[0].get_lines()) == 2, "the middle rate over time"


class TestPeriods:
    def test_the_rate_that_validation_chose(self, tmp_path):
        """The higher rate is better on validation images at every period but the longest, where it diverged."""
        for tau in (1, 4, 16):
            for rate, test in (("0.1", 0.8), ("0.5", 0.6 if tau == 1 else 0.9)):
                lost = {"diverged_after": 2} if (tau, rate) == (16, "0.5") else {}
                add_baseline(tmp_path, f"aeasgd-{tau}-{rate}", "aeasgd", test=test, **lost)
        add_baseline(tmp_path, "aeasgd-4-0.5", "aeasgd", seed=1, test=0.94)
        registered = table("periods", *(experiment(f"aeasgd-{t}", "AEASGD", t, ("0.1", "0.5")) for t in (1, 4, 16)))
        section = periods.section(records(tmp_path, registered))
        (block,), (picture,) = section.blocks, section.figures
        cells = list(block.table.set_index("method").loc["AEASGD"])
        assert cells[0] == "80.00 (n = 1; η 0.1)"
        assert cells[1] == "92.00 ± 2.83 (n = 2; η 0.5)"
        assert cells[2] == "80.00 (n = 1; η 0.1)", "a run that diverged is not chosen"
        assert cells[3:] == ["0.1, 0.5", "18.1 / 18.2 / 18.2 / 17.7"]
        assert "Diverged: AEASGD at τ = 16, η 0.5." in block.notes[0]
        (line,) = picture.figure.axes[0].get_lines()
        np.testing.assert_allclose(line.get_xydata(), [[1, 80], [4, 92], [16, 80]])

    def test_workers_that_never_meet_and_any_number_of_methods(self, tmp_path):
        labels = [f"method {k}" for k in range(12)]
        for label in labels:
            for tau in (1, 4):
                add_baseline(tmp_path, f"{label}-{tau}", label, shards="own")
        add_run(tmp_path, "alone", method="independent", populations=one_population("independent", workers=1) * 4, shards="own")
        registered = [experiment(f"{label}-{tau}", label, tau) for label in labels for tau in (1, 4)]
        section = periods.section(records(tmp_path, table("periods", *registered, experiment("alone", "independent SGD"))))
        shown = section.blocks[0].table
        assert list(shown.columns[1:4]) == ["τ = 1", "τ = 4", "never"]
        assert list(shown.iloc[-1, :4]) == ["independent SGD", "–", "–", "90.00 (n = 1; η nan)"]
        looks = {(line.get_color(), line.get_linestyle()) for line in section.figures[0].figure.axes[0].get_lines()}
        assert len(looks) == len(labels) + 1

    def test_swarms_have_a_table_and_a_figure_of_their_own(self, tmp_path):
        name = "PSO-PS (our reconstruction)"
        became = {"average_test_accuracy": 0.85, "best_worker_test_accuracy": 0.75, "new_best_share": 0.25, "distance": 2.0}

        def add(run, swarm, distances):
            def change(frame):
                return frame.assign(distance=np.array(distances)[frame["round"]] + frame["rank"])

            add_baseline(tmp_path, run, name, test=0.8, shards="own", swarm=swarm, change=change, summary={"swarm": became})

        add("hull-20", "hull", [1.0, 2.0, 4.0, 8.0])
        add("clerc-20", "clerc", [5.0, 5.0, np.inf, np.inf])
        averaged = {"averaged": {"test_accuracy": 0.65}}
        alone = {"method": "independent", "populations": one_population("independent", workers=1) * 4, "shards": "own"}
        add_run(tmp_path, "alone", 0, 0.7, **alone, summary=averaged)
        registered = [experiment(f"{s}-20", f"{name}, {s}", 20, ()) for s in ("hull", "clerc")]
        section = periods.section(records(tmp_path, table("periods", *registered, experiment("alone", "independent SGD"))))
        swarms = section.blocks[1].table.set_index("method")
        assert list(swarms.loc[f"{name}, hull"])[:6] == ["20", "80.00", "85.00", "75.00", "25.0", "2.00"]
        assert list(swarms.loc["independent SGD"])[:6] == ["never", "–", "65.00", "70.00", "–", "–"]
        hull, clerc, mark = section.figures[1].figure.axes[0].get_lines()
        np.testing.assert_allclose(hull.get_ydata(), [2.5, 3.5, 5.5, 9.5])  # mean over ranks 0 to 3
        np.testing.assert_allclose(clerc.get_ydata(), [6.5, 6.5], err_msg="until it overflows")
        assert (mark.get_marker(), list(mark.get_xdata())) == ("^", [2])


class TestSteps:
    @pytest.fixture
    def found(self, tmp_path):
        def add(name, method, optimizer, loss, test, **more):
            add_baseline(tmp_path, name, method, optimizer, test=test, summary={"train_loss": loss}, **more)

        for rate, test in (("0.001", 0.7), ("0.01", 0.9), ("0.1", 0.8)):
            add(f"adam-{rate}", "constant", "adamw", 0.2, test)
        add("adam-0.01", "constant", "adamw", 0.3, 0.94, seed=1)
        add("prodigy", "cosine", "prodigy", 0.1, 0.85)
        add("plain", "cosine", "sgd", 0.1, 0.85, learning_rate=0.1)
        for eta0, test in (("-first-0.001", 0.92), ("", 0.9), ("-first-1", 0.91)):
            add(f"salsa{eta0}", "salsa", "salsa", 0.1, test)
        tuned = experiment("adam", "constant rate, Adam", rates=("0.001", "0.01", "0.1"))
        salsa = [("salsa-first-0.001", 0.001), ("salsa", 0.1), ("salsa-first-1", 1.0)]
        swept = [experiment(name, "SaLSA, Adam", at) for name, at in salsa]
        swept += [experiment(f"adam-{rate:g}", "constant rate, Adam", rate) for rate in (0.001, 0.01, 0.1)]
        plain = (experiment("plain", "cosine, SGD"), experiment("prodigy", "cosine, Prodigy"))
        return records(tmp_path, table("steps", tuned, *plain, experiment("salsa", "SaLSA, Adam"), first_steps=tuple(swept)))

    def test_tuned_rates_beside_line_searches_that_are_not(self, found):
        shown = steps.section(found).blocks[0].table.set_index("method")
        assert list(shown.index) == ["constant rate, Adam", "cosine, SGD", "cosine, Prodigy", "SaLSA, Adam"]
        adam, usual = (list(shown.loc[name])[:4] for name in ("constant rate, Adam", "SaLSA, Adam"))
        assert adam == ["0.01 of 0.001, 0.01, 0.1", "0.25 ± 0.07", "0", "92.00 ± 2.83 (n = 2)"]
        assert usual == ["found", "0.1", "-60", "90.00 (n = 1)"], "the usual first step, not the luckiest"
        assert list(shown.rate[1:3]) == ["0.1", "–"]
        assert "published loss, other protocol" not in shown, "nothing was published on digits"

    def test_first_steps(self, found):
        section = steps.section(found)
        swept = section.blocks[1].table.set_index("method")
        assert list(swept.columns) == ["0.001", "0.01", "0.1", "1", "spread"]
        assert list(swept.loc["SaLSA, Adam"]) == ["92.00", "–", "90.00", "91.00", "2.0"]
        assert swept.loc["constant rate, Adam", "0.01"] == "92.00 ± 2.83"
        by_kind, by_first = (p.figure for p in section.figures)
        left, right = by_kind.axes
        assert [t.get_text() for t in left.get_yticklabels()] == list(section.blocks[0].table.method)
        assert [len(a.get_lines()) for a in (left, right)] == [2 * 4 + 3, 2 * 4]  # a line and dots each; the legend's dots
        lines = {line.get_label(): line for line in by_first.axes[0].get_lines()}
        np.testing.assert_allclose(lines["SaLSA, Adam"].get_xydata(), [[0.001, 92], [0.1, 90], [1, 91]])
        np.testing.assert_allclose(lines["constant rate, Adam"].get_ydata(), [70, 92, 80])

    def test_published_losses_stand_in_a_column_of_their_own(self, tmp_path):
        for method, optimizer in (("constant", "adamw"), ("salsa", "salsa")):
            add_baseline(tmp_path, method, method, optimizer, dataset="cifar10", adam_rate=0.1)
        registered = table("steps", experiment("constant", "constant rate, Adam"), experiment("salsa", "SaLSA, Adam"))
        column = steps.section(records(tmp_path, registered)).blocks[0].table["published loss, other protocol"]
        assert list(column) == ["0.01394", "0.003314; over all tasks about 50 % lower loss, about 3 % overhead"]


class TestSearches:
    @pytest.fixture
    def section(self, tmp_path):
        for seed, test in enumerate((0.90, 0.92, 0.97)):
            add_search(tmp_path, "evolution", seed, test)
        add_search(tmp_path, "tpe", 0, 0.8)
        labels = {"search-evolution": "evolution (μ + μ)", "search-tpe": "TPE (Optuna)"}
        return searches.section(records(tmp_path, table("search", *(experiment(n, label) for n, label in labels.items()))))

    def test_means_and_published_figures_in_a_column_of_their_own(self, section):
        shown = section.blocks[0].table.set_index("method")
        line = shown.loc["evolution (μ + μ)"]
        assert (line.n, line["test, %"], line["validation, %"]) == (3, "93.00 ± 3.61", "94.00 ± 3.61")
        assert (line["published, other protocol"], line["search, s"]) == ("94.67", "41")
        assert line["complete / pruned / failed"] == "3 / 0 / 1"
        assert shown.loc["TPE (Optuna)", "published, other protocol"] == "–"
        assert section.blocks[0].notes[0] == "MNIST, DHPO-CNN-1: 4 trials of 1 epoch of 5,000 images, space mnist; 2 ranks."

    def test_best_so_far_goes_by_the_ends_of_trials(self, section):
        evolution, _ = section.figures[0].figure.axes[0].get_lines()
        np.testing.assert_allclose(evolution.get_ydata(), [50, 70, 70, 70])


class TestOutdated:
    @pytest.mark.parametrize(
        ("method", "measured", "config", "said"),
        [
            ("easgd", None, {"statistics_images": 128}, "statistics (EASGD) were measured on 128 plain images"),
            ("easgd", None, {"statistics_images": 128, "model": "easgd-cnn"}, ""),
            ("easgd", None, {"statistics_images": 2000}, ""),
            ("constant", None, {}, "statistics (EASGD) were the running ones of a constant rate"),
            ("constant", 2000, {}, ""),
            ("cosine", None, {}, ""),
            ("easgd", 2000, {"pixels": "unit", "period": 4, "shards": "own"}, "pixels were in [0, 1]"),
            ("easgd", 2000, {"pixels": "unit", "period": 4, "shards": "drawn"}, ""),
            ("easgd", 2000, {}, ""),
        ],
    )
    def test_what_would_come_out_differently_now_is_said(self, tmp_path, method, measured, config, said):
        add_baseline(tmp_path, "easgd", method, summary={"statistics_images": measured}, **config)
        marks = outdated.marks(rows(records(tmp_path, table("periods", experiment("easgd", "EASGD")))), "periods", "cpu")
        assert said in " ".join(marks)
        assert len(marks) == bool(said)
        assert all("`./run_all.sh --profile cpu --only periods --seeds 1 --fresh`" in mark for mark in marks)


class TestFiles:
    def test_a_table_that_the_profile_had_once_goes(self, folder, found):
        (folder / "tables").mkdir()
        for name in ("search.md", "notes.md"):
            (folder / "tables" / name).touch()
        main.write("smoke", [found], folder)
        assert not (folder / "tables/search.md").exists()
        assert (folder / "tables/notes.md").exists(), "not of this command"

    def test_tables(self, folder, found, capsys):
        main.write("smoke", [found], folder)
        text = (folder / "tables/accuracy.md").read_text(encoding="utf-8")
        assert "| EOA | digits, CNN-2 | 4: 2 gwo + 2 woa | 8 | 4 | 160 | 320 | 93.00 ± 3.61 (n = 3) | 88.00 ± 3.61 |  |" in text
        assert "Runs: `./run_all.sh --profile smoke --only methods`." in text
        assert "Test images are read once per run" in text
        assert "mpirun -np 4 python EOA-SAM/EOASAM.py --seed 0\n" in (folder / "tables/commands.md").read_text(encoding="utf-8")
        assert "| cosine-seed1 | diverged after 2 of 4 rounds" in (folder / "tables/cost.md").read_text(encoding="utf-8")
        assert pd.read_csv(folder / "tables/rows.csv").test_accuracy_mean[0] == pytest.approx(0.93)
        assert len(pd.read_csv(folder / "tables/runs.csv")) == 5
        assert "no record yet of linear" in capsys.readouterr().err

    def test_figures_replace_what_was_there_and_equal_records_give_equal_files(self, folder, found):
        figures = folder / "figures"
        figures.mkdir()
        (figures / "old.png").write_bytes(b"from another time")
        main.write("smoke", [found], folder)
        first = {path.name: path.read_bytes() for path in figures.iterdir()}
        assert sorted(first) == ["methods-accuracy.png", "methods-seconds.png", "methods-workers-eoa.png"]
        assert all(10_000 < len(content) < 200_000 for content in first.values())
        main.write("smoke", [records(folder / "methods", METHODS)], folder)
        assert first == {path.name: path.read_bytes() for path in figures.iterdir()}

    def test_a_bar_inside_a_cell_does_not_split_it(self):
        assert markdown(pd.DataFrame({"method": ["a|b"], "n": [1]})).endswith("| a\\|b | 1 |")


class TestReadme:
    def test_blocks_are_replaced_between_their_markers(self):
        text = "a\n<!-- start table, made -->\nold\n<!-- end of start table -->\nb\n"
        assert readme.replaced(text, "start", "| new |") == text.replace("old", "| new |")
        with pytest.raises(ValueError, match="no markers of a results table"):
            readme.replaced(text, "results", "")

    def test_marks_stand_above_and_several_tables_share_a_header(self, found):
        block = methods.section(found).blocks[0]
        marked = readme.table_of([replace(block, marks=("Out of date: x.",))])
        assert marked.startswith("> Out of date: x.\n\n| method | data, model |")
        lines = readme.table_of([block, block]).splitlines()
        assert len(lines) == 2 + 2 * 2
        assert lines[0].count("|") == len(readme.COMPACT) + 1

    def test_every_block_has_its_markers(self):
        for place in readme.PLACES:
            shown = (ROOT / place.readme).read_text(encoding="utf-8")
            assert len(readme.replaced(shown, place.name, "")) < len(shown), "a table lies between them"


class TestPage:
    @pytest.fixture
    def html(self, folder, found):
        main.write("smoke", [found], folder)
        return (folder / "report.html").read_text(encoding="utf-8")

    def test_everything_is_on_the_page(self, html, found):
        text = re.sub(r"\s+", " ", html)
        for shown in (methods.table(rows(found)), cost.section([found]).blocks[0].table, cost.diverged([found])):
            for cell in shown.astype(str).to_numpy().ravel():
                assert f">{cell}</td>" in text
        assert "<dd>5, of which 1 diverged</dd>" in text
        assert html.count("<pre><code>mpirun ") == 2

    def test_needs_no_other_file(self, html):
        images = re.findall(r"<img\b[^>]*>", html)
        assert 'alt="Validation accuracy during training, digits (CNN-2)"' in images[0]
        assert all('src="data:image/png;base64,' in image for image in images)
        links = re.findall(r"""\b(?:src|href)\s*=\s*["']?([^"'>]*)""", html)
        assert {link for link in links if not link.startswith(("data:", "#"))} == {"../README.md"}
        assert not re.search(r"https?://|@import|url\(|<script", html)

    def test_names_from_records_are_escaped(self, tmp_path):
        found = one_run(tmp_path, environment={"command": "<script>alert"})
        html = page.render("smoke", [found], [], tmp_path, "made")
        assert "&lt;script&gt;alert" in html
        assert "<script" not in html


def run(*words):
    return subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, encoding="utf-8", check=False)


@pytest.mark.parametrize(
    ("words", "said"),
    [(["nowhere"], "invalid choice: 'nowhere'"), (["gpu"], "no records in"), (["gpu", "--results="], "--results is empty")],
)
def test_wrong_usage_is_one_error(words, said):
    done = run("-m", "report", *words)
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


def test_neither_torch_nor_mpi_is_imported():
    code = "import sys, report.__main__, experiments.__main__; print({'torch', 'mpi4py', 'horovod'} & set(sys.modules))"
    assert run("-c", code).stdout.strip() == "set()"


def test_a_blocks_lines_are_marks_table_notes():
    block = Block(pd.DataFrame({"n": [1]}), ("old",), ("note",))
    assert list(block.lines()) == ["> old", "| n |\n| ---: |\n| 1 |", "note"]
