"""The real snakemake on a tiny configuration: every file of the contract, and nothing computed twice."""

from __future__ import annotations

import base64
import json
import os
import random
import re
import shutil
import signal
import subprocess
import time
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from cohorts import write_nifti
from snakemake.iocontainers import Wildcards
from tiny import CHANGES, ROOT, Folder, rules
from torture import notes

from prrmse.names import OTHER_INIT
from prrmse.run.hashes import FOLDER
from prrmse.tables.ranking import SCORES

pytestmark = pytest.mark.workflow


@pytest.fixture(scope="module")
def finished(whole_run, tmp_path_factory):
    return whole_run.copy(tmp_path_factory.mktemp("workflow") / "finished")


CONTRACT = {
    "base": ["net", "model", "seed", "class", "dice", "mse", "n_patients"],
    "swap": ["net", "target", "source", "seed", "kind", "layer", "module", "class", "dice", "baseline"],
    "rmse": ["net", "model_a", "model_b", "seed", "kind", "layer", "module", "rmse"],
    "bn_shift": ["net", "target", "source", "seed", "layer", "module", "mrm", "mrv", "mrw", "mrb", "mrm_abs"],
    "verdict": ["net", "target", "source", "kind", "layer", "module", "reusable", "drop", "drop_low", "drop_high"],
    "network": ["net", "target", "source", "is_rn", "fraction_pairs", "fraction_scalars"],
    "transfer": ["net", "samples", "arm", "source", "seed", "class", "dice"],
    "claims": ["claim", "text", "answer", "statistic"],
    "data": ["dataset", "provenance", "split", "patients", "slices", "class", "pixel_fraction"],
}


def test_every_file_of_the_contract_is_there_and_not_empty(finished):
    results = finished.path / "results"
    for name, columns in CONTRACT.items():
        table = pd.read_csv(results / "tables" / f"{name}.csv")
        assert len(table), name
        assert set(columns) <= set(table.columns), name
    names = [*(f"fig{i:02d}" for i in range(3, 13)), "examples_unet", "examples_pspnet"]
    files = [*(f"figures/{n}.{e}" for n in names for e in ("svg", "png")), "report.html"]
    files += ["tables/transfer.md", "tables/transfer.tex"]
    models = ["acdc-seg", "acdc-auto", "t1-seg", "t1-auto"]
    files += [f"checkpoints/{net}/{model}/seed0.safetensors" for net in ("unet", "pspnet") for model in models]
    for file in files:
        assert (results / file).stat().st_size > 100, file
    for curve in (f"curves/{net}/{model}/seed0.jsonl" for net in ("unet", "pspnet") for model in models):
        assert (results / curve).read_text().startswith('{"step": 1, "loss": '), curve
    made = {path.relative_to(finished.path) for path in results.rglob("*") if path.is_file()}
    recorded = {Path(str(file.relative_to(FOLDER)).removesuffix(".sha256")) for file in made if FOLDER in file.parents}
    assert {file for file in made if FOLDER not in file.parents} == {f for f in recorded if f.parts[0] == "results"}


def test_the_page_of_the_tables_has_every_column(finished):
    common, *pages = re.split(r"^## ", (ROOT / "docs/tables.md").read_text(), flags=re.M)
    listed = {page.split("\n")[0]: columns(page) for page in pages}
    assert list(listed) == [path.name for path in order(finished.path / "results/tables", listed)]
    for name, own in listed.items():
        found = set(pd.read_csv(finished.path / "results/tables" / name).columns)
        assert own <= found, name
        assert found <= own | columns(common), name


def columns(page):
    """What a page's tables name in their first column."""
    return {name for row in re.findall(r"^\| (`.*?) \|", page, re.M) for name in re.findall(r"`(\w+)`", row)}


def order(folder, names):
    """The tables of a folder, those named first."""
    return sorted(folder.glob("*.csv"), key=lambda path: [*names, path.name].index(path.name))


def test_tables_have_every_pair_of_the_inventory(finished):
    swap = pd.read_csv(finished.path / "results/tables/swap.csv")
    pairs = swap[(swap["class"] == "mean")].groupby(["net", "source"])["module"].size()
    assert pairs["unet"].tolist() == [110, 110]
    assert pairs["pspnet"].tolist() == [126, 126]
    assert set(swap["class"]) == {"background", "RV", "myocardium", "LV", "mean", "mean_with_background"}
    transfer = pd.read_csv(finished.path / "results/tables/transfer.csv", keep_default_na=False)
    assert set(transfer["n_train"]) == {2, 4}, "50 patients were requested, 4 were available"


def test_the_report_of_snakemake_shows_every_table_and_figure(finished, tmp_path):
    finished.must("snakemake", "--report", str(tmp_path / "report.zip"))
    with zipfile.ZipFile(tmp_path / "report.zip") as archive:
        shown = [Path(name).name for name in archive.namelist()]
        (page,) = (archive.read(name).decode() for name in archive.namelist() if name == "report/report.html")
    figures = sorted(path.name for path in (finished.path / "results/figures").glob("*.svg"))
    assert len(figures) == 13 + 2
    for name in [*(f"{table}.csv" for table in CONTRACT), *figures, "report.html"]:
        assert name in shown, name
    captions = [path for path in (ROOT / "workflow/report").glob("*.rst") if path.stem not in ("workflow", "evidence")]
    assert len(captions) == len(CONTRACT) + 2
    for caption in captions:
        assert caption.read_text().split("``")[0].split("\n")[0] in page, caption.name
    for word in ("Tables", "Figures", "Verdicts: which parameters can be reused (ours)"):
        assert word in page, word


def test_second_run_does_nothing(finished):
    assert finished.planned() == {}


def test_times_of_files_decide_nothing(finished, tmp_path):
    folder = finished.copy(tmp_path / "times")
    folder.scatter_times(random.Random(0))
    assert folder.planned() == {}
    params = folder.read()
    for key, value, expected in (CHANGES[-1], CHANGES[0]):
        folder.write(params)
        folder.change(key, value)
        assert folder.planned() == expected
    # Some inputs are from the future, for which Snakemake itself fails the job that reads them.
    folder.must("snakemake", "--cores", "2")
    assert folder.planned() == {}
    assert folder.must("prrmse", "verify").endswith("files are as they were written\n")


@pytest.mark.parametrize(("key", "value", "expected"), CHANGES)
def test_a_change_runs_the_jobs_that_read_it_and_no_other(finished, key, value, expected):
    before = (finished.path / "params.yaml").read_text()
    finished.change(key, value)
    planned = finished.planned()
    (finished.path / "params.yaml").write_text(before)
    assert planned == expected


def test_longer_transfer_training_leaves_the_base_models(finished):
    before = (finished.path / "params.yaml").read_text()
    finished.change("transfer.train.steps", 3)
    planned = finished.planned()
    (finished.path / "params.yaml").write_text(before)
    assert "base" not in planned
    assert planned["transfer"] == 6


def test_bad_params_and_data_are_one_error_before_anything_runs(finished):
    before = (finished.path / "params.yaml").read_text()
    for path, value, message in (
        ("base.steps", 0, "base.steps"),
        ("datasets.acdc.root", "nowhere", "datasets.acdc.root: nowhere does not exist"),
    ):
        finished.change(path, value)
        if path.endswith("root"):
            finished.change("datasets.acdc.phantom", None)
        done = finished.snakemake()
        (finished.path / "params.yaml").write_text(before)
        assert done.returncode != 0
        assert message in done.stdout
        assert "Traceback" not in done.stdout


@pytest.mark.parametrize("file", ["params.yaml", "overlay.yaml"])
def test_what_snakemakes_own_reader_takes_without_a_word_is_refused(tmp_path, file):
    """Of equal keys it takes the last; a file with `__use_yte__: true` is a program that it runs."""
    folder = Folder(tmp_path / "folder")
    overlay = ["--configfile", file] if file == "overlay.yaml" else []
    path, ran = folder.path / file, tmp_path / "ran"
    before = path.read_text() if path.exists() else ""
    program = f"__use_yte__: true\n?open({str(ran)!r}, 'w') and False:\n  init: shared\n"
    for text, message in (
        ("figures: {dpi: 50, dpi: 70}\n" if overlay else "init: independent\n", "stands twice"),
        (program, "__use_yte__: unknown key"),
    ):
        path.write_text(before + text)
        done = folder.snakemake("--dry-run", *overlay)
        said = [line for line in done.stdout.splitlines() if "error: " in line]
        assert done.returncode != 0 and len(said) == 1, done.stdout
        assert said[0].startswith(f"error: {file}: ") and message in said[0], done.stdout
    # What --configfile names Snakemake has run by then: SECURITY.md says to let `prrmse check` read it first.
    assert ran.exists() is bool(overlay)
    ran.unlink(missing_ok=True)
    checked = folder.run("prrmse", "check", *dict.fromkeys(["params.yaml", file]))
    assert checked.returncode == 2 and "__use_yte__: unknown key" in checked.stdout
    assert not ran.exists()


def test_defect_in_one_data_set_stops_before_any_training(finished, tmp_path):
    folder = Folder(tmp_path)
    folder.snakemake("data/phantom/acdc.sha256", "data/phantom/t1.sha256")
    image = sorted((tmp_path / "data/phantom/acdc").rglob("patient002_frame01.nii.gz"))[0]
    image.write_bytes(image.read_bytes()[:3000])
    done = folder.snakemake()
    assert "patient002_frame01.nii.gz: changed by hand" in done.stdout, "a phantom has a recorded hash"
    shutil.move(tmp_path / "data/phantom/acdc", tmp_path / "data/raw/acdc")
    for key, value in (("phantom", None), ("root", "data/raw/acdc"), ("provenance", "synthetic")):
        folder.change(f"datasets.acdc.{key}", value)
    done = folder.snakemake()
    assert done.returncode != 0
    assert "patient002_frame01.nii.gz: truncated or not NIfTI" in done.stdout
    assert not (tmp_path / "results/checkpoints").exists(), "a training started"


def test_results_edited_by_hand_are_refused_and_kept(finished, tmp_path):
    folder = finished.copy(tmp_path / "edited")
    table = folder.path / "results/tables/swap.csv"
    table.write_text(table.read_text().replace("0.0", "0.9", 1))
    edited = table.read_text()
    done = folder.snakemake()
    assert done.returncode != 0
    assert "results/tables/swap.csv: changed by hand" in done.stdout
    assert table.read_text() == edited, "the edit is the user's: nothing may be lost"
    table.unlink()
    folder.must("snakemake", "--cores", "2", "results/tables/swap.csv")
    assert table.read_text() == (finished.path / "results/tables/swap.csv").read_text()


def test_a_run_killed_before_it_recorded_its_output_is_no_edit_by_hand(finished, tmp_path):
    """The file is complete and new, Snakemake's note of it is old: so it stands right after some kills."""
    folder = finished.copy(tmp_path / "unrecorded")
    table = folder.path / "results/tables/swap.csv"
    table.write_text(table.read_text().replace("0.0", "0.9", 1))
    marker = folder.path / ".snakemake/incomplete" / base64.urlsafe_b64encode(b"results/tables/swap.csv").decode()
    marker.parent.mkdir(exist_ok=True)
    marker.write_text('{"external_jobid": null}')
    folder.must("snakemake", "--cores", "2", "results/tables/swap.csv")
    assert table.read_text() == (finished.path / "results/tables/swap.csv").read_text()


def test_a_killed_run_goes_on_where_it_stopped(finished, tmp_path):
    folder = Folder(tmp_path / "killed")
    run = subprocess.Popen(
        ["snakemake", "--cores", "2"],
        cwd=folder.path,
        env=folder.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 300
    while not (trained := folder.trainings()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert trained, "no model was trained in 300 s"
    unlocked = folder.run("snakemake", "--unlock")
    assert unlocked.returncode != 0
    assert f"a run is at work here (process {run.pid}" in unlocked.stdout
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    assert [*folder.path.glob(".snakemake/locks/*")], "as if it still ran"
    folder.must("snakemake", "--cores", "1")
    assert trained.items() <= folder.trainings().items(), "a model that was finished was trained again"
    assert folder.must("prrmse", "verify").endswith("files are as they were written\n")
    assert folder.must("prrmse", "diff", str(finished.path), ".") == "the same bytes in every file\n"


def test_a_damaged_note_of_snakemake_hides_no_change(finished):
    assert notes.campaign(finished, 15, seed=0).count("stale results") == 0


def test_network_and_data_of_ones_own_by_params_alone(tmp_path):
    """MONAI's UNet; two channels, two structures, two cases a patient, beside a phantom of one channel."""
    folder = Folder(tmp_path / "own")
    rng = np.random.default_rng(0)
    root = folder.path / "data/raw/liver"
    for case in [f"p{p}_{phase}" for p in range(4) for phase in ("arterial", "venous")]:
        label = np.zeros((3, 40, 36), np.uint8)
        label[:, 8:30, 8:28], label[:, 14:22, 14:22] = 1, 2
        for channel in range(2):
            image = label * (1 + channel) + 0.2 * rng.standard_normal(label.shape)
            write_nifti(root / "imagesTr" / f"{case}_{channel:04d}.nii.gz", image.astype(np.float32))
        write_nifti(root / "labelsTr" / f"{case}.nii.gz", label)
    described = {"channel_names": {"0": "CT", "1": "PET"}, "labels": {"background": 0, "liver": 1, "tumour & rim": 2}}
    (root / "dataset.json").write_text(json.dumps(described))
    spec = {"format": "nnunet", "root": "data/raw/liver", "provenance": "synthetic", "spacing_mm": 1.0, "size": 32}
    spec |= {"crop": "image", "split": {"kind": "random", "train": 2, "val": 2, "seed": 0}}
    params = yaml.safe_load((folder.path / "params.yaml").read_text())
    del params["datasets"]["acdc"]
    params["datasets"]["liver"] = {**spec, "case_pattern": "(?P<patient>p[0-9]+)_(?P<frame>[a-z]+)"}
    arguments = {"spatial_dims": 2, "in_channels": 2, "out_channels": 4, "channels": [4, 8, 16], "strides": [2, 2]}
    net = {"factory": "monai.networks.nets:UNet", "arguments": {**arguments, "norm": "batch"}, "out_channels": 4}
    params["nets"] = {"mine": {**net, "in_channels": 1, "pretrained": "none"}}
    params["swap"]["sources"] = {"liver-seg": ["liver-auto", "t1-seg"]}
    params["transfer"] |= {"target": "liver-seg", "sources": ["liver-auto", "t1-seg"], "samples": [2]}
    params["transfer"] |= {"nets": ["mine"], "plan": "verdict"}
    params["evidence"] |= {"sources": ["liver-auto", "t1-seg"], "nets": ["mine"]}
    folder.write(params)
    refused = folder.snakemake("--dry-run").stdout
    assert "nets.mine: takes 1 image channels, datasets.liver has 2; set nets.mine.in_channels: 2" in refused
    params["nets"]["mine"]["in_channels"] = 2
    folder.write(params)
    folder.must("snakemake", "--cores", "2")
    results = folder.path / "results"
    for name in ("base", "swap", "rmse", "bn_shift", "verdict", "network", "transfer"):
        assert set(pd.read_csv(results / f"tables/{name}.csv")["net"]) == {"mine"}, name
    swap = pd.read_csv(results / "tables/swap.csv")
    assert set(swap["class"]) == {"background", "liver", "tumour & rim", "mean", "mean_with_background"}
    pairs = pd.read_csv(results / "tables/verdict.csv").query("source == 't1-seg'")
    assert pairs["kind"].value_counts().to_dict() == {"W": 5, "B": 5, "RM": 4, "RV": 4, "RW": 4, "RB": 4}
    assert pairs["n_patients"].unique().tolist() == [2]
    for name in ("swaps_mine", "rmse_mine"):
        assert (results / f"figures/{name}.png").stat().st_size > 10000, "a network of one's own has its own figures"
    text = (results / "tables/transfer.md").read_text()
    assert "tumour & rim" in text
    assert "paper:" not in text
    assert r"tumour \& rim" in (results / "tables/transfer.tex").read_text()
    assert "tumour &amp; rim" in (results / "report.html").read_text()


def test_evidence_is_its_own_target(finished, tmp_path):
    folder = finished.copy(tmp_path / "evidence")
    folder.must("snakemake", "--cores", "2", "evidence")
    out = folder.path / "results" / "evidence"
    controls = pd.read_csv(out / "controls.csv").set_index(["net", "control"])
    assert controls.loc[("unet", "self"), "fraction_reusable"] == 1
    relative = pd.read_csv(out / "relative.csv")
    assert len(relative) == 2 * (110 + 126)
    assert relative["drop_seed"].isna().all(), "one seed: there is no other"
    assert relative["drop_random"].notna().all()
    joint = pd.read_csv(out / "joint.csv").groupby(["net", "source", "variant"])["layer"].count()
    assert joint.loc["pspnet", "t1-seg"].to_dict() == {"alone": 28, "cumulative": 28, "joint": 28, "reestimated": 29}
    screen = pd.read_csv(out / "screen.csv")
    assert screen.groupby("net")["n_pairs"].max().to_dict() == {"pspnet": 124, "unet": 108}
    assert set(screen["predictor"]) == {"first_order", "rmse", "rmse_relative", "scalars"}
    cells = pd.read_csv(out / "factorial.csv")
    assert len(cells) == 2 * 2 * 3
    under = [folder.path / "results/checkpoints", out / "factorial/checkpoints"]
    models = [path / f"unet/{model}/seed0.safetensors" for path in under for model in ("acdc-seg", "t1-seg")]
    assert len({model.read_bytes() for model in models}) == 4
    scores = pd.read_csv(out / "scores.csv").pivot(index="source", columns="score", values="value")
    assert set(scores.columns) == set(SCORES)
    assert scores.drop(columns=["leep", "source_dice"]).notna().all().all()
    assert scores["leep"].isna().tolist() == [True, False], "an auto-encoder has no classes"
    gain = pd.read_csv(out / "gain.csv", keep_default_na=False)
    assert set(zip(gain["arm"], gain["source"], strict=True)) == {
        ("probe", "none"),
        *((arm, source) for arm in ("finetune", "probe") for source in ("acdc-auto", "t1-seg")),
    }
    assert set(pd.read_csv(out / "findings.csv")["answer"]) <= {"holds", "does not hold", "undecided"}
    for name in (
        "evidence.md",
        "evidence.html",
        "controls.svg",
        "joint.png",
        "screen.png",
        "factorial.png",
        "ranking.png",
    ):
        assert (out / name).stat().st_size > 500, name
    assert folder.planned("evidence") == {}
    assert folder.planned() == {}


@pytest.mark.parametrize("init", ["shared", "independent"])
def test_the_factorial_trains_each_network_from_the_initialisation_that_its_base_models_do_not_have(init):
    found = {rule.name: rule.params for rule in rules(init=init, nets={"unet": {"init": "independent"}})}
    for net, own in (("unet", "independent"), ("pspnet", init)):
        sections = [
            json.loads(found[name].json(Wildcards(fromdict={"net": net}))) for name in ("base", "factorial_base")
        ]
        inits = [section[f"nets.{net}"].pop("init") or section.pop("init") for section in sections]
        assert inits == [own, OTHER_INIT[own]]
        assert json.loads(found["factorial"].inits)[net] == own
        for section in sections:
            section.pop("init", None)
        assert sections[0] == sections[1], "nothing else differs"


def test_no_table_may_be_an_empty_file():
    tables = [output for rule in rules() for output in rule.output if str(output).startswith("results/tables/")]
    assert [str(table) for table in tables if not table.flags.get("ensure") and str(table).endswith("csv")] == []
    assert len(tables) == len(CONTRACT) + 2


def test_every_job_on_a_gpu_asks_slurm_for_one():
    asked = yaml.safe_load((ROOT / "profiles/slurm/profile.yaml").read_text())["set-resources"]
    assert {rule.name for rule in rules() if "gpu" in rule.resources} == set(asked)
