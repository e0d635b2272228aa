"""Damaged, odd and hostile inputs into every reader and the command line; tests/torture/inputs.py has the long form."""

import re
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parent / "torture" / "inputs.py"


def harness(*arguments):
    return subprocess.run([sys.executable, SCRIPT, *arguments], capture_output=True, text=True, timeout=600)


def test_the_inputs_are_valid_before_they_are_changed():
    done = harness("--valid")
    assert done.returncode == 0, done.stderr[-2000:]


def test_each_case_ends_in_the_right_values_or_in_one_line():
    done = harness("--cases", "7500", "--seed", "0", "--seconds", "15")
    assert done.returncode == 0, done.stdout + done.stderr
    rows = re.findall(r"^\| (.*?) \| (\d+) \| (\d+) \| (\d+) \|", done.stdout, re.MULTILINE)
    assert len(rows) >= 26
    for reader, cases, accepted, refused in rows:
        assert int(cases) >= 100 and int(accepted) and int(refused), reader
