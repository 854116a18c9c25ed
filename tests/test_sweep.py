"""A study: what it compares, what it refuses, and that no row is lost or doubled, whatever ends it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas
import pytest
import torch
from small_study import CHAINS, few_digits, study
from torch import nn
from torch.utils.data import TensorDataset

import spliteasy as se
from spliteasy.errors import CodecError, CutError, DataError, ModelError, TrainingError
from spliteasy.sweeping import read_codecs
from spliteasy.sweeping.datasets import read_data
from spliteasy.sweeping.engines import ENGINES
from spliteasy.sweeping.grid import as_cuts
from spliteasy.sweeping.running import TIMES
from spliteasy.sweeping.store import Store

pytestmark = pytest.mark.xdist_group("sweep")  # its fixtures are made once


@pytest.fixture(scope="module")
def result() -> se.Sweep:
    return study()


def lasting(rows: pandas.DataFrame) -> list[dict[str, Any]]:
    """Rows without their seconds, in order of the runs."""
    records = rows.drop(columns=list(TIMES)).sort_values("run").to_dict("records")
    return [dict(record) for record in records]


def perceptron() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))


def test_one_row_a_run_and_raw_among_them(result: se.Sweep) -> None:
    assert result.missing == 0 and result.rows["run"].is_unique
    assert list(zip(result.rows["seed"], result.rows["chain"], strict=True)) == [
        (seed, chain) for seed in (0, 1) for chain in ("raw", *CHAINS)
    ]
    assert set(result.rows["problem"]) == {""} and set(result.rows["counted"]) == {"frames"}


def test_a_row_is_what_a_trainer_gives(result: se.Sweep) -> None:
    train, validation, test = few_digits()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        torch.manual_seed(1)
        split = se.split(se.load_model("digits_cnn", num_classes=10), ("pool", "flatten"), (1, 8, 8))
        codecs = se.Codecs(forward="topk(0.1) | fp16", backward="fp16 | zstd(1)")
        with se.Trainer(
            split, codecs=codecs, optimizer={"name": "SGD", "lr": 0.05, "momentum": 0.9}, seed=1
        ) as trainer:
            log = trainer.fit(se.data.loader(train, 32, seed=1), progress=False)
            accuracies = [
                trainer.evaluate(se.data.loader(part, 32, seed=0, shuffle=False)).accuracy
                for part in (validation, test)
            ]
    finally:
        torch.set_num_threads(threads)
    row = result.rows.set_index(["seed", "chain"]).loc[(1, "tenth")]
    assert [row["validation_accuracy"], row["test_accuracy"]] == accuracies
    assert row["train_loss"] == log.losses[-1]
    up = sum(r.bytes["activations"].frame + r.bytes["output_gradients"].frame for r in log)
    assert row["up_bytes_per_sample"] == pytest.approx(up / 96)
    assert row["raw_bytes_per_sample"] == sum(r.total.raw for r in log) / 96


def test_the_table_pairs_runs_of_the_same_seed(result: se.Sweep) -> None:
    table = result.table.set_index("chain")
    assert list(table.index) == ["raw", *CHAINS] and set(table["seeds"]) == {2}
    accuracy = result.rows.pivot(index="seed", columns="chain", values="test_accuracy")
    for chain in CHAINS:
        difference = accuracy[chain] - accuracy["raw"]
        assert table.loc[chain, "test_difference"] == pytest.approx(difference.mean())
        assert table.loc[chain, "test_difference_sd"] == pytest.approx(difference.std())
    assert table.loc["raw", "test_difference"] == 0 and table.loc["half", "saving"] > 1.8
    assert table.loc["tenth", "bytes"] == table.loc["tenth", "up_bytes"] + table.loc["tenth", "down_bytes"]


def test_time_on_a_link_is_computing_and_what_the_link_needs(result: se.Sweep) -> None:
    slow = {"none": se.Link(1e12, 1e12), "slow": se.Link(up_mbps=1, down_mbps=2, rtt_ms=50)}
    row = se.Sweep(result.rows.to_dict("records"), result.settings, slow).table.iloc[1]
    link = slow["slow"].seconds(round(32 * row["up_bytes"]), round(32 * row["down_bytes"]), calls=2)
    assert row["step_seconds.slow"] - row["step_seconds.none"] == pytest.approx(link)
    assert row["epoch_seconds.slow"] == pytest.approx(3 * row["step_seconds.slow"])
    assert row["step_seconds.none"] == pytest.approx(
        row["device_seconds"] + row["server_seconds"] + row["codec_seconds"]
    )


def test_chains_are_chosen_by_validation_and_not_by_test(result: se.Sweep) -> None:
    rows = result.rows.copy()
    rows.loc[rows["chain"] == "half", "test_accuracy"] = 0.0
    rows.loc[rows["chain"] == "tenth", "validation_accuracy"] = 0.0
    rows.loc[rows["chain"] == "half", "validation_accuracy"] = 1.0
    assert list(se.Sweep(rows.to_dict("records"), result.settings, {}).best(points=0)["chain"]) == ["half"]


def test_it_shows_itself(result: se.Sweep) -> None:
    assert "Sweep of 6 runs on few_digits; frame bytes" in repr(result) and "tenth" in repr(result)
    assert "<table" in result._repr_html_()


def test_a_frozen_device_learns_nothing_and_needs_no_gradients() -> None:
    found = study(chains={"raw, A frozen": "raw", "half": "fp16"}, frozen=["raw, A frozen"], seeds=1)
    table = found.table.set_index("chain")
    rows = found.rows.set_index("chain")
    assert rows.loc["raw, A frozen", "bytes.input_gradients.raw"] == 0 < rows.loc["raw", "bytes.input_gradients.raw"]
    assert table.loc["raw, A frozen", "frozen"] and table.loc["raw, A frozen", "saving"] > 1
    assert "raw, A frozen" not in set(found.best(100)["chain"]), "a control, not a candidate"


def test_fitted_codecs_are_calibrated_in_each_run_and_their_bytes_are_spread_over_the_training() -> None:
    found = study(chains={"pca": "activations=pca(16) | fp16; input_gradients=pca(16) | fp16"}, seeds=1)
    row = found.rows.set_index("chain").loc["pca"]
    basis = 4 * 16 * 512  # of the activations (32, 4, 4), shared by their gradients
    assert basis < row["fitted_bytes"] < 1.2 * basis
    sent = sum(row[f"bytes.{message}.frame"] for message in ("activations", "output_gradients"))
    assert row["up_bytes_per_sample"] == pytest.approx(sent + row["fitted_bytes"] / row["samples"])


def test_networks_of_ones_own_and_single_splits() -> None:
    found = study(models={"mine": perceptron}, cuts=["1", ()], chains=["fp16"], seeds=[7], schedule="cosine")
    assert list(found.table["cut"]) == ["1", "1", "no split", "no split"]
    by_cut = found.rows[found.rows["chain"] == "raw"].set_index("cut")
    assert by_cut.loc["1", "test_accuracy"] == by_cut.loc["no split", "test_accuracy"], "a split changes nothing"
    assert by_cut.loc["no split", "up_bytes_per_sample"] == 0


def test_http_bytes_are_counted_against_a_server(server: se.LocalServer) -> None:
    found = study(server=server.url, seeds=1, chains=["fp16"])
    local = study(seeds=1, chains=["fp16"])
    assert set(found.rows["counted"]) == {"http"} and "HTTP bytes" in repr(found)
    assert list(found.rows["test_accuracy"]) == list(local.rows["test_accuracy"])
    assert (found.rows["up_bytes_per_sample"] > local.rows["up_bytes_per_sample"]).all()


def test_divergence_is_a_result() -> None:
    found = study(optimizer={"name": "SGD", "lr": 1e30}, seeds=1, chains=["fp16"], epochs=2)
    assert all("NaN" in problem for problem in found.rows["problem"]) and found.rows["test_accuracy"].isna().all()
    assert list(found.table["diverged"]) == [1, 1] and found.best(100).empty and "diverged" in repr(found)
    assert found.plot_frontier() is not None and found.plot_time() is not None


REFUSED: list[tuple[Mapping[str, Any], type[Exception], str]] = [
    ({"models": "digits_cnm"}, ModelError, "digits_cnn"),
    ({"models": nn.Linear(1, 1)}, ModelError, "fresh weights"),
    ({"models": {"broken": lambda: 3}}, ModelError, "broken"),
    ({"models": []}, ModelError, "different networks"),
    ({"cuts": [("pool", "flattn")]}, CutError, "'digits_cnn' cannot be split at 'pool, flattn'"),
    ({"cuts": [("pool", "flatten", "classifier")]}, CutError, "pair"),
    ({"cuts": ["pool", "pool"]}, CutError, "once"),
    ({"chains": ["topq(0.1)"]}, CodecError, "topq"),
    ({"chains": {"bad": "zstd(1) | fp16"}}, CodecError, "bad"),
    ({"chains": {"raw": "fp16"}}, CodecError, "uncompressed"),
    ({"chains": "forwards=fp16"}, CodecError, "forwards"),
    ({"data": "digit"}, DataError, "Did you mean 'digits'"),
    ({"data": "digits(sise=3)"}, DataError, "sise"),
    ({"data": "digits(size=32, channels=3)"}, se.errors.SplitEasyError, "digits_cnn"),
    ({"data": "digits(__import__('os'))"}, DataError, "Cannot read"),
    ({"data": [few_digits()[0]]}, DataError, "training, validation and test"),
    ({"seeds": 0}, TrainingError, "seeds"),
    ({"seeds": [1, 1]}, TrainingError, "different"),
    ({"epochs": 0}, TrainingError, "epochs"),
    ({"optimizer": {"name": "SDG", "lr": 1}}, TrainingError, "SDG"),
    ({"schedule": "step"}, TrainingError, "schedule"),
    ({"loss": "crossentropy"}, TrainingError, "crossentropy"),
    ({"loss": nn.CrossEntropyLoss()}, TrainingError, "loss"),
    ({"backward": "exactly"}, TrainingError, "exactly"),
    ({"clip_norm": -1}, TrainingError, "clip_norm"),
    ({"engine": "dask"}, TrainingError, "local, ray"),
    ({"frozen": ["nothing"]}, TrainingError, "nothing"),
    ({"frozen": ["raw"]}, TrainingError, "raw"),
    ({"models": {"mine": perceptron}, "cuts": "1", "server": True}, TrainingError, "package.module:factory"),
    ({"out": "rows.xlsx"}, TrainingError, "parquet"),
]


@pytest.mark.parametrize(("changes", "error", "words"), REFUSED, ids=lambda value: str(value)[:40])
def test_bad_input_is_refused_before_anything_runs(
    changes: Mapping[str, Any], error: type[Exception], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*arguments: Any) -> Any:
        raise AssertionError("a run was started")

    monkeypatch.setattr("spliteasy.sweeping.engines.compute", never)
    state = torch.get_rng_state()
    with pytest.raises(error, match=None) as caught:
        study(**changes)
    assert words in str(caught.value)
    assert torch.equal(state, torch.get_rng_state())


def test_chains_as_text() -> None:
    assert read_codecs("fp16 | zstd(1)") == se.Codecs(forward="fp16 | zstd(1)", backward="fp16 | zstd(1)")
    assert read_codecs("forward=fp16; input_gradients=zstd(level=1)") == se.Codecs(
        forward="fp16", input_gradients="zstd(1)"
    )
    for text in ("forward=fp16; forward=raw", "forward=fp16; zstd(1)", "outputs=fp16;"):
        with pytest.raises(CodecError):
            read_codecs(text)


def test_cuts_as_they_are_written() -> None:
    assert as_cuts("pool") == [("pool",)] and as_cuts(("pool", "flatten")) == [("pool", "flatten")]
    assert as_cuts(["pool", ("pool", "flatten"), ()]) == [("pool",), ("pool", "flatten"), ()]


def test_a_fifth_is_held_out_for_validation_where_there_is_none() -> None:
    train, validation, test = few_digits()
    parts = read_data((train, test))
    assert [len(part) for part in (parts.train, parts.validation, parts.test)] == [77, 19, 40]  # type: ignore[arg-type]
    both = torch.cat([part.tensors[0] for part in (parts.train, parts.validation)])  # type: ignore[attr-defined]
    assert {tuple(x.flatten().tolist()) for x in both} == {tuple(x.flatten().tolist()) for x in train.tensors[0]}
    assert parts.digest == read_data((train, test)).digest != read_data((train, validation)).digest


@pytest.mark.parametrize("name", ["study.csv", "study.parquet", "folder"])
def test_rows_are_kept_and_a_finished_study_is_not_run_again(
    name: str, tmp_path: Path, result: se.Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    out = tmp_path / name
    first = study(out=out)
    assert lasting(first.rows) == lasting(result.rows)
    monkeypatch.setattr("spliteasy.sweeping.engines.compute", None)
    again = study(out=out)
    pandas.testing.assert_frame_equal(again.rows, first.rows)
    table = out if "." in name else out / "rows.csv"
    read = pandas.read_parquet(table) if name.endswith("parquet") else pandas.read_csv(table, keep_default_na=False)
    assert list(read["run"]) == list(first.rows["run"])
    assert list(read["test_accuracy"].astype(float)) == list(first.rows["test_accuracy"])


def test_another_study_or_version_or_file_is_refused_and_not_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "study.csv"
    study(out=out, seeds=1, chains=["fp16"])
    files = {path: path.read_bytes() for path in tmp_path.iterdir()}
    for changes in ({"seeds": 2}, {"chains": ["zstd(1)"]}, {"epochs": 2}, {"cuts": "pool"}, {"batch": 16}):
        with pytest.raises(TrainingError, match=f"another one .*{next(iter(changes)).removesuffix('s')}|training"):
            study(**{"out": out, "seeds": 1, "chains": ["fp16"], **changes})
    monkeypatch.setattr(se, "__version__", "99.0")
    with pytest.raises(TrainingError, match=r"99\.0"):
        study(out=out, seeds=1, chains=["fp16"])
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == files
    foreign = tmp_path / "mine.csv"
    foreign.write_text("a,b\n1,2\n")
    with pytest.raises(TrainingError, match="without its journal"):
        study(out=foreign)
    assert foreign.read_text() == "a,b\n1,2\n"
    for content in ("my notes", "my notes\n", '{"a": 1}\n', '{"format": "spliteasy-sweep/1"}\nnot json\n'):
        (tmp_path / "new.csv.rows.jsonl").write_text(content)
        with pytest.raises(TrainingError):
            study(out=tmp_path / "new.csv")
        assert (tmp_path / "new.csv.rows.jsonl").read_text() == content


def test_two_studies_cannot_write_to_one_file(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    with Store(tmp_path / "a.csv", {}), pytest.raises(TrainingError, match="Another process"):
        Store(tmp_path / "a.csv", {}).__enter__()


def test_a_journal_that_was_torn_anywhere_loses_only_the_torn_row(tmp_path: Path) -> None:
    identity = {"seeds": [0, 1]}
    rows = [{"run": f"{number:x}" * 8, "accuracy": 1 / (3 + number)} for number in range(3)]
    with Store(tmp_path / "whole", identity) as store:
        for row in rows:
            store.add(row)
        store.add(rows[0])  # not doubled
    content = (tmp_path / "whole" / "rows.jsonl").read_bytes()
    (tmp_path / "torn").mkdir()
    torn = tmp_path / "torn" / "rows.jsonl"
    for length in range(len(content) + 1):
        torn.write_bytes(content[:length])
        with Store(tmp_path / "torn", identity) as store:
            assert list(store.rows.values()) == rows[: max(0, content[:length].count(b"\n") - 1)]
            for row in rows:
                store.add(row)
        assert torn.read_bytes() == content


def test_a_row_that_could_not_be_written_leaves_no_torn_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with Store(tmp_path, {}) as store:
        store.add({"run": "a"})
        with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
            patch.setattr(os, "fsync", full)
            store.add({"run": "b"})
        store.add({"run": "c"})
        assert list(store.rows) == ["a", "c"]
    with Store(tmp_path, {}) as store:
        assert list(store.rows) == ["a", "c"]


def test_a_killed_study_goes_on_where_it_was(tmp_path: Path) -> None:
    script = Path(__file__).parent / "small_study.py"
    command = [sys.executable, str(script), str(tmp_path / "killed.csv"), "4"]
    journal = tmp_path / "killed.csv.rows.jsonl"
    process = subprocess.Popen(command)
    try:
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            if journal.exists() and journal.read_bytes().count(b"\n") >= 4:  # the study and three rows
                break
            time.sleep(0.01)
    finally:
        process.kill()
    assert process.wait() == -signal.SIGKILL, "it was killed in the middle"
    kept = journal.read_bytes().count(b"\n") - 1
    assert 3 <= kept < 12 and not (tmp_path / "killed.csv").exists()
    resumed = study(out=tmp_path / "killed.csv", seeds=4)
    undisturbed = study(seeds=4)
    assert lasting(resumed.rows) == lasting(undisturbed.rows)
    lines = [json.loads(line) for line in journal.read_text().splitlines()[1:]]
    assert sorted(line["run"] for line in lines) == sorted(undisturbed.rows["run"]), "none lost, none doubled"


def test_cancel_keeps_finished_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, result: se.Sweep) -> None:
    from spliteasy.sweeping import engines
    from spliteasy.sweeping.running import compute

    calls = 0

    def interrupted(*arguments: Any) -> dict[str, Any]:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return compute(*arguments)

    with monkeypatch.context() as patch, pytest.warns(UserWarning, match="2 of 6 runs"):
        patch.setattr(engines, "compute", interrupted)
        found = study(out=tmp_path / "a.csv")
    assert found.missing == 4 and len(found.rows) == 2 and "4 runs missing" in repr(found)
    assert len(pandas.read_csv(tmp_path / "a.csv")) == 2
    whole = study(out=tmp_path / "a.csv")
    assert whole.missing == 0 and lasting(whole.rows) == lasting(result.rows)


def test_an_error_in_a_run_leaves_the_rows_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(grid: Any, runs: Any, server: Any) -> Any:
        yield from ENGINES_LOCAL(grid, list(runs)[:2], server)
        raise TrainingError("the third run broke")

    ENGINES_LOCAL = ENGINES["local"]
    monkeypatch.setattr("spliteasy.sweeping.study.ENGINES", {"local": broken})
    with pytest.raises(TrainingError, match="third run"):
        study(out=tmp_path / "a.csv")
    assert (tmp_path / "a.csv.rows.jsonl").read_bytes().count(b"\n") == 3


def test_data_without_tensors_in_a_row(tmp_path: Path) -> None:
    class Items(torch.utils.data.Dataset[Any]):
        def __len__(self) -> int:
            return 40

        def __getitem__(self, index: int) -> Any:
            return torch.full((1, 8, 8), index / 40), index % 3

    found = study(data=(Items(), Items(), Items()), seeds=1, chains=["fp16"], batch=20)
    assert found.rows["test_accuracy"].between(0, 1).all()
    with pytest.raises(DataError, match="pairs"):
        study(data=(TensorDataset(torch.zeros(3, 1, 8, 8)),) * 3)
