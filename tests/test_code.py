"""What enters the digest of a rule's code, and which jobs a change of code plans."""

from __future__ import annotations

import pytest
from tiny import EDITS, ROOT, Folder

from prrmse.run.code import canonical, code_digest, used_by

CODE = '''"""What it does."""
import logging
from prrmse.errors import InputError

log = logging.getLogger(__name__)

def half(x: float, n: int = 2) -> float:
    """Half of x."""
    if x < 0:
        raise InputError(f"{x}: is negative")
    log.info("half of %s", x)
    return x / n
'''
SAME = {
    "comment": ("    if x < 0:", "    # why\n    if x < 0:  # not"),
    "layout": ("x / n", "(\n        x /\n        n\n    )"),
    "docstring": ('"""Half of x."""', '"""Another."""\n    "a note"'),
    "no docstring": ('    """Half of x."""\n', ""),
    "text of an error": ('f"{x}: is negative"', '"negative: " f"{x!r}"'),
    "log message": ('log.info("half of %s", x)', 'log.warning("%s halves", n)'),
    "no log message": ('    log.info("half of %s", x)\n', ""),
    "types": ("import logging", "import logging\nif TYPE_CHECKING:\n    from prrmse.names import Layer"),
}
OTHER = {
    "operator": ("x / n", "x // n"),
    "number": ("= 2", "= 3"),
    "condition of an error": ("x < 0", "x <= 0"),
    "kind of error": ("raise InputError", "raise ValueError"),
    "statement": ("    if x < 0:", "    x += 0\n    if x < 0:"),
    "text that is returned": ("return x / n", 'return f"{x}"'),
    "import": ("import logging", "import logging\nfrom prrmse.names import Layer"),
}


@pytest.mark.parametrize(("old", "new"), SAME.values(), ids=SAME)
def test_what_decides_nothing_changes_nothing(old, new):
    assert old in CODE
    assert canonical(CODE.replace(old, new)) == canonical(CODE)


@pytest.mark.parametrize(("old", "new"), OTHER.values(), ids=OTHER)
def test_what_decides_changes_the_digest(old, new):
    assert old in CODE
    assert canonical(CODE.replace(old, new)) != canonical(CODE)


@pytest.fixture
def package(tmp_path):
    """A package of small modules; a script that uses the function ``main`` of the module a."""
    folder = tmp_path / "src/prrmse"
    (folder / "part").mkdir(parents=True)
    for name in ("__init__", "part/__init__"):
        (folder / f"{name}.py").touch()
    for name in ("b", "c", "d", "part/e", "f", "typed", "annotated"):
        (folder / f"{name}.py").write_text("x = 1\ny = 2\n")
    (folder / "a.py").write_text(
        "from __future__ import annotations\nfrom typing import TYPE_CHECKING\nfrom prrmse import f\n"
        "import prrmse.part.e\nfrom prrmse.b import x as number, y\nfrom prrmse.annotated import x as Kind\n"
        "try:\n    from prrmse.c import x\nexcept ImportError:\n    x = 2\n"
        "if TYPE_CHECKING:\n    from prrmse.typed import x as z\n"
        "LIMIT = 3\nUNUSED = 4\n\n"
        "def main(a: 'Kind') -> z:\n    return helper() + x + prrmse.part.e.y\n\n"
        "def helper():\n    from prrmse.d import x\n    return LIMIT * x * number\n\n"
        "def other():\n    return UNUSED + y + f.x\n"
    )
    (tmp_path / "script.py").write_text("import numpy\nfrom prrmse.a import main\nmain(1)\n")
    return tmp_path


USED = {"a": "main helper LIMIT", "b": "x", "c": "x", "d": "x", "part.e": "x y", "annotated": "x"}


def test_what_a_script_uses_is_followed_wherever_it_is_imported(package):
    found = used_by(package / "script.py", package / "src")
    assert list(found) == sorted(f"prrmse.{name}" for name in USED)
    for name, words in USED.items():
        assert all(repr(word) in found[f"prrmse.{name}"] for word in words.split()), name
    for name, word in (("a", "UNUSED"), ("a", "other"), ("b", "y"), ("d", "y")):
        assert repr(word) not in found[f"prrmse.{name}"], (name, word)


@pytest.mark.parametrize(
    ("file", "old", "new", "same"),
    [
        ("a", "LIMIT = 3", "LIMIT = 5", False),
        ("a", "return LIMIT * x", "return LIMIT + x", False),
        ("a", "UNUSED = 4", "UNUSED = 5", True),
        ("a", "return UNUSED", "return 1 + UNUSED", True),
        ("b", "x = 1", "x = 2", False),
        ("b", "y = 2", "y = 3", True),
        ("d", "x = 1", "x = 2", False),
        ("d", "y = 2", "y = 3", True),
        ("f", "x = 1", "print('runs when it is imported')", False),
        ("typed", "x = 1", "x = 2", True),
        ("__init__", "", "print('runs too')", False),
    ],
)
def test_a_change_beside_what_is_used_changes_no_digest(package, file, old, new, same):
    before = code_digest(package / "script.py", package / "src")
    # A copy elsewhere, since files are read once in a process: the place does not count.
    (package / "src").rename(package / "other")
    path = package / f"other/prrmse/{file}.py"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new) if old else new)
    assert (code_digest(package / "script.py", package / "other") == before) == same


# Modules that rules may share without a word: they are at the bottom of the package.
BOTTOM = {"errors", "files", "names", "seeding", "settings"}
EVALUATION = "data.reading data.slices learning.device learning.dice learning.evaluate nets"
TRAINING = "data.reading data.slices learning nets"
EVIDENCE = "figures.evidence figures.style tables.inference tables.store"
# Script -> everything else that enters its digest; a package stands for any of its modules.
MODULES = {
    "phantom": "phantom",
    "prepare": "data",
    "data_table": "data tables.store",
    "base": f"{TRAINING} experiments.base tables.store versions",
    "base_table": "tables.means tables.store",
    "swap": f"{EVALUATION} engine experiments.swap learning.reach learning.separable learning.target"
    " run.pair tables.store",
    "swap_table": "tables.means tables.store",
    "rmse": "compare.distance experiments.rmse nets.arrays tables.store",
    "bn_shift": "compare.distance experiments.bn_shift nets.arrays tables.store",
    "verdict": "tables.bootstrap tables.store tables.verdict",
    "transfer": f"{TRAINING} experiments.transfer tables.plan tables.store versions",
    "transfer_table": "tables.markdown tables.means tables.paper tables.store",
    "claims": "tables.answer tables.claims tables.inference tables.store",
    "metrics": "tables.curves tables.metrics tables.store",
    "figures": "figures tables.curves tables.paper tables.store",
    "examples": "data.reading data.slices experiments.examples figures.examples figures.style learning nets"
    " tables.store",
    "report": "config.params figures.outcome figures.style figures.titles report.page report.summary run.manifest"
    " tables.answer tables.paper tables.store versions",
    "manifest": "config.params run.manifest versions",
    "crate": "data.reading data.slices run.crate run.manifest run.records versions",
    "control": f"{EVALUATION} compare.align engine experiments.control learning.reach learning.separable"
    " learning.target tables.store",
    "controls": f"{EVIDENCE} tables.bootstrap tables.controls tables.verdict",
    "screen": f"{EVALUATION} compare.distance compare.first_order experiments.screen failures learning.cuda"
    " learning.reach learning.separable learning.target tables.store",
    "screen_table": f"{EVIDENCE} tables.bootstrap tables.screen",
    "joint": f"{EVALUATION} engine experiments.joint learning.freeze learning.reach learning.separable learning.target"
    " run.pair tables.store",
    "joint_table": f"{EVIDENCE} tables.bootstrap tables.joint tables.verdict",
    "factorial": f"{EVIDENCE} tables.factorial",
    "transferability": f"{EVALUATION} compare engine experiments.transferability learning.reach learning.separable"
    " learning.target tables.store",
    "gain": f"{TRAINING} experiments.probe experiments.transfer tables.plan tables.store versions",
    "ranking": f"{EVIDENCE} tables.bootstrap tables.ranking",
    "study_base": f"{EVALUATION} experiments.study learning.target tables.store",
    "study_start": f"{TRAINING} experiments.study tables.bootstrap tables.store tables.verdict versions",
    "study_run": f"{TRAINING} experiments.study tables.bootstrap tables.store tables.verdict versions",
    "study_scores": f"{EVALUATION} compare engine experiments.transferability learning.reach learning.separable"
    " learning.target tables.store",
    "study_connect": f"{EVALUATION} compare.align compare.connectivity engine experiments.connect learning.freeze"
    " learning.reach learning.separable learning.target tables.store",
    "study_together": f"{EVALUATION} engine experiments.together learning.reach learning.separable learning.target"
    " tables.bootstrap tables.store tables.verdict",
    "study_recipe": f"{TRAINING} experiments.base experiments.study learning.target tables.store versions",
    "study_search": f"{TRAINING} api data.reading experiments.halving learning.reach learning.separable nets.foreign"
    " nets.torchfile nets.opcodes search tables.inference tables.store versions",
    "study": "figures.study figures.style report.evidence report.study tables.answer"
    " tables.bootstrap tables.connect tables.inference tables.markdown tables.means tables.ranking tables.regret"
    " tables.store tables.study tables.verdict",
    "evidence": "config.params figures.style report.evidence report.page tables.answer tables.controls tables.findings"
    " tables.inference tables.markdown tables.ranking tables.store",
}


@pytest.mark.parametrize("script", sorted(path.stem for path in (ROOT / "workflow/scripts").glob("*.py")))
def test_the_modules_that_enter_a_digest_are_those_that_decide(script):
    found = [m.removeprefix("prrmse.") for m in used_by(ROOT / f"workflow/scripts/{script}.py", ROOT / "src")]
    expected = MODULES[script].split()

    def within(module: str, name: str) -> bool:
        return module == name or module.startswith(f"{name}.")

    assert [m for m in found if m not in BOTTOM and not any(within(m, name) for name in expected)] == []
    assert [name for name in expected if not any(within(m, name) for m in found)] == []


@pytest.fixture(scope="module")
def pretended(tmp_path_factory):
    folder = Folder(tmp_path_factory.mktemp("edits"))
    folder.pretend("all", "evidence")
    return folder


@pytest.mark.workflow
@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit.what)
def test_a_change_of_code_plans_the_jobs_that_it_can_change(pretended, edit):
    originals = edit.apply(pretended.path)
    planned = pretended.planned("all", "evidence")
    for path, text in originals.items():
        path.write_text(text)
    assert planned == edit.jobs
