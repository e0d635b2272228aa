"""What the documentation lists is what there is."""

import re
import shlex
import tomllib

import pytest
import yaml
from dvc.cli.parser import get_main_parser
from snakemake.cli import parse_args
from tiny import ROOT
from torture.tally import Tally

from prrmse import api
from prrmse.cli.main import command_line

SITE = (ROOT / "mkdocs.yml").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SMK = [ROOT / "Snakefile", *(ROOT / "workflow/rules").glob("*.smk")]
# Names of conda-forge and bioconda where they differ from those of PyPI.
CONDA = {
    "torch": "pytorch",
    "matplotlib": "matplotlib-base",
    "seaborn": "seaborn-base",
    "snakemake": "snakemake-minimal",
}


def required(*extras):
    """Requirements of the package and of extras, which may include others (``prrmse[report]``)."""
    found = list(PROJECT["dependencies"])
    for requirement in (x for extra in extras for x in PROJECT["optional-dependencies"][extra]):
        own = re.fullmatch(r"prrmse\[(.*)\]", requirement)
        found += required(*own[1].split(",")) if own else [requirement]
    return sorted(set(found))


def parts(requirement):
    """Name, and bounds without blanks, of a requirement of pip or conda."""
    name, bounds = re.fullmatch(r"([\w.-]+)\s*([^;]*)(?:;.*)?", requirement).groups()
    return name, bounds.strip()


def test_the_readme_names_every_page():
    readme = (ROOT / "README.md").read_text()
    pages = [f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")]
    assert len(pages) > 10
    assert [page for page in pages if page not in readme] == []


def test_the_site_has_every_page():
    assert [path.name for path in (ROOT / "docs").glob("*.md") if f": {path.name}\n" not in SITE] == []


def test_the_code_on_the_page_of_the_library_runs(capsys):
    blocks = re.findall(r"^```python\n(.*?)^```$", (ROOT / "docs/api.md").read_text(), re.S | re.M)
    names = {}
    for block in blocks:
        exec(block, names)
    assert len(names["table"]) == 3 * len(api.inspect(names["target"]))
    assert names["best"] in ("one", "two")


def documented():
    """(page, command) of every line of a code block that starts one of these programs."""
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        for block in re.findall(r"^```\w*\n(.*?)^```$", path.read_text(), re.S | re.M):
            block = re.sub(r"\\\n|\s#.*", " ", block)
            started = re.finditer(
                r"(?:^|&& |; )((?:prrmse|snakemake|make|dvc)\b(?! *=)(?:'[^']*'|[^'\n;&])*)", block, re.M
            )
            for found in started:
                yield path.name, shlex.split(found[1])


DOCUMENTED = list(documented())


def test_many_commands_are_documented():
    assert len(DOCUMENTED) > 50


@pytest.mark.parametrize(("page", "command"), DOCUMENTED, ids=[f"{p} {' '.join(c)}" for p, c in DOCUMENTED])
def test_every_documented_command_is_one_that_exists(page, command):
    """That it does what the page says is for other tests; here: the program knows its options and targets."""
    program, *arguments = command
    if program == "prrmse":
        command_line().parse_args([a for a in arguments if a != "..."])
    elif program == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M)
        assert [a for a in arguments if not a.startswith("-") and "=" not in a and a not in targets] == []
    elif program == "snakemake":
        known = parse_args(arguments)[1]
        rules = re.findall(r"^(?:use )?rule (?:\w+ as )?(\w+)", "".join(p.read_text() for p in SMK), re.M)
        assert [t for t in known.targets if t not in rules and not t.startswith("results/")] == []
    else:
        get_main_parser().parse_args(arguments)


@pytest.mark.parametrize("path", sorted((ROOT / "docs/reliability").glob("*.csv")), ids=lambda path: path.stem)
def test_what_a_harness_found_is_what_the_page_says(path):
    first = path.read_text().partition(",")[0]
    assert str(Tally([first], -1, path)) in (ROOT / "docs/reliability.md").read_text()


def test_every_direct_dependency_has_a_line_that_says_why():
    listed = re.findall(r"^\| ([\w.-]+) \| \S", (ROOT / "docs/dependencies.md").read_text(), re.MULTILINE)
    everything = required(*PROJECT["optional-dependencies"])
    assert sorted(set(listed) - {"package"}) == sorted(parts(requirement)[0] for requirement in everything)
    assert len(listed) == len(set(listed)) + listed.count("package") - 1


def test_the_environment_of_conda_asks_for_what_the_package_and_the_workflow_need():
    wanted = dict(map(parts, yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]))
    needed = map(parts, required("workflow"))
    expected = {CONDA.get(name, name): bounds for name, bounds in needed}
    assert wanted == {"python": PROJECT["requires-python"], **expected}
