"""The wheel: complete, reproducible, and at work outside any checkout; and what starts without torch."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile

import pytest
from tiny import ROOT

from prrmse.errors import EXTRAS

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def run(*command, cwd, **environment):
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def build(folder, modified):
    """The wheel of a copy of the sources, all of which were modified at the given time."""
    source = folder / "source"
    shutil.copytree(ROOT / "src", source / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for path in source.rglob("*"):
        os.utime(path, (modified, modified))
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet"]
    run(
        *pip,
        "--no-deps",
        "--no-build-isolation",
        "--wheel-dir",
        folder,
        source,
        cwd=folder,
        SOURCE_DATE_EPOCH="1000000000",
    )
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    return build(tmp_path_factory.mktemp("wheel"), 1_600_000_000)


def test_the_wheel_holds_every_file_of_the_package_and_the_licence(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    files = [path.relative_to(ROOT / "src") for path in (ROOT / "src/prrmse").rglob("*") if path.is_file()]
    wanted = {path.as_posix() for path in files if "__pycache__" not in path.parts}
    assert {name for name in names if name.startswith("prrmse/")} == wanted
    assert {path.rsplit(".", 1)[1] for path in wanted} == {"py", "j2", "typed"}
    assert any(name.endswith("/licenses/LICENSE") for name in names)


def test_the_wheel_is_the_same_bytes_whenever_the_files_were_written(wheel, tmp_path):
    assert build(tmp_path, 1_700_000_000).read_bytes() == wheel.read_bytes()


def test_the_installed_wheel_works_outside_a_checkout(wheel, tmp_path):
    site, away = tmp_path / "site", tmp_path / "away"
    away.mkdir()
    run(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", site, wheel, cwd=away)
    make = "import prrmse, torch; torch.save(torch.nn.Conv2d(1, 2, 3).state_dict(), 'x.pth'); print(prrmse.__file__)"
    made = run(sys.executable, "-c", make, cwd=away, PYTHONPATH=str(site))
    assert made.startswith(str(site))
    command = [sys.executable, site / "bin/prrmse"]
    assert run(*command, "--version", cwd=away, PYTHONPATH=str(site)) == f"prrmse {PROJECT['version']}\n"
    pairs = json.loads(run(*command, "inspect", "x.pth", "--json", cwd=away, PYTHONPATH=str(site)))
    assert [(pair["kind"], pair["shape"]) for pair in pairs] == [("W", "2x1x3x3"), ("B", "2")]
    templates = "from prrmse.report import page; print(page.PackageLoader('prrmse', 'report').list_templates())"
    assert "report.html.j2" in run(sys.executable, "-c", templates, cwd=away, PYTHONPATH=str(site))


def test_each_optional_package_names_the_extra_that_has_it():
    extras = PROJECT["optional-dependencies"]
    for package, extra in EXTRAS.items():
        assert any(re.match(rf"{package}\b", requirement) for requirement in extras[extra])
        assert not any(re.match(rf"{package}\b", requirement) for requirement in PROJECT["dependencies"])


WITHOUT = """
import builtins, sys
from importlib.abc import MetaPathFinder
class Absent(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {absent!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
from prrmse.cli.main import main
sys.exit(main({arguments!r}))
"""


def test_a_missing_optional_package_is_one_line_and_the_rest_works(tmp_path):
    import torch

    for name in "ab":
        torch.save(torch.nn.Conv2d(1, 2, 3).state_dict(), tmp_path / f"{name}.pth")

    def without(*arguments):
        code = WITHOUT.format(absent=[*EXTRAS, "snakemake", "dvc"], arguments=list(arguments))
        return subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)

    assert without("compare", "a.pth", "b.pth").returncode == 0
    refused = without("compare", "a.pth", "b.pth", "--figure", "ab.png")
    assert refused.returncode == 2
    assert re.fullmatch(
        r"error: this needs \w+, which is not installed; pip install 'prrmse\[report\]'\n", refused.stderr
    )


@pytest.mark.parametrize(
    "script",
    ["base_table", "swap_table", "verdict", "claims", "transfer_table", "metrics", "figures", "report", "ranking"],
)
def test_scripts_of_tables_and_figures_start_without_torch(script):
    assert imported(["workflow/scripts/" + script + ".py", "--help"]).isdisjoint({"torch", "torchvision"})


def test_help_starts_without_torch_pandas_and_the_parameter_file_and_tools_without_a_compiler():
    started = imported([], "from prrmse.cli.main import main; main(['--help'])")
    assert "prrmse.settings" in started
    assert started.isdisjoint({"torch", "pandas", "numpy", "yaml"})
    tools = imported([], "import prrmse.cli.commands")
    assert "torch" in tools
    assert tools.isdisjoint({"torchvision", "torch._dynamo", "matplotlib", "sklearn"})


def imported(arguments, code=None):
    """Modules that a program imports, of its own process only."""
    command = ["-c", code] if code else arguments
    done = subprocess.run([sys.executable, "-X", "importtime", *command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return {line.rsplit("|", 1)[1].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
