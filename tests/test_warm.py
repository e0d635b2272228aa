"""A script run warm does what it does when run cold, and never outlives the one who asked for it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere scripts run in their own process")
SOURCE = Path(__file__).parents[1] / "src"
# What the workflow preloads takes seconds; that it may be anything is part of the design.
SERVER = "import prrmse.run.warm as w; w.PRELOADED = ('xml.dom',); w.IDLE_SECONDS = {idle}; w.serve(w._address())"


class Place:
    """A working folder with a server of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "tmp").mkdir()
        kept = {k: v for k, v in os.environ.items() if k not in ("SLURM_JOB_ID", "PRRMSE_WARM")}
        self.environment = {**kept, "TMPDIR": str(folder / "tmp"), "PYTHONPATH": str(SOURCE)}

    def python(self, *arguments: str, **more: str) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, *arguments],
            cwd=self.folder,
            env={**self.environment, **more},
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def serve(self, idle: float = 60) -> subprocess.Popen:
        server = self.python("-c", SERVER.format(idle=idle))
        wait_for(lambda: [*self.folder.glob("tmp/prrmse-*/*")])
        return server

    def script(self, text: str) -> None:
        (self.folder / "script.py").write_text(text)

    def warm(self, *arguments: str, **more: str) -> subprocess.Popen:
        return self.python("-m", "prrmse.run.warm", "script.py", *arguments, **more)


def wait_for(condition, seconds: float = 20):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)
    return found


@pytest.fixture
def place(tmp_path):
    place = Place(tmp_path)
    server = place.serve()
    yield place
    server.kill()
    server.communicate()


SEEN = """
import os, sys
print(sys.argv, os.getcwd(), os.environ["COLOUR"], sys.stdin.read(), "xml.dom" in sys.modules)
print("a warning", file=sys.stderr)
sys.exit(5)
"""


def test_arguments_folder_environment_streams_and_status_are_the_callers(place):
    place.script(SEEN)
    job = place.warm("--net", "unet", COLOUR="green")
    out, err = job.communicate("typed")
    assert out == f"['script.py', '--net', 'unet'] {place.folder} green typed True\n"
    assert (err, job.returncode) == ("a warning\n", 5)


@pytest.mark.parametrize("switch", [{"PRRMSE_WARM": "0"}, {"SLURM_JOB_ID": "7"}, {"APPTAINER_CONTAINER": "a.sif"}])
def test_runs_in_its_own_process_where_a_fork_is_not_wanted(place, switch):
    place.script(SEEN)
    job = place.warm("--net", "unet", COLOUR="green", **switch)
    out, err = job.communicate("typed")
    assert out == f"['script.py', '--net', 'unet'] {place.folder} green typed False\n"
    assert (err, job.returncode) == ("a warning\n", 5)


def test_a_script_that_only_uses_a_server_forks_it_and_is_given_what_the_shell_has_open(place):
    place.script(SEEN)
    command = [sys.executable, "-m", "prrmse.run.warm", "--if-running", "script.py", "--net"]
    told = {"cwd": place.folder, "env": {**place.environment, "COLOUR": "green"}, "text": True, "input": "typed"}
    shell = ["bash", "-c", '"$@" @<(echo unet; echo "two words")', "bash", *command]
    made = subprocess.run(shell, capture_output=True, check=False, **told)
    assert made.stdout == f"['script.py', '--net', 'unet', 'two words'] {place.folder} green typed True\n"
    assert made.returncode == 5


def test_a_script_that_only_uses_a_server_starts_none(tmp_path):
    place = Place(tmp_path)
    place.script(SEEN)
    job = place.python("-m", "prrmse.run.warm", "--if-running", "script.py", COLOUR="green")
    out, err = job.communicate("typed")
    assert (out, err) == (f"['script.py'] {tmp_path} green typed False\n", "a warning\n")
    assert (job.returncode, [*tmp_path.glob("tmp/prrmse-*/*")]) == (5, [])


@pytest.mark.parametrize("name", ["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"])
def test_a_script_does_not_fork_a_server_that_has_other_threads(place, name):
    """As a job of one thread beside those of more: a fork keeps the number that the libraries were imported with."""
    place.script("import sys\nprint('xml.dom' in sys.modules)")
    found = [
        place.python("-m", "prrmse.run.warm", "--if-running", "script.py", **more).communicate()[0]
        for more in ({name: "7"}, {})
    ]
    assert found == ["False\n", "True\n"]


def test_an_exception_is_a_traceback_and_status_1(place):
    place.script("raise ValueError('no such layer')")
    job = place.warm()
    _, err = job.communicate()
    assert "ValueError: no such layer" in err
    assert job.returncode == 1


def test_changed_code_is_seen(place):
    for answer in ("old", "new"):
        place.script(f"print({answer!r})")
        assert place.warm().communicate()[0] == f"{answer}\n"


BUSY = """
import os, signal, sys, time
from pathlib import Path
def stop(*_):
    Path("saved").touch()
    sys.exit(9)
signal.signal(signal.SIGTERM, stop)
Path("pid.partial").write_text(str(os.getpid()))
os.replace("pid.partial", "pid")
time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_asked_to_stop_the_job_may_save_first(place, number):
    place.script(BUSY)
    job = place.warm()
    wait_for((place.folder / "pid").exists)
    job.send_signal(number)
    job.communicate(timeout=20)
    assert (place.folder / "saved").exists()
    assert job.returncode == 9


def test_the_job_ends_when_the_caller_is_killed(place):
    place.script(BUSY)
    job = place.warm()
    wait_for((place.folder / "pid").exists)
    job.kill()
    job.communicate()
    wait_for((place.folder / "saved").exists)


def test_a_killed_job_is_said_and_the_server_goes_on(place):
    place.script(BUSY)
    job = place.warm()
    wait_for((place.folder / "pid").exists)
    os.kill(int((place.folder / "pid").read_text()), signal.SIGKILL)
    _, err = job.communicate(timeout=20)
    assert "the job was killed" in err
    assert job.returncode == 137
    place.script("print('next')")
    assert place.warm().communicate()[0] == "next\n"


def test_idle_server_ends_and_leaves_no_socket(tmp_path):
    place = Place(tmp_path)
    server = place.serve(idle=0.1)
    server.communicate(timeout=20)
    assert server.returncode == 0
    assert not [*tmp_path.glob("tmp/prrmse-*/*")]


def test_a_file_where_the_socket_would_be_breaks_no_job(tmp_path):
    place = Place(tmp_path)
    (tmp_path / f"tmp/prrmse-{os.getuid()}").touch()
    (tmp_path / ".cache").touch()
    place.script("print('done')")
    out, err = place.warm(HOME=str(tmp_path)).communicate()
    assert (out, err) == ("done\n", "")
