"""The command line: exit status, one-line errors, the parameter reference."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from prrmse.cli.main import main

ROOT = Path(__file__).parents[1]
PRRMSE = Path(sys.executable).with_name("prrmse")


def test_check_says_fine_or_one_line(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert main(["check"]) == 0
    assert capsys.readouterr().out == "params.yaml: fine\n"
    (tmp_path / "more.yaml").write_text("base: {steps: -1}\n")
    assert main(["check", "params.yaml", str(tmp_path / "more.yaml")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: params.yaml + ")
    assert "base.steps: Input should be greater than or equal to 1, not -1" in error
    assert error.count("\n") == 1


def test_params_reference_is_the_one_in_docs(capsys):
    assert main(["params"]) == 0
    table = capsys.readouterr().out
    assert "| `verdict.tolerance` |" in table
    assert (ROOT / "docs" / "params.md").read_text().endswith(table)


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (["inspct", "a.pth"], "inspect"),
        (["inspect", "a.pth", "--jsno"], "--json"),
        (["sweep", "a", "b", "--data", "d", "--spcing=2"], "--spacing"),
        (["sweep", "a", "b", "--data", "d", "--engine", "fats"], "fast"),
        (["diff", "a", "b", "--verson"], None),
    ],
)
def test_what_was_probably_meant_is_said(capsys, arguments, meant):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert (f"; did you mean {meant}?" in error) if meant else ("did you mean" not in error)


def test_the_key_that_was_probably_meant_is_said(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    (tmp_path / "more.yaml").write_text("base: {learnign_rate: 0.1}\n")
    assert main(["check", "params.yaml", str(tmp_path / "more.yaml")]) == 2
    assert "base.learnign_rate: unknown key; did you mean learning_rate?" in capsys.readouterr().err


def test_the_help_says_what_holds_unless_it_is_given(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    for default in ("(default 1000)", "(default 16)", "(default 128)", "(default 1.5)", "unet has 64 without it"):
        assert default in said, default
    assert "(default: all) (default" not in said
    assert "SUPPRESS" not in said and "(default False)" not in said


def test_the_shell_completes_commands_and_options(tmp_path):
    shell = [sys.executable, "-m", "shtab", "--shell", "bash", "prrmse.cli.main.command_line"]
    (tmp_path / "completion").write_text(subprocess.run(shell, capture_output=True, text=True, check=True).stdout)

    def completed(*words):
        line = f"COMP_WORDS=({' '.join(words)}) COMP_CWORD={len(words) - 1}"
        ask = f"source completion; {line}; _shtab_prrmse; echo ${{COMPREPLY[@]}}"
        return subprocess.run(["bash", "-c", ask], cwd=tmp_path, capture_output=True, text=True).stdout.split()

    assert completed("prrmse", "in") == ["inspect"]
    assert completed("prrmse", "sweep", "--sp") == ["--spacing", "--split"]


@pytest.mark.parametrize(("environment", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_errors_are_coloured_on_a_terminal_only(environment, coloured):
    command = [str(PRRMSE), "inspect", "absent.pth"]
    piped = subprocess.run(command, capture_output=True, check=False)
    assert piped.stderr.startswith(b"error: ")
    reader, writer = os.openpty()
    subprocess.run(command, stderr=writer, check=False, env={**os.environ, **environment})
    os.close(writer)
    shown = os.read(reader, 10_000)
    os.close(reader)
    assert shown.startswith(b"\x1b[31merror:\x1b[0m " if coloured else b"error: ")
