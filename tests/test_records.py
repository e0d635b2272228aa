"""What jobs record of their results, what is kept of them, and which of Snakemake's own notes are believed."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from snakemake.persistence import RECORD_FORMAT_VERSION, MetadataRecord
from tiny import ROOT, Folder

from prrmse.cli.main import main
from prrmse.errors import InputError
from prrmse.phantom.cohort import generate, remove
from prrmse.run import hashes, kept, locks
from prrmse.run.manifest import MANIFEST, check_untouched
from prrmse.run.records import COMPARED, INCOMPLETE, METADATA, mark_unverified, note_of, runs_jobs
from prrmse.settings import ForeignNetwork

SEED = 0
FILE = "results/tables/base.csv"
SCRIPT = """
from argparse import Namespace
from functools import partial
from pathlib import Path

from prrmse.files import write_text
from prrmse.run.job import Afterwards, run


def main(a: Namespace) -> Afterwards:
    Path("runs").open("a").write("x")
    text = a.params["init"] + "".join(Path(part).read_text() for part in a.parts)
    write_text(text, a.table)
    return partial(Path("afterwards").touch)


run(main, "params", "table", lists=["parts"], keep=True)
"""
COMPUTE = {"device": "cpu", "precision": "float32", "evaluation_precision": "float32", "threads": 1}


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A working folder in which Snakemake has worked, with one input."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".snakemake").mkdir()
    (tmp_path / "workflow/scripts").mkdir(parents=True)
    (tmp_path / "workflow/scripts/job.py").write_text(SCRIPT)
    (tmp_path / "src").symlink_to(ROOT / "src")
    (tmp_path / "results").mkdir()
    (tmp_path / "results/part.csv").write_text("part")
    record_hash()
    return tmp_path


def record_hash(file: str = "results/part.csv") -> None:
    hashes.record({Path(file): hashes.sha256_of(file)})


def job(
    init: str = "shared", code: str | None = None, net: dict[str, Any] | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    params = json.dumps({"init": init, "compute": COMPUTE, **({"nets.mine": net} if net else {})})
    if code is None:
        from prrmse.run.code import code_digest

        code_digest.__globals__["_module"].cache_clear()
        code = code_digest("workflow/scripts/job.py")
    arguments = ["--params", params, "--table", "results/out.csv", "--parts", "results/part.csv", "--code", code]
    command = [sys.executable, "workflow/scripts/job.py", *arguments]
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src"), **environment}
    return subprocess.run(command, env=env, text=True, capture_output=True, check=False)


def runs() -> int:
    return len(Path("runs").read_text()) if Path("runs").exists() else 0


def test_a_job_whose_results_are_removed_takes_them_from_what_was_kept(folder):
    """`dvc exp run`, `dvc checkout --force`, and a kill before Snakemake's note leave no result, or an unknown one."""
    out = Path("results/out.csv")
    assert job().returncode == 0
    assert (out.read_text(), runs(), Path("afterwards").exists()) == ("sharedpart", 1, True)
    assert hashes.recorded() == {
        str(out): hashes.sha256_of(out),
        "results/part.csv": hashes.sha256_of("results/part.csv"),
    }
    out.unlink()
    again = job()
    assert (again.returncode, out.read_text(), runs()) == (0, "sharedpart", 1), again.stderr
    # Anything that decides the result is asked for anew: a parameter, the content of an input, the program, a force.
    assert job("independent").returncode == 0
    assert (out.read_text(), runs()) == ("independentpart", 2)
    assert job("independent", PRRMSE_FORCED="1").returncode == 0
    assert runs() == 3
    Path("results/part.csv").write_text("other")
    record_hash()
    assert job("independent").returncode == 0
    assert (out.read_text(), runs()) == ("independentother", 4)
    # A kept file that was damaged is not believed; it is the result's own content, under another name.
    out.write_text("damaged")
    out.unlink()
    assert job("independent").returncode == 0
    assert (out.read_text(), runs()) == ("independentother", 5)
    script = Path("workflow/scripts/job.py")
    script.write_text(script.read_text().replace('"".join', '"/".join'))
    assert job("independent").returncode == 0
    assert runs() == 6


def test_a_job_stopped_before_its_results_were_recorded_is_not_computed_again(folder):
    blocked = folder / "results/hashes/results/out.csv.sha256/x"
    blocked.mkdir(parents=True)
    assert job().returncode, "its hash cannot be written"
    partial = folder / "results/.out.1.partial.csv"  # of a writer that was killed before
    partial.touch()
    blocked.rmdir()
    blocked.parent.rmdir()
    Path("results/out.csv").unlink()  # as Snakemake does before it starts a job
    again = job()
    assert (again.returncode, runs()) == (0, 1), again.stderr
    assert hashes.missing() == []
    assert not partial.exists()


def test_what_is_kept_takes_no_space_and_goes_when_it_is_old_and_superseded(folder, monkeypatch):
    result = folder / "results/a.csv"
    result.write_text("a")
    kept.keep("key", {Path("results/a.csv"): hashes.sha256_of("results/a.csv")})
    part, record = folder / kept.FOLDER / "key/0", folder / kept.FOLDER / "key/files.json"
    assert part.stat().st_ino == result.stat().st_ino

    def look(seconds: float) -> None:
        """As Snakemake does when it starts, this much later than `DAYS` after the files were kept."""
        now = record.stat().st_ctime + kept.DAYS * 86400 + seconds
        monkeypatch.setattr(kept, "time", SimpleNamespace(time=lambda: now))
        kept.forget_old()

    look(86400)
    assert record.is_file(), "it is among the results"
    # `dvc exp run` deletes the results and then starts Snakemake, which looks for what is old before any job runs.
    time.sleep(0.2)
    result.unlink()
    look(0.1)
    assert list(kept.restore("key") or []) == [Path("results/a.csv")], "it has just left the results"
    result.unlink()
    look(86400)
    assert kept.restore("key") is None


def test_what_a_killed_job_kept_in_part_goes_after_a_day(folder):
    part = folder / kept.FOLDER / "key"
    part.mkdir(parents=True)
    (part / "0").write_text("a")
    kept.forget_old()
    assert part.is_dir(), "a living job may be at it"
    old = time.time() - (kept.UNFINISHED_DAYS + 0.1) * 86400
    os.utime(part, (old, old))
    kept.forget_old()
    assert not part.exists()


@pytest.mark.parametrize("package", ["python", *kept.PACKAGES])
def test_another_version_of_a_package_that_decides_results_is_another_job(monkeypatch, package):
    before, versions = kept.key_of({}, {}), kept.versions()
    assert kept.key_of({}, {}) == before
    monkeypatch.setattr(kept, "versions", lambda: {**versions, package: "0.0.1"})
    assert kept.key_of({}, {}) != before


@pytest.mark.parametrize(
    ("factory", "arguments", "told"),
    [
        ("torch.nn:Conv2d", {}, True),
        ("prrmse.nets.unet:UNet", {}, True),
        ("torchvision.models:resnet18", {}, True),
        ("timm:create_model", {"checkpoint_path": "weights.pth"}, False),
        ("mine:Net", {}, False),
        ("monai.networks.nets:UNet", {}, False),  # here from a folder of its sources, see below
    ],
)
def test_the_code_of_a_network_is_told_by_a_version_only_where_it_is_installed(
    tmp_path, monkeypatch, factory, arguments, told
):
    (tmp_path / "monai").mkdir()
    (tmp_path / "monai/__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "monai", raising=False)
    spec = ForeignNetwork(factory=factory, arguments=arguments, out_channels=2, trust=True)
    assert kept.is_told_by_version(spec) is told


def test_a_job_with_a_network_of_the_users_is_computed_each_time(folder):
    (folder / "mine.py").touch()
    net = {"factory": "mine:Net", "trust": True, "out_channels": 2}
    for times in (1, 2):
        done = job(net=net)
        assert (done.returncode, runs()) == (0, times), done.stderr
        Path("results/out.csv").unlink()
    assert not list((folder / kept.FOLDER).glob("*"))


def test_a_program_edited_after_the_run_was_planned_is_refused_before_anything_is_computed(folder):
    done = job(code="code of another program")
    assert (done.returncode, runs()) == (2, 0)
    assert done.stderr == "error: the program was changed since this run was started; run again\n"


def test_a_damaged_file_is_refused_by_the_job_that_reads_it_and_named_by_verify(folder, capsys):
    part = Path("results/part.csv")
    times = part.stat().st_atime_ns, part.stat().st_mtime_ns
    assert main(["verify"]) == 0
    assert capsys.readouterr().out == "1 files are as they were written\n"
    part.write_text("pbrt")
    os.utime(part, ns=times)  # as a bad disk does it
    done = job()
    assert (done.returncode, runs()) == (2, 0)
    assert done.stderr.startswith("error: results/part.csv: not as it was written")
    assert main(["verify"]) == 1
    printed = capsys.readouterr().out
    assert printed == (
        "results/part.csv: not as it was written; to make it anew: "
        "rm results/part.csv && snakemake --cores all results/part.csv\n"
    )
    mark = note_of(INCOMPLETE, "results/part.csv")
    mark.parent.mkdir(parents=True)
    mark.write_text("{}")
    assert hashes.damaged.__module__ and hashes.recorded() == {}, "Snakemake makes it anew by itself"


def test_verify_says_what_is_wrong_with_a_folder_without_records(tmp_path, capsys):
    assert main(["verify", str(tmp_path)]) == 2
    assert "no recorded hashes" in capsys.readouterr().err


def test_verify_names_what_is_not_there(folder, capsys):
    lost = Path("results/checkpoints/a b.safetensors")
    lost.parent.mkdir()
    lost.write_text("weights")
    record_hash(str(lost))
    lost.unlink()
    assert main(["verify"]) == 1
    assert capsys.readouterr().out == (
        f"{lost}: not there; to make it: snakemake --cores all '{lost}' "
        f"(if no rule makes it any more: rm 'results/hashes/{lost}.sha256')\n"
    )
    mark = note_of(INCOMPLETE, str(lost))
    mark.parent.mkdir(parents=True)
    mark.write_text("{}")
    assert hashes.missing() == [], "Snakemake makes it by itself"
    mark.unlink()
    Path("results/part.csv").unlink()
    assert main(["verify"]) == 2
    assert "none of the files is there whose hashes are recorded" in capsys.readouterr().err, "a fresh clone"


def test_verify_reads_every_file_of_a_phantom(folder, capsys):
    generate("t1", "data/phantom/t1", patients=2, seed=0)
    root = Path("data/phantom/t1")
    files = sorted(path for path in root.rglob("*") if path.is_file())
    lines = Path("data/phantom/t1.sha256")
    lines.write_text("".join(f"{hashes.sha256_of(f)}  {f.relative_to(root)}\n" for f in files))
    assert hashes.damaged() == []
    content, times = files[1].read_bytes(), files[1].stat()
    files[1].write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    os.utime(files[1], ns=(times.st_atime_ns, times.st_mtime_ns))
    assert main(["verify"]) == 1
    assert "rm data/phantom/t1.sha256 && snakemake --cores all data/phantom/t1.sha256" in capsys.readouterr().out


def test_a_phantom_damaged_with_its_old_time_is_not_prepared(folder):
    generate("t1", "data/phantom/t1", patients=2, seed=0)
    root, lines = Path("data/phantom/t1"), Path("data/phantom/t1.sha256")
    files = sorted(path for path in root.rglob("*") if path.is_file())
    lines.write_text("".join(f"{hashes.sha256_of(f)}  {f.relative_to(root)}\n" for f in files))
    hashes.check_phantom(lines)
    hashes.check_phantom(Path("data/phantom/none.sha256"))
    content, times = files[1].read_bytes(), files[1].stat()
    files[1].write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    os.utime(files[1], ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(InputError, match=rf"^{files[1]}: not as it was written .*: rm data/phantom/t1\.sha256 && "):
        hashes.check_phantom(lines)


def test_diff_reads_the_files_and_stays_in_its_folders(tmp_path, capsys):
    for name in ("a", "b"):
        path = tmp_path / name / FILE
        path.parent.mkdir(parents=True)
        path.write_text("x,y\n1,2\n")
        files = {FILE: hashes.sha256_of(path)}
        record = {"commit": None, "changed": None, "environment": {}, "params": {}, "files": files}
        (tmp_path / name / MANIFEST).write_text(json.dumps(record))
    runs = [str(tmp_path / name) for name in ("a", "b")]
    assert main(["diff", *runs]) == 0
    (tmp_path / "b" / FILE).write_text("x,y\n1,3\n")
    assert main(["diff", *runs]) == 1
    assert f"{tmp_path / 'b' / FILE}: changed since its manifest was written" in capsys.readouterr().out
    for name in ("/etc/passwd", "../a/params.yaml"):
        (tmp_path / "b" / MANIFEST).write_text(json.dumps({**record, "files": {name: "0"}}))
        assert main(["diff", *runs]) == 2
        assert f"names a file outside this folder: {name}" in capsys.readouterr().err


def test_a_phantom_whose_removal_was_killed_is_made_again(tmp_path, monkeypatch):
    root = tmp_path / "phantom"
    generate("t1", root, patients=2, seed=0)

    def killed(path, **_):
        if (Path(path) / "PHANTOM.md").is_file():  # which may be the first file to go
            (Path(path) / "PHANTOM.md").unlink()
            raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("shutil.rmtree", killed)
        remove(root)
    assert not root.exists()
    generate("t1", root, patients=2, seed=0)
    (root / "PHANTOM.md").unlink()
    with pytest.raises(InputError, match="is no phantom"):
        remove(root)


RECORD = {
    "rule": "base_table",
    "input": ["results/base/unet/acdc-seg/seed0.csv"],
    "log": ["logs/base_table.log"],
    "shellcmd": "python workflow/scripts/base_table.py",
    "params": ["'code 0123abcd'", '\'{"init": "shared", "base": {"steps": 10}}\''],
    "code": "python workflow/scripts/base_table.py --table {output:q}",
    "record_format_version": RECORD_FORMAT_VERSION,
    "conda_env": None,
    "container_img_url": None,
    "software_stack_hash": "d41d8cd98f00b204e9800998ecf8427e",
    "job_hash": 2305843009213693951,
    "starttime": 1764137292.5,
    "endtime": 1764137293.25,
    "incomplete": False,
    "external_jobid": None,
    "input_checksums": {"results/base/unet/acdc-seg/seed0.csv": "sha256:00ff"},
}


def damages() -> list[tuple[str, bytes]]:
    """Truncated after each byte, and each bit of it turned over."""
    whole = json.dumps(RECORD).encode()
    cut = [(f"cut after {n}", whole[:n]) for n in range(len(whole))]
    flipped = []
    for i in range(len(whole)):
        for bit in range(8):
            flipped.append((f"bit {bit} of byte {i}", whole[:i] + bytes([whole[i] ^ (1 << bit)]) + whole[i + 1 :]))
    return [*cut, *flipped]


def test_a_damaged_note_of_snakemakes_never_hides_a_change(tmp_path, monkeypatch):
    """Of every damage: the file is made anew, or the note still holds all that is compared, with what no job has."""
    monkeypatch.chdir(tmp_path)
    Path(FILE).parent.mkdir(parents=True)
    Path(FILE).touch()
    note, mark = note_of(METADATA, FILE), note_of(INCOMPLETE, FILE)
    note.parent.mkdir(parents=True)
    trust = lambda: mark_unverified([FILE, "results/not-there"], MetadataRecord.model_validate, RECORD_FORMAT_VERSION)  # noqa: E731
    ask = lambda: mark_unverified([FILE], MetadataRecord.model_validate, RECORD_FORMAT_VERSION, mark=False)  # noqa: E731
    note.write_text(json.dumps(RECORD))
    assert trust() == []
    cases = damages()
    print(f"seed {SEED}, 600 of {len(cases)} damages")
    believed = 0
    for name, content in random.Random(SEED).sample(cases, 600):
        note.write_bytes(content)
        asked = ask()
        assert (note.read_bytes(), mark.exists()) == (content, False), "only asked"
        marked = trust()
        assert marked == asked, name
        if marked:
            assert mark.is_file(), name
            assert not note.exists(), name
            mark.unlink()
            continue
        believed += 1
        found = json.loads(content)
        if found["record_format_version"] != RECORD_FORMAT_VERSION:
            continue  # a note of another version of Snakemake looks the same
        # A change of one of these would be seen by Snakemake: a damaged value is one more change.
        assert set(found) >= COMPARED, name
        assert all(found[key] is not None for key in COMPARED), name
        MetadataRecord.model_validate(found)
    assert 0 < believed < 400
    note.unlink(missing_ok=True)
    assert trust() == [FILE], "a note that is lost is a damaged one"
    assert trust() == [], "said once"


def test_data_replaced_by_an_older_file_are_read_again(tmp_path, monkeypatch):
    """Snakemake reads again what is newer than the result; a copy (cp -p, rsync) has an older time."""
    monkeypatch.chdir(tmp_path)
    made = lambda: mark_unverified([FILE], MetadataRecord.model_validate, RECORD_FORMAT_VERSION, mark=False)  # noqa: E731
    raw, end = Path("data/raw/image.nii"), time.time() - 1000
    for path in (Path(FILE), raw):
        path.parent.mkdir(parents=True)
        path.write_text("one")
    note = note_of(METADATA, FILE)
    note.parent.mkdir(parents=True)
    note.write_text(
        json.dumps({**RECORD, "endtime": end, "input_checksums": {str(raw): f"sha256:{hashes.sha256_of(raw)}"}})
    )
    os.utime(raw, (end - 100, end - 100))
    assert made() == [], "copied, but the same"
    raw.write_text("two")
    assert made() == [], "newer, hence left to Snakemake"
    os.utime(raw, (end - 100, end - 100))
    assert made() == [FILE]


@pytest.mark.parametrize("version", [3, 5, RECORD_FORMAT_VERSION + 1])
def test_a_whole_note_of_another_version_of_snakemake_is_left_to_snakemake(tmp_path, monkeypatch, version):
    """It compares what it can; an upgrade must not make every training run again."""
    monkeypatch.chdir(tmp_path)
    Path(FILE).parent.mkdir(parents=True)
    Path(FILE).touch()
    note = note_of(METADATA, FILE)
    note.parent.mkdir(parents=True)
    other = {**RECORD, "record_format_version": version, "input_checksums": None}
    note.write_text(json.dumps(other))
    assert mark_unverified([FILE], MetadataRecord.model_validate, RECORD_FORMAT_VERSION) == []
    assert json.loads(note.read_bytes()) == other
    assert not note_of(INCOMPLETE, FILE).exists()
    note.write_text(json.dumps(other)[:-20])
    assert mark_unverified([FILE], MetadataRecord.model_validate, RECORD_FORMAT_VERSION) == [FILE]


@pytest.mark.parametrize(
    ("command", "executes"),
    [
        ("--cores 2", True),
        ("-j2 -F all", True),
        ("--cores 2 -p --forcerun base", True),
        ("--touch -c1", True),
        ("--workflow-profile profiles/slurm", True),
        ("-n", False),
        ("-np", False),
        ("-nq", False),
        ("-nF", False),
        ("--cores 2 --dry-run evidence", False),
        ("--dryrun", False),
        ("--lint", False),
        ("--summary", False),
        ("-D", False),
        ("--list", False),
        ("--dag", False),
        ("--report", False),
        ("--cores 2 --report report.zip --report-after-run", True),
        ("--unlock", False),
        ("--cleanup-metadata results/tables/base.csv", False),
        ("--delete-all-output", False),
    ],
)
def test_only_command_lines_that_run_jobs_change_notes_and_locks(command, executes):
    assert runs_jobs(command.split()) is executes


@pytest.mark.workflow
def test_a_dry_run_names_unverified_results_and_changes_nothing(tmp_path):
    folder = Folder(tmp_path)
    result = tmp_path / FILE
    result.parent.mkdir(parents=True)
    result.touch()
    note = tmp_path / note_of(METADATA, FILE)
    note.parent.mkdir(parents=True)
    note.write_text("{")
    done = folder.must("snakemake", "-np", "data_table")
    assert "1 results have no whole note" in done
    assert note.read_text() == "{"
    assert not (tmp_path / note_of(INCOMPLETE, FILE)).exists()
    assert not (tmp_path / locks.RUN).exists()


def test_what_is_said_of_a_result_of_another_commit_than_its_record_helps(folder):
    """`dvc repro base` records checkpoints in dvc.lock and not their hashes, which belong to a later stage."""
    checkpoint = Path("results/checkpoints/unet/seed0.safetensors")
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_text("of the last full run")
    record_hash(str(checkpoint))
    checkpoint.write_text("of dvc repro base, brought back by dvc checkout")
    with pytest.raises(InputError) as raised:
        check_untouched()
    said = str(raised.value)
    assert "or from another commit than its record in results/hashes; delete it to have it made anew" in said
    assert "if it was changed by hand, restore it (dvc checkout --force)" in said, "otherwise that brings the same back"
    checkpoint.unlink()
    check_untouched()
