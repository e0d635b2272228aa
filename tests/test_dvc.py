"""DVC and Snakemake on one folder: whichever ran first, wherever the files came from, nothing is computed twice."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time

import pytest
import yaml
from tiny import CHANGES, ROOT, Folder, jobs, rules

from prrmse.names import models, split_model
from prrmse.run.code import used_by

pytestmark = pytest.mark.workflow


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """`dvc repro` in a fresh checkout, pushed to a remote that is a folder."""
    folder = Folder(tmp_path_factory.mktemp("dvc") / "main")
    folder.git("init", "-q", "-b", "main")
    folder.git("add", "-A")
    folder.git("commit", "-qm", "Start")
    folder.must("dvc", "remote", "add", "-q", "-d", "store", str(folder.path.parent / "store"))
    folder.must("dvc", "repro")
    folder.git("commit", "-qam", "Run")
    folder.must("dvc", "push", "-q")
    return folder


@pytest.fixture(scope="module")
def pulled(recorded, tmp_path_factory):
    """A fresh clone elsewhere, pulled: every file has a new time, in random order."""
    path = tmp_path_factory.mktemp("pulled") / "clone"
    recorded.git("clone", "-q", str(recorded.path), str(path))
    folder = Folder.at(path)
    folder.must("dvc", "pull", "-q")
    return folder


@pytest.fixture
def clone(pulled, tmp_path):
    return pulled.copy(tmp_path / "clone")


def test_every_stage_depends_on_the_code_that_its_rules_run():
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    checked = set()
    for rule in rules():
        script = re.search(r"workflow/scripts/\w+\.py", rule.shellcmd or "")
        for name, stage in stages.items():
            outs = [*(next(iter(out)) for out in stage["outs"]), *(next(iter(m)) for m in stage.get("metrics", []))]
            if script and any(within(str(made), out) for made in rule.output for out in outs):
                modules = [f"src/{module.replace('.', '/')}" for module in used_by(ROOT / script[0], ROOT / "src")]
                deps = [dep.removesuffix(".py") for dep in stage["deps"]]
                missing = [module for module in modules if not any(within(module, dep) for dep in deps)]
                assert not missing, f"stage {name} runs {rule.name}"
                checked.add(rule.name)
    assert {"phantom", "base", "swap", "transfer", "metrics", "manifest"} <= checked


def test_every_base_model_of_the_parameters_is_an_artifact():
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    expected = {}
    for net in params["nets"]:
        for model in models(params["datasets"], params["tasks"]):
            dataset, task = split_model(model)
            for seed in params["seeds"]:
                expected[f"{net}-{model}-seed{seed}"] = {
                    "path": f"results/checkpoints/{net}/{model}/seed{seed}.safetensors",
                    "type": "model",
                    "desc": f"{net} trained on {dataset}, task {task}, seed {seed}",
                    "labels": [net, dataset, task],
                }
    artifacts = yaml.safe_load((ROOT / "dvc.yaml").read_text())["artifacts"]
    assert artifacts == expected
    assert [name for name in artifacts if not re.fullmatch("[a-z][a-z0-9-]*", name)] == []


def test_other_projects_get_base_models_as_the_page_says(recorded, tmp_path):
    """From a clone without any result, and so from the remote."""
    recorded.git("clone", "-q", str(recorded.path), str(tmp_path / "published"))
    published, other = Folder.at(tmp_path / "published"), Folder.at(tmp_path / "other")
    assert not (published.path / "results").exists()
    other.path.mkdir()
    page = (ROOT / "docs/workflow.md").read_text().partition("## The base models, for other projects\n")[2]
    got, named, python = re.findall(r"^```(?:python)?\n(.*?)^```$", page.partition("\n## ")[0], re.M | re.S)
    url = f"file://{published.path}"
    expected = (recorded.path / "results/checkpoints/unet/acdc-seg/seed0.safetensors").read_bytes()
    assert "unet/acdc-seg/seed0.safetensors" in other.must("sh", "-ec", got.replace("URL", url))
    assert (other.path / "target.safetensors").read_bytes() == expected
    (other.path / "target.safetensors").unlink()
    register, get = named.splitlines()
    published.git("config", "user.name", "test")
    published.git("config", "user.email", "test@example.org")
    published.must("sh", "-ec", register)
    other.must("sh", "-ec", get.replace("URL", url))
    assert (other.path / "target.safetensors").read_bytes() == expected
    check = "print(len(tensors), open(dvc.api.get_url(path, repo='URL'), 'rb').read() == open(local, 'rb').read())"
    code = f"{python}\nlocal = 'target.safetensors'\n{check}".replace("URL", url)
    assert re.search(r"^\d+ True$", other.must("python", "-c", code), re.M)


def within(path, folder):
    return path == folder or path.startswith(f"{folder}/")


def test_repro_first_leaves_nothing_to_do_for_snakemake(recorded):
    assert recorded.planned() == {}
    assert "up to date" in recorded.must("dvc", "status")
    tracked = recorded.git("ls-files")
    assert "dvc.lock" in tracked
    assert "results/" not in tracked, "results belong to DVC, not to git"


def test_snakemake_first_then_commit_leaves_nothing_to_do_for_dvc(whole_run, recorded, tmp_path):
    folder = whole_run.copy(tmp_path / "first")
    folder.git("init", "-q", "-b", "main")
    folder.git("add", "-A")
    folder.git("commit", "-qm", "Start")
    # What `dvc exp run`, `dvc exp apply` and a hook of git do first: whatever is not recorded is deleted.
    folder.run("dvc", "checkout", "--force")
    assert not (folder.path / "results/checkpoints").exists()
    again = folder.must("snakemake", "--cores", "1")
    computed = jobs(again)
    kept = again.count("taken from what an earlier run kept")
    assert kept == sum(computed[rule] for rule in ("base", "swap", "transfer")), "no training and no sweep was lost"
    folder.must("dvc", "commit", "-f", "-q")
    assert "up to date" in folder.must("dvc", "status")
    folder.must("dvc", "repro")
    assert folder.planned() == {}
    # All at once here, through five stages there: the bytes are the same.
    assert folder.must("prrmse", "diff", str(recorded.path), ".") == "the same bytes in every file\n"


def test_push_clone_pull_leaves_nothing_to_do_for_both(clone):
    assert "up to date" in clone.must("dvc", "status")
    assert clone.planned() == {}
    clone.must("dvc", "repro", "-q")
    assert clone.planned() == {}
    assert clone.git("status", "--porcelain") == ""


# The other changes: tests/test_workflow.py, and all of them by both tools in bench/reproducibility.py.
def change(folder, name):
    """Change a parameter; `dvc repro` then runs the jobs that read it and no other."""
    ((key, value, expected),) = [found for found in CHANGES if found[0] == name]
    folder.change(key, value)
    assert folder.planned() == expected
    done = jobs(folder.must("dvc", "repro"))
    # Fewer, where a job wrote the bytes that were there.
    assert done.items() <= expected.items()
    assert set(expected) - set(done) <= {"claims", "metrics", "examples"}
    assert "up to date" in folder.must("dvc", "status")
    assert folder.planned() == {}


def test_a_change_in_a_clone_runs_the_jobs_that_read_it_and_no_other(clone):
    change(clone, "verdict.tolerance")


def test_a_change_of_data_in_a_clone_and_its_metrics_params_and_plots(clone):
    change(clone, "datasets.t1.spacing_mm")
    found = json.loads(clone.must("dvc", "metrics", "diff", "--json"))["results/metrics.json"]
    assert "base.unet t1-auto.mse" in found
    assert "base.unet acdc-auto.mse" not in found
    assert "datasets.t1.spacing_mm" in clone.must("dvc", "params", "diff")
    clone.must("dvc", "plots", "diff", "-o", "plots")
    page = (clone.path / "plots/index.html").read_text()
    assert "bar" in page
    assert "Loss of the base models" in page
    assert re.search(r'"model": "acdc-auto".{0,200}"step": "2"', page), "the last point of a curve"
    assert "verdict.png" in page


def test_an_experiment_changes_a_parameter_by_its_key(clone):
    clone.git("config", "user.name", "test")
    clone.git("config", "user.email", "test@example.org")
    printed = clone.must("dvc", "exp", "run", "-S", "figures.palette=Set2")
    assert jobs(printed) == {"figures": 1, "examples": 2, "report": 1, "manifest": 1}
    assert "figures.palette" in clone.must("dvc", "params", "diff")
    clone.must("dvc", "exp", "run", "--queue", "-S", "figures.palette=Set3")
    clone.must("dvc", "queue", "start")

    def experiments():
        return re.findall(r"^refs/exps/[0-9a-f]{2}/", clone.git("for-each-ref", "--format=%(refname)"), re.MULTILINE)

    wait_for(lambda: len(experiments()) == 2)  # DVC's own answer takes a core for seconds
    wait_for(lambda: "Success" in clone.must("dvc", "queue", "status"), pause=5)
    assert "Set3" in clone.must("dvc", "exp", "show", "--csv")


def wait_for(condition, pause=0.1, seconds=300):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(pause)


def test_a_result_edited_by_hand_is_named_and_can_be_restored(clone):
    table = clone.path / "results/tables/transfer.csv"
    original = table.read_text()
    table.write_text(original.replace("0.", "9.", 1))
    assert "modified:           results/tables/transfer.csv" in clone.run("dvc", "status").stdout
    done = clone.run("dvc", "repro")
    assert done.returncode != 0
    assert "results/tables/transfer.csv: changed by hand" in done.stdout
    clone.must("dvc", "checkout", "--force", "-q")
    assert table.read_text() == original
    assert "up to date" in clone.must("dvc", "repro")


def test_a_phantom_edited_by_hand_is_named(clone):
    image = sorted((clone.path / "data/phantom/acdc").rglob("*_frame01.nii.gz"))[0]
    image.write_bytes(image.read_bytes() + b"x")
    done = clone.run("dvc", "repro")
    assert done.returncode != 0
    assert f"{image.relative_to(clone.path)}: changed by hand" in done.stdout


def test_a_killed_repro_and_its_locks_do_not_stop_the_next(clone):
    clone.change("base.steps", 3)
    run = subprocess.Popen(
        ["dvc", "repro"],
        cwd=clone.path,
        env=clone.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    wait_for(clone.trainings)
    finished = clone.trainings()
    assert run.poll() is None
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    clone.must("dvc", "repro")
    # Snakemake may not have noted the last of them and plan it again; that is then taken from what was kept.
    after = clone.trainings()
    assert finished.items() <= after.items(), "models that were finished are not trained again"
    assert len(after) == 8
    assert "up to date" in clone.must("dvc", "status")


def test_a_missing_remote_is_said_and_loses_nothing(clone):
    clone.must("dvc", "remote", "remove", "store")
    push = clone.run("dvc", "push")
    assert push.returncode != 0
    # `dvc pull` ends well if the cache has everything, but says it too.
    for printed in (push.stdout, clone.run("dvc", "pull").stdout):
        assert "no remote" in printed.lower()
    assert "up to date" in clone.must("dvc", "status")


def test_a_data_set_of_the_user_is_an_input_of_the_first_stage(clone, tmp_path):
    folder = clone.path
    raw = folder / "data/raw/heart"
    raw.parent.mkdir(exist_ok=True)
    (folder / "data/phantom/acdc").rename(raw)
    (raw / "PHANTOM.md").unlink()
    clone.must("dvc", "add", "-q", "data/raw/heart")
    assert "data/raw/heart.dvc" in clone.git("ls-files", "--others", "--cached", "--exclude-standard")
    assert "data/raw" in clone.run("dvc", "status", "data").stdout
