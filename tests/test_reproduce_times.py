"""Tables of times on small stand-ins: what is computed from the steps, and what is refused. No time is asserted."""

from __future__ import annotations

from typing import Any

import pytest

import spliteasy as se
from spliteasy.errors import CodecError, ReproduceError
from spliteasy.reproduce import paper_numbers
from spliteasy.reproduce.setting import make_setting
from spliteasy.reproduce.step_times import PAPER_ARCHITECTURES, times
from spliteasy.runlog import RunLog, StepRecord
from spliteasy.wire import Bytes

DIGITS = se.reproduce.Architecture("digits", "digits_cnn")
PHONE = se.Device("phone", 0.1, 1 << 30)
QUICK: dict[str, Any] = {"device": PHONE, "steps": 1, "progress": False}


def record(step: int, server: float, images: int = 2) -> StepRecord:
    seconds = {"a_forward": 0.1, "encode": 0.01, "transfer": 0.02, "b_forward": server, "decode": 0.01, "c": 0.1,
               "b_backward": server, "a_backward": 0.1, "update": 0.1, "link": 0.0}  # fmt: skip
    sizes = {m: Bytes(1000, 1000, 1000) for m in ("activations", "outputs", "output_gradients", "input_gradients")}
    return StepRecord(step, 1.0, images, {**seconds, "total": sum(seconds.values())}, sizes, 0.1)


def test_times_are_the_definition() -> None:
    log = RunLog("steps", [record(1, 0.5), record(2, 0.7)])
    logs = {"raw": log, "coded": RunLog("steps", [record(1, 0.6)])}
    link = se.Link(8, 8, 100)  # 2000 bytes each way: 2 ms, and two calls
    both = times(logs, link, se.Device("phone", 0.5, 1 << 30), server=10)
    found = both["raw"]
    assert both["coded"] == found  # computing is that of the fastest run
    assert found.communication == pytest.approx((0.01 + 0.02 + 0.01 + 0.2 + 0.004) / 2)
    assert found.overall == pytest.approx(found.communication + (0.4 / 0.5 + 1.0 / 10) / 2)
    assert found.megabytes == pytest.approx(4000 / 2 / 1e6)


def test_no_split_has_no_communication() -> None:
    alone = StepRecord(1, 1.0, 1, {"a_forward": 0.1, "a_backward": 0.2, "total": 0.35}, {}, 0.1)
    found = times({"raw": RunLog("whole", [alone])}, se.LINKS["aws"], se.Device("phone", 0.1, 1 << 30))["raw"]
    assert found.communication == 0 and found.megabytes == 0 and found.overall == pytest.approx(3.0)


def test_table_1_has_a_row_for_each_setting() -> None:
    named = se.reproduce.Architecture("ResNet50", "digits_cnn")
    found = se.reproduce.table1(networks=[named], codecs="fp16", **QUICK)
    table = found.to_pandas()
    assert list(table["split"]) == ["double", "single", "none: phone", "none: server"]
    assert list(table["overall, paper"]) == [2.55, 1.74, 9.6, 0.02]
    assert {"overall, raw", "overall, fp16", "comm., raw", "comm., fp16", "MB, raw", "MB, fp16"} <= set(table)
    extra = table["comm., raw, its calls"] - table["comm., raw"]
    assert extra[:2].tolist() == pytest.approx([0.78, 0.39])  # 390 ms: two calls more, and one
    memory = found.to_pandas("memory")
    assert memory["MB, batch 4"][0] > memory["MB, batch 1"][0] > 0 and memory["paper trained it"][0] == "yes"
    words = repr(found)
    assert all(part in words for part in ("fitted", "server is this machine", "two and four", "phone"))


def test_fig4a_ranks_the_cuts() -> None:
    found = se.reproduce.fig4a(network=DIGITS, cuts={"first conv": "conv1", "pool": "pool"}, **QUICK)
    table = found.to_pandas()
    assert list(table["name"]) == ["conv1", "pool"] and sorted(table["rank, ours"]) == [1, 2]
    assert table["MB, raw"][0] > table["MB, raw"][1] > table["MB, compressed"][1] > 0


def test_fig4b_names_network_and_input() -> None:
    small = se.reproduce.Architecture("small", "squeezenet1_1")
    found = se.reproduce.fig4b(networks=[small], inputs={"tiny": (32, 7), "larger": (40, 3)}, **QUICK)
    assert list(found.to_pandas()["input"]) == ["tiny 32²", "larger 40²"]
    assert "batch of 2" in repr(found)


def test_fig4c_puts_one_run_on_every_link() -> None:
    found = se.reproduce.fig4c(network=DIGITS, links=["lan", se.Link(1, 1, 900, "slow")], **QUICK)
    table = found.to_pandas()
    assert list(table["link"]) == ["lan", "slow"] and list(table["rank, ours"]) == [1, 2]
    assert table["overall, raw"][1] - table["overall, raw"][0] > 1.7  # two calls of 900 ms: computed, not waited for


def test_the_papers_six_are_all_there() -> None:
    assert set(PAPER_ARCHITECTURES) == set(paper_numbers.TABLE_1) == set(paper_numbers.MACS)
    assert PAPER_ARCHITECTURES["ResNet50"].usual_cuts() == ("maxpool", "flatten")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"link": "awss"}, "'aws'"),
        ({"link": 3}, "se.Link"),
        ({"device": "iphone"}, "'iphone-xr'"),
        ({"server": 0}, "above zero"),
        ({"server": "fast"}, "'paper'"),
        ({"batch": 0}, "batch"),
        ({"steps": 1.5}, "steps"),
    ],
)
def test_bad_settings_say_what_to_do(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ReproduceError, match=words):
        make_setting(**{"device": PHONE, **arguments})


def test_bad_chains_and_networks_are_refused() -> None:
    with pytest.raises(CodecError, match="fp61"):
        make_setting(PHONE, codecs="fp61")
    with pytest.raises(ReproduceError, match="max pooling"):
        se.reproduce.Architecture("none", "mobilenet_v2").usual_cuts()
    with pytest.raises(ReproduceError, match="found none"):
        se.reproduce.fig4c(network=DIGITS, links=[], **QUICK)
