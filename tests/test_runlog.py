"""What a step cost, added up: tables, pictures and words."""

import math
import time

import pytest

from spliteasy.runlog import PHASES, Evaluation, RunLog, StepRecord, Stopwatch
from spliteasy.wire import MESSAGES, Bytes


def _record(step: int, loss: float = 1.0, http: int = 130) -> StepRecord:
    seconds = dict.fromkeys(PHASES, 0.5 + step)
    sizes = {message: Bytes(1000, 100, http) for message in ("activations", "input_gradients")}
    return StepRecord(step, loss, 8, seconds, sizes, 0.1)


def _log(steps: int = 3, http: int = 130) -> RunLog:
    return RunLog("a run", [_record(step, 1.0 / (step + 1), http) for step in range(steps)])


def test_a_record_adds_up_its_messages() -> None:
    assert _record(0).total == Bytes(2000, 200, 260)
    assert StepRecord(0, 1.0, 8, {}, {}, 0.1).total == Bytes()


def test_a_stopwatch_adds_up_its_phases() -> None:
    watch = Stopwatch()
    for _ in range(2):
        with watch.phase("encode"):
            time.sleep(0.01)
    watch.add("link", 3.0)
    with pytest.raises(ZeroDivisionError), watch.phase("decode"):
        raise ZeroDivisionError
    seconds = watch.finish()
    assert tuple(seconds) == PHASES and 0.02 <= seconds["encode"] <= seconds["total"]
    assert seconds["link"] == 3.0 and seconds["c"] == 0.0 and seconds["decode"] > 0


def test_a_log_is_a_sequence_of_steps() -> None:
    log = _log()
    assert len(log) == 3 and log[0] == log.records[0] and log[-1].step == 2 and [r.step for r in log[1:]] == [1, 2]
    assert log.losses == [1.0, 0.5, pytest.approx(1 / 3)] and list(log) == log.records
    with pytest.raises(IndexError):
        log[3]


def test_a_table_has_a_row_a_step() -> None:
    table = _log().to_pandas()
    assert list(table["step"]) == [0, 1, 2] and len(table) == 3
    columns = [f"seconds.{phase}" for phase in PHASES]
    columns += [f"bytes.{message}.{kind}" for message in MESSAGES for kind in ("raw", "frame", "http")]
    assert set(columns) <= set(table.columns)
    assert list(table["bytes.outputs.raw"]) == [0, 0, 0] and list(table["bytes.activations.http"]) == [130] * 3


@pytest.mark.parametrize("http,sent", [(130, 130), (0, 100)])
def test_a_summary_has_the_mean_bytes_and_the_saving(http: int, sent: int) -> None:
    table = _log(http=http).summary()
    assert list(table.index) == [*MESSAGES, "total"]
    assert table.loc["activations", "raw"] == 1000 and table.loc["total", "frame"] == 200
    assert table.loc["activations", "saving"] == pytest.approx(1000 / sent)
    assert table.loc["total", "saving"] == pytest.approx(1000 / sent) and math.isnan(table.loc["outputs", "saving"])


def test_seconds_are_medians_without_the_first_step() -> None:
    assert _log(1).seconds()["c"] == 0.5 and _log(4).seconds()["c"] == 2.5
    assert list(_log().seconds().index) == list(PHASES)


@pytest.mark.parametrize("steps", [0, 1, 5])
def test_a_log_of_any_length_can_be_shown(steps: int) -> None:
    log = _log(steps)
    assert "a run" in repr(log) and "a run" in log._repr_html_()
    figure = log.plot()
    assert len(figure.axes) == 3 and (not steps or figure.axes[1].get_title() == "A step's time")
    figure.canvas.draw()
    assert len(log.to_pandas()) == steps and len(log.summary()) == 5 and len(log.seconds()) == len(PHASES)
    assert list(log.to_pandas().columns) == list(_log().to_pandas().columns)


def test_what_comes_from_elsewhere_is_escaped() -> None:
    log = RunLog("<script>alert(1)</script>", [_record(0)])
    assert "<script>" not in log._repr_html_() and "<script>" not in RunLog("<script>")._repr_html_()


def test_an_evaluation_without_classes_has_no_accuracy() -> None:
    assert Evaluation(1.0, None, 8).accuracy is None and Evaluation(1.0, 0.5, 8).step == -1
