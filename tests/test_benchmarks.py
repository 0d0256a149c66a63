"""The benchmarks' own arithmetic: parts that add up, tables and a chart of made-up figures."""

import ast
import importlib
import math
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch):
    """Import a module of the benchmarks as their scripts do."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


def found(microseconds, after=0.2):
    figures = {"train_loss": after, "train_acc": 0.9, "val_loss": 0.3, "val_acc": 0.8}
    return {
        "microseconds": 3 * microseconds,  # the machine was busy
        "cpu_microseconds": microseconds,
        "torch_seconds": 1.2,
        "import_seconds": 0.5,
        "first_epoch_seconds": 1.0,
        "peak_megabytes": 200.0 + microseconds,
        "threads": 1,
        "untrained": figures | {"train_loss": 0.7},
        "trained": figures,
        "reported": {"val_loss": 0.3},
    }


def measurements(benchmark, **changes):
    about = {"date": "2030-01-02", "cpu": "a CPU", "cores": "2", "python": "3.11", "torch": "2.13"}
    versions = {"loader": "", "ceiling": "", "fitorch": "9.8", "keras": "3.1", "fastai": ""}
    turns = [
        {"loader": found(400), "ceiling": found(200), "fitorch": found(220), "keras": found(2000)},
        {"loader": found(800), "ceiling": found(400), "fitorch": found(424), "keras": found(4000)},
    ]
    made = {
        "about": about,
        "versions": versions,
        "turns": {"ring": turns},
        "failed": {"ring": {"fastai": "No module named 'fastai'"}},
        "epochs": {"ring": 100},
    }
    return benchmark("peers_report").Measurements(**made | changes)


def rows(markdown):
    return [
        [cell.strip(" *") for cell in line.split("|")[1:-1]]
        for line in markdown.splitlines()
        if line.startswith("|")
    ]


@pytest.mark.parametrize("given", ["tensors", "loader"])
def test_the_parts_of_a_step_add_up_to_the_whole(benchmark, given):
    script, workloads = benchmark("profile_step"), benchmark("workloads")
    parts = script.profile(workloads.ring(), given, epochs=4)
    whole = parts.pop("whole")
    assert list(parts) == [*script.PARTS, "rest"]
    assert sum(parts.values()) == pytest.approx(whole)
    assert all(0 < parts[part] < whole for part in ("data", "forward", "backward", "optimizer"))


def test_the_profile_is_printed_part_by_part(benchmark, capsys):
    script = benchmark("profile_step")
    script.show("ring", "tensors", dict.fromkeys(script.PARTS, 10.0) | {"rest": 20, "whole": 100})
    printed = rows(capsys.readouterr().out)
    assert [row[0] for row in printed[2:]] == [*script.PARTS, "rest", "whole step"]
    assert printed[2][1:3] == ["10.0", "10%"]


def test_a_clock_counts_what_it_surrounds(benchmark):
    clock = benchmark("profile_step").Clock()
    assert list(clock.over([1, 2, 3])) == [1, 2, 3]
    assert clock.around(max)(4, 5) == 5
    assert clock.calls == 4
    assert clock.nanoseconds > 0


def test_what_the_display_costs_is_told_by_ratios_within_a_turn(benchmark):
    script = benchmark("display")
    turns = [
        {"silent": script.Times(cpu, cpu, 0.0), "bar": script.Times(1.01 * cpu, 2 * cpu, 0.007)}
        for cpu in (1.0, 3.0, 2.0)
    ]
    (line,) = script.rows("here", turns, steps=1000)
    assert rows(line) == [["here: bar", "2000", "1.010", "1.010-1.010", "2.000", "0.7%"]]


def test_the_clocks_around_the_display_miss_none_of_its_hooks(benchmark):
    script = benchmark("display")
    hooks = {name for name in dir(script.Progress) if script.is_clocked(name)}
    assert hooks == {
        *("say", "_refresh", "on_train_begin", "on_train_end", "on_epoch_begin", "on_epoch_end"),
        *("on_test_begin", "on_test_end", "on_predict_begin", "on_predict_end"),
    }


def test_contenders_are_listed_from_the_fastest_with_ratios_within_a_turn(benchmark):
    measured = measurements(benchmark)
    header, _, *found = rows(benchmark("peers_report").times(measured, "ring"))
    table = [dict(zip(header, row, strict=True)) for row in found]
    labels = ["best loop by hand", "fitorch", "usual loop by hand", "Keras (torch backend)"]
    assert [row["contender"] for row in table] == labels
    assert [row["us per step, CPU"] for row in table] == ["300", "322", "600", "3,000"]
    assert [row["us, wall"] for row in table] == ["900", "966", "1,800", "9,000"]
    assert [row["x best loop"] for row in table] == ["1.00", "1.08", "2.00", "10.00"]
    assert [row["x usual loop"] for row in table] == ["0.50", "0.54", "1.00", "5.00"]
    assert [row["extra memory MB"] for row in table] == ["-300", "-278", "+0", "+2400"]
    assert table[1]["import + first epoch s"] == "1.50"


def test_who_could_not_be_measured_is_told_with_the_reason(benchmark):
    report = benchmark("peers_report").report(measurements(benchmark))
    assert "- fastai could not be measured: No module named 'fastai'" in report
    assert "`import torch` takes 1.20 s" in report
    assert "Measured 2030-01-02" in report


def test_every_table_of_the_report_is_rectangular(benchmark):
    report = benchmark("peers_report").report(measurements(benchmark))
    tables = [rows(part) for part in report.split("\n\n") if part.startswith("|")]
    assert len(tables) == 3
    assert all(len({len(row) for row in table}) == 1 for table in tables)


def test_the_chart_is_a_small_picture(benchmark, tmp_path):
    report = benchmark("peers_report")
    report.draw(measurements(benchmark), "ring", tmp_path / "chart.png")
    picture = (tmp_path / "chart.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert len(picture) < 100_000
    assert "2030-01-02" in report.caption(measurements(benchmark))
    assert "fitorch 9.8" in report.caption(measurements(benchmark))


@pytest.mark.parametrize("after", [0.7, math.nan])
def test_a_contender_that_did_not_train_is_refused(benchmark, after):
    with pytest.raises(RuntimeError, match="did not train"):
        benchmark("peers").check(found(300, after))


def test_a_contender_that_fails_is_left_out_and_noted(benchmark, monkeypatch):
    peers = benchmark("peers")

    def run_one(name, workload):
        if name == "keras":
            message = "no keras here"
            raise RuntimeError(message)
        return found(300)

    monkeypatch.setattr(peers, "run_one", run_one)
    measured = peers.measure_all(["ring"], ["loader", "ceiling", "keras"], turns=2)
    assert measured.failed == {"ring": {"keras": "no keras here"}}
    assert [list(turn) for turn in measured.turns["ring"]] == [["loader", "ceiling"]] * 2


def test_every_contender_has_its_module_and_a_pinned_version(benchmark):
    pins = "".join(path.read_text() for path in BENCHMARKS.glob("peers-requirements*.txt"))
    for peer in benchmark("trainers").PEERS.values():
        module = ast.parse((BENCHMARKS / "trainers" / f"{peer.module}.py").read_text())
        names = {getattr(node, "name", getattr(node, "id", None)) for node in ast.walk(module)}
        assert peer.build in names
        assert peer.distribution in ("", "fitorch") or f"{peer.distribution.lower()}==" in pins


def job(by_hand, ours, steps=10, **changes):
    """Return what a job of scaling.py tells, of two epochs."""
    microseconds = {"by hand": [by_hand, 3 * by_hand], "fitorch": [ours, 3 * ours]}
    made = {"microseconds": microseconds, "steps": steps, "batch_size": 64, "call_ms": 20.0}
    return made | {"gradient_bytes": 80_000} | changes


def turns_of_scaling():
    pair = {"all_reduce_us": 300.0, "latency_us": 100.0}
    turn = {
        "alone": job(1000, 980, steps=20),
        "weak": job(1500, 1530, **pair),
        "strong": job(1000, 1100, steps=20, **pair),
    }
    for name in ("weak", "strong"):
        turn[name]["microseconds"]["silent"] = [1000, 1000]
    return [turn, turn]


def test_processes_are_told_with_ratios_within_a_pair_of_epochs(benchmark, capsys):
    benchmark("scaling").report({"mlp": turns_of_scaling()})
    tables = [rows(part) for part in capsys.readouterr().out.split("\n\n") if part[0] == "|"]
    assert [[row[6] for row in tables[0][2:]]] == [
        ["0.980 (0.98-0.98)", "1.020 (1.02-1.02)", "1.100 (1.10-1.10)"]
    ]
    assert tables[1][2:] == [
        ["mlp", "2, the same batch each", "1.33", "1.28", "4.00"],
        ["mlp", "2, half the batch each", "1.00", "0.89", "2.00"],
    ]
    assert tables[2][2][2:] == ["80", "1,000", "300", "1,300", "3,000", "2.31"]


@pytest.mark.slow
def test_two_processes_train_beside_the_loop_by_hand(benchmark):
    found = benchmark("scaling").run_job("ring", processes=2, batch_size=250, epochs=2)
    assert (found["world"], found["steps"]) == (2, 10)
    assert {name: len(times) for name, times in found["microseconds"].items()} == {
        "fitorch": 2, "by hand": 2, "silent": 2,
    }  # fmt: skip
    assert found["losses"]["fitorch"] == pytest.approx(found["losses"]["by hand"], rel=0.1)


def test_the_model_on_paper_agrees_with_a_sum_by_hand(benchmark):
    model = benchmark("scaling_model")
    machine = model.Machine(1.0, 1e9, 1e8, 1e-6, 1e-5, node=4)
    net = model.Net(1e6, 4, compute=0.01)
    alone, four, eight = (model.step_of(net, machine, n) for n in (1, 4, 8))
    assert (alone.messages, alone.efficiency) == (0, 1)
    # In a ring of four each sends 3/4 of 4 MB twice, in six hops: with one bucket nothing hides it.
    assert four.seconds == pytest.approx(0.01 + 6e-6 + 2 * 3 / 4 * 4e6 / 1e9)
    assert eight.messages == pytest.approx(12e-6 + 2e-5 + 2 * 7 / 8 * 4e6 / 1e8)
    # Of four buckets the last is not hidden, or what the backward is too short for.
    cut = model.Net(1e6, 4, compute=0.01, buckets=4)
    assert model.step_of(cut, machine, 4).exposed == pytest.approx(6e-6 + 1.5e-3)
    short = model.step_of(model.Net(1e6, 4, compute=0.001, buckets=4), machine, 4)
    assert short.exposed == pytest.approx(short.messages - 0.001 * 2 / 3 * 3 / 4)


def test_the_model_on_paper_prefers_a_tree_where_messages_are_small(benchmark):
    model = benchmark("scaling_model")
    small, large = (model.all_reduce(size, model.H100, 4096) for size in (4, 4e9))
    assert small == pytest.approx(2 * (3 * 3e-6 + 9 * 1e-5), rel=1e-3)
    assert large == pytest.approx(2 * 4095 / 4096 * 4e9 / 4.5e10, rel=0.2)


def test_the_page_about_scaling_shows_the_tables_of_the_model(benchmark):
    page = (BENCHMARKS.parent / "docs" / "scaling.md").read_text(encoding="utf-8")
    for table in benchmark("scaling_model").tables():
        assert table in page
