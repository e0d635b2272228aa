"""Files that run code or overreach are opened without either, each in a process of its own."""

import json
import subprocess
import sys
from pathlib import Path

import malice
import pytest

SCRIPT = Path(malice.__file__)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What happened to each file, by group and name: ``ran``, ``signal N``, ``opened`` or an error."""
    folder = tmp_path_factory.mktemp("malice")
    done = subprocess.run([sys.executable, SCRIPT, folder], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def test_each_technique_runs_code_where_a_pickle_is_loaded_without_care(results):
    harmless = {name: text for name, text in results["control"].items() if text != "ran"}
    assert not harmless, "these payloads do nothing, so that the other tests show nothing"


@pytest.mark.parametrize("group", ["hidden", "exhausting"])
def test_nothing_runs_and_each_file_ends_in_a_state_or_one_line(results, group):
    for name, text in results[group].items():
        assert text == "opened" or text.startswith("InputError: "), (name, text)
        assert "\n" not in text and text.isprintable(), (name, text)
        assert text == "opened" or name in text


def test_a_state_beside_code_is_still_read(results):
    beside = {name: text for name, text in results["hidden"].items() if name[0].isdigit()}
    assert len(beside) >= 60
    assert set(beside.values()) == {"opened"}


def test_no_overreaching_tensor_is_opened(results):
    opened = {name for name, text in results["exhausting"].items() if text == "opened"}
    assert opened == {"bytearray.pth"}  # its 8 TB are beside the state and never made


def test_the_documentation_counts_them():
    printed = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True, check=True).stdout
    assert printed.strip() in Path(__file__).parents[1].joinpath("docs/checkpoints.md").read_text()
