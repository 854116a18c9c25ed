"""Figure 3, epochs to converge, and the command, on small stand-ins."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import spliteasy as se
from spliteasy.cli import main
from spliteasy.errors import DataError, ReproduceError
from spliteasy.reproduce import convergence
from spliteasy.reproduce.convergence import SMALL_SIX, Rule, converge
from spliteasy.reproduce.reproducing import NAMES
from spliteasy.reproduce.step_times import PAPER_ARCHITECTURES
from spliteasy.reproduce.training_data import images

DIGITS = se.reproduce.Architecture("digits", "digits_cnn")
EASY = Rule(loss=0.5, epochs=60, lr=0.05)


def test_the_exact_curve_is_the_ordinary_one_to_the_bit() -> None:
    before = torch.get_rng_state()
    found = se.reproduce.fig3(networks=[DIGITS], epochs=3, train=200, progress=False)
    assert torch.equal(torch.get_rng_state(), before)
    table, ends = found.to_pandas(), found.to_pandas("weights after the last epoch")
    assert list(table["test %, ordinary SGD"]) == list(table["test %, split, exact"])
    assert table["test %, ordinary SGD"].iloc[-1] > 30  # it learns, from 10
    assert list(ends["equal to the bit"]) == [True, False]
    assert ends["relative distance"][0] == "0" and float(ends["relative distance"][1]) < 1
    assert "to the bit" in found.title and "digits" in found.picture.alt


def test_vgg_11_has_its_eight_convolutions() -> None:
    model = se.load_model("spliteasy.reproduce.vgg:vgg11_for_small_images", num_classes=7)
    assert sum(isinstance(layer, torch.nn.Conv2d) for layer in model.modules()) == 8
    assert model.eval()(torch.rand(2, 3, 32, 32)).shape == (2, 7)


def test_fig3_refuses_what_it_cannot_train(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cifar-100-python"):
        se.reproduce.fig3(data=tmp_path, networks=[DIGITS], progress=False)
    with pytest.raises(ReproduceError, match="found the file"):
        se.reproduce.fig3(data=tmp_path / "file", networks=[DIGITS], progress=False)
    with pytest.raises(ReproduceError, match="1 epoch"):
        se.reproduce.fig3(networks=[DIGITS], epochs=0, progress=False)
    with pytest.raises(ReproduceError, match="train images"):
        images(None, 0)


def test_a_network_converges_and_the_run_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = tmp_path / "runs.json"
    first = converge(store, [DIGITS], (10, 20), rule=EASY, progress=False)
    assert list(first["images"]) == [10, 20] and first["epochs, ours"].notna().all()
    assert (first["loss"] <= EASY.loss).all() and first["epochs, paper"].isna().all()

    def never(*arguments: Any) -> None:
        raise AssertionError("a finished run is not made again")

    monkeypatch.setattr(convergence, "_run", never)
    again = converge(store, [DIGITS], (10, 20), rule=EASY, progress=False)
    assert again.to_dict() == first.to_dict()


def test_a_run_that_was_cut_off_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, real = tmp_path / "runs.json", convergence._run

    def interrupted(network: Any, part: Any, count: int, *rest: Any) -> dict[str, Any]:
        if count == 20:
            raise KeyboardInterrupt
        return real(network, part, count, *rest)

    monkeypatch.setattr(convergence, "_run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        converge(store, [DIGITS], (10, 20), rule=EASY, progress=False)
    assert len(json.loads(store.read_text())["runs"]) == 1
    monkeypatch.setattr(convergence, "_run", real)
    whole = converge(store, [DIGITS], (10, 20), rule=EASY, progress=False)
    other = converge(tmp_path / "new.json", [DIGITS], (10, 20), rule=EASY, progress=False)
    assert whole.to_dict() == other.to_dict()


def test_the_rule_that_was_not_met_is_said(tmp_path: Path) -> None:
    rule = Rule(loss=1e-9, epochs=2)
    table = converge(tmp_path / "runs.json", [DIGITS], (10,), rule=rule, progress=False)
    assert table["epochs, ours"][0] is None and table["epochs run"][0] == 2


def test_a_store_of_something_else_is_refused(tmp_path: Path) -> None:
    store = tmp_path / "runs.json"
    converge(store, [DIGITS], (10,), rule=Rule(epochs=1), progress=False)
    with pytest.raises(ReproduceError, match="another rule"):
        converge(store, [DIGITS], (10,), rule=Rule(epochs=2), progress=False)
    store.write_text("[]")
    with pytest.raises(ReproduceError, match="Move it away"):
        converge(store, [DIGITS], (10,), progress=False)
    with pytest.raises(ReproduceError, match="2 or more"):
        converge(tmp_path / "other.json", [DIGITS], (1,), progress=False)
    with pytest.raises(ReproduceError, match="Ask for fewer"):
        converge(tmp_path / "other.json", [DIGITS], (5000,), progress=False)


def test_the_command_prints_and_saves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", "table2", "--out", str(tmp_path)]) == 0
    assert "149·149·32" in capsys.readouterr().out
    assert (tmp_path / "table2.csv").exists() and (tmp_path / "table2.svg").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["table3"], "'table2'"),
        (["fig4c", "fgi3"], "'fig3'"),
        (["table1", "--link", "wifi"], "home-wifi"),
        (["fig4c", "--server", "quick"], "paper"),
        (["fig4c", "--steps", "0"], "steps"),
        (["fig4c", "--chain", "fp61"], "fp16"),
        (["fig3", "--data", "nowhere"], "cifar-100-python"),
    ],
)
def test_the_command_refuses_with_one_message(
    arguments: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["reproduce", *arguments, "--out", str(tmp_path / "out")]) == 1
    said = capsys.readouterr().err
    assert words in said and "Traceback" not in said


def test_the_command_refuses_a_folder_that_is_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "taken").write_text("mine")
    assert main(["reproduce", "table2", "--out", str(tmp_path / "taken")]) == 1
    assert "taken" in capsys.readouterr().err and (tmp_path / "taken").read_text() == "mine"


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_all_of_the_paper(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", "all", "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().out.count("What differs, and why") == len(NAMES)
    assert {path.name for path in tmp_path.iterdir()} >= {f"{n}.{kind}" for n in NAMES for kind in ("csv", "md", "svg")}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_papers_networks_converge_on_ten_images(tmp_path: Path) -> None:
    """All but ResNet152, which batch normalization over ten samples of one position keeps from it."""
    assert [network.title for network in SMALL_SIX] == list(PAPER_ARCHITECTURES)
    table = converge(tmp_path / "runs.json", SMALL_SIX, (10,), rule=Rule(epochs=60), progress=False)
    assert list(table["network"][table["epochs, ours"].isna()]) == ["ResNet152"]
