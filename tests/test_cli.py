"""The command line, run as a user runs it."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import requests

import spliteasy as se
from spliteasy.cli import main

COMMANDS = ["lab", "demo", "cuts", "codecs", "measure", "serve", "train", "sweep", "plan", "reproduce"]


def run(*arguments: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "spliteasy", *arguments], capture_output=True, text=True, timeout=timeout, check=False
    )


def test_help_names_every_command_and_teaches() -> None:
    result = run("--help")
    assert result.returncode == 0
    assert all(command in result.stdout for command in COMMANDS) and "examples:" in result.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    assert "default" in capsys.readouterr().out or command == "codecs"


def test_cuts_prints_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cuts", "resnet18", "--batch", "8", "--size", "64"]) == 0
    text = capsys.readouterr().out
    assert "layer1.0.relu" in text and "8·64·16·16" in text


def test_cuts_as_csv(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cuts", "digits_cnn", "--csv"]) == 0
    lines = capsys.readouterr().out.strip().splitlines()
    assert lines[0].startswith("index,name,operation") and len(lines) == 1 + 13


def test_an_unknown_network_is_one_clear_message() -> None:
    result = run("cuts", "resnet55")
    assert result.returncode == 1 and "Traceback" not in result.stderr and "resnet50" in result.stderr


def test_codecs_lists_kind_and_origin(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["codecs"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in ("raw", "fp16", "topk", "zstd", "lossless", "lossy", "spliteasy"))


def test_codecs_in_columns_with_examples_and_citations(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["codecs"]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split() == ["name", "kind", "keeps", "example", "origin"]
    (topk,) = [line for line in lines if line.startswith("topk ")]
    assert [topk[head.index(word) :].split()[0] for word in head.split()] == topk.split()[:5]
    assert "arXiv 1704.05021" in " ".join(" ".join(lines).split()) and max(map(len, lines)) <= 120


def test_codecs_as_a_markdown_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["codecs", "--markdown"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len({line.replace("\\|", "").count("|") for line in lines}) == 1, "every row has as many cells"
    assert any(line.startswith("| `zstd` | bytes | lossless | `zstd(1)` |") for line in lines)


def test_measure_compares_chains_on_photographs(capsys: pytest.CaptureFixture[str]) -> None:
    chains = ["raw", "fp16 | zstd(1)"]
    assert main(["measure", *chains, "--model", "resnet18", "--batch", "2", "--size", "64"]) == 0
    text = capsys.readouterr().out
    assert all(chain in text for chain in chains)
    assert all(column in text for column in ("ratio", "http_bytes", "bias", "floor_ratio", "floor_kind", "encode"))
    assert "gradient_cosine" not in text and "2·64·16·16" in text


@pytest.mark.parametrize("message", ["input_gradients", "outputs"])
def test_measure_any_message_and_what_learning_feels(message: str, capsys: pytest.CaptureFixture[str]) -> None:
    network = ["--model", "digits_cnn", "--at", "pool", "flatten", "--repeats", "1"]
    assert main(["measure", "fp16", *network, "--message", message, "--gradients"]) == 0
    text = capsys.readouterr().out
    assert f"{message} of digits_cnn at pool, flatten" in text and "gradient_cosine" in text
    assert main(["measure", "fp16", *network[:3], "pool", "--message", "outputs"]) == 1
    assert "name two with --at" in capsys.readouterr().err


def test_the_help_of_measure_explains_its_columns(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["measure", "--help"])
    text = capsys.readouterr().out
    assert all(column in text for column in ("http_bytes", "bias", "floor_ratio", "gradient_cosine", "examples:"))


def test_train_in_this_process(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "run.png"
    arguments = [
        "train",
        "digits_cnn",
        "--at",
        "pool",
        "flatten",
        "--codec",
        "fp16 | zstd(1)",
        "--picture",
        str(picture),
    ]
    assert main(arguments) == 0
    text = capsys.readouterr().out
    accuracy = float(re.search(r"accuracy ([\d.]+) %", text)[1])  # type: ignore[index]
    assert accuracy > 80 and picture.stat().st_size > 10_000


def test_sweep_prints_the_table_and_saves_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, pictures = tmp_path / "study.csv", [tmp_path / "frontier.png", tmp_path / "time.png"]
    arguments = ["sweep", "--at", "pool", "flatten", "--chain", "forward=fp16; backward=topk(0.1) | fp16"]
    arguments += ["--seeds", "1", "--epochs", "1", "--batch", "128", "--out", str(out)]
    assert main([*arguments, "--picture", str(pictures[0]), "--time-picture", str(pictures[1])]) == 0
    text = capsys.readouterr().out
    assert "Sweep of 2 runs on digits" in text and "backward=topk(0.1) | fp16" in text
    assert out.read_text().count("\n") == 3 and all(picture.stat().st_size > 10_000 for picture in pictures)
    assert main([*arguments, "--seeds", "2"]) == 1
    assert "another one (seeds" in capsys.readouterr().err


def test_serve_and_train_against_it() -> None:
    command = [sys.executable, "-m", "spliteasy", "serve", "--port", "0"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        watchdog = threading.Timer(60, server.kill)
        watchdog.start()
        line = server.stdout.readline()
        watchdog.cancel()
        url = re.search(r"http://127\.0\.0\.1:\d+", line)
        assert url is not None, line
        assert requests.get(f"{url[0]}/v1/health", timeout=10).json()["version"] == se.__version__
        result = run("train", "digits_cnn", "--at", "pool", "--server", url[0], "--pipeline", "2")
        assert result.returncode == 0 and "accuracy" in result.stdout, result.stderr
        assert requests.get(f"{url[0]}/v1/health", timeout=10).json()["sessions"] == 0
    finally:
        server.send_signal(signal.SIGINT)
        assert server.wait(20) == 0


def test_a_taken_port_is_one_clear_message() -> None:
    with se.LocalServer() as server:
        result = run("serve", "--port", server.url.rpartition(":")[2])
    assert result.returncode == 1 and "--port" in result.stderr and "Traceback" not in result.stderr


@pytest.mark.slow
def test_demo_compares_five_runs(tmp_path: Path) -> None:
    picture = tmp_path / "demo.png"
    result = run("demo", "--picture", str(picture), "--epochs", "1")
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("equal the unsplit ones to the bit") == 2
    assert picture.stat().st_size > 20_000


def test_plan_prints_the_best_and_saves_a_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SPLITEASY_CACHE", str(tmp_path))
    picture = tmp_path / "plan.png"
    asked = ["plan", "digits_cnn", "--batch", "4", "--link", "3g", "--rtt", "10", "--mode", "double", "--chain", "fp16"]
    assert main([*asked, "--picture", str(picture)]) == 0
    text = capsys.readouterr().out
    assert "best: double split A|B|C" in text and "runners-up:" in text and picture.stat().st_size > 1000
    assert main([*asked, "--max-mb", "0.000001"]) == 1
    assert "too many" in capsys.readouterr().err
