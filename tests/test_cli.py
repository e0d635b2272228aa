"""The command line: exit status, one-line errors, the parameter reference."""

from pathlib import Path

from prrmse.cli.main import main

ROOT = Path(__file__).parents[1]


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
