"""Trackers get the points of training curves, decide no result, and stop no training."""

from __future__ import annotations

from argparse import Namespace
from importlib.util import find_spec

import pytest
from test_curves import PLAIN, STEPS, trained
from test_resume import killed_after
from tiny import Folder

from prrmse.config import checks
from prrmse.errors import InputError
from prrmse.run.tracking import TRACKING, tracked


def tracked_points(name, folder):
    """What a tracker has, of each training: what it is called, and its points; those of attempts that failed too."""
    if name == "tensorboard":
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        for run in sorted({path.parent for path in (folder / "runs").rglob("events.*")}):
            events = EventAccumulator(str(run)).Reload()
            tags = events.Tags()["scalars"]
            yield (
                run.relative_to(folder / "runs").as_posix(),
                [(tag, event.step, event.value) for tag in tags for event in events.Scalars(tag)],
            )
    elif name == "mlflow":
        from mlflow import MlflowClient

        client = MlflowClient()
        for found in client.search_runs(["0"], order_by=["attributes.start_time ASC"]):
            assert found.data.params["base.steps"] == str(STEPS)
            yield (
                f"{found.data.tags['group']} {found.info.run_name} {found.info.status}",
                [
                    (tag, metric.step, metric.value)
                    for tag in sorted(found.data.metrics)
                    for metric in client.get_metric_history(found.info.run_id, tag)
                ],
            )


NAMES = {
    "tensorboard": ["base/unet/a-seg/seed0/first", "base/unet/a-seg/seed0/second-seed-0"],
    "mlflow": [
        "base/unet/a-seg/seed0 first FAILED",
        "base/unet/a-seg/seed0 first FINISHED",
        "base/unet/a-seg/seed0 second, seed 0 FINISHED",
    ],
}


@pytest.mark.parametrize("name", NAMES)
def test_a_tracker_gets_the_points_of_each_training_and_after_a_kill_all_of_them(
    name, slices, tmp_path, monkeypatch, caplog
):
    """The trackers themselves, where they are installed."""
    pytest.importorskip(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(TRACKING, name)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    job = Namespace(table="results/base/unet/a-seg/seed0.csv", net="unet", seed="0", params={"base": PLAIN})
    resume = tmp_path / ".resume"

    def killed():
        with tracked(job):
            trained(slices, resume=resume, title="first")

    killed_after(4, monkeypatch, killed)
    with tracked(job):
        curves = [trained(slices, resume=resume, title="first"), trained(slices, title="second, seed 0")]
    assert "no more points" not in caplog.text
    found = list(tracked_points(name, tmp_path))
    assert [title for title, _ in found] == NAMES[name]
    for (_, points), curve in zip(found[-2:], curves, strict=True):
        expected = [(key, point["step"], point[key]) for key in ("loss", "rate", "dice") for point in curve]
        assert sorted(points) == [(key, step, pytest.approx(value, rel=1e-6)) for key, step, value in sorted(expected)]


def test_a_tracker_that_fails_stops_no_training(slices, tmp_path, monkeypatch, caplog):
    pytest.importorskip("tensorboard")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(TRACKING, "tensorboard")
    (tmp_path / "runs").write_text("in the way")
    with tracked(Namespace(table="results/a.csv", params={})):
        assert trained(slices) == trained(slices)
    assert len([line for line in caplog.messages if "tensorboard: no more points are sent" in line]) == 1


def test_a_tracker_that_is_not_installed_is_one_line(monkeypatch):
    checks.check_tracking("none")
    monkeypatch.setattr(checks, "find_spec", lambda _: None)
    with pytest.raises(InputError) as e:
        checks.check_tracking("mlflow")
    assert str(e.value) == "tracking: the package mlflow is not installed; pip install mlflow, or set tracking: none"


@pytest.mark.workflow
def test_another_tracker_plans_no_job_and_reaches_those_that_run(tmp_path):
    folder = Folder(tmp_path)
    folder.pretend("all")
    # Planning imports no tracker; it looks whether one is there.
    (tmp_path / "src/tensorboard").mkdir()
    (tmp_path / "src/tensorboard/__init__.py").touch()
    folder.change("tracking", "tensorboard")
    assert folder.planned() == {}
    told = 'rule told:\n    output: "told.txt"\n    shell: "echo $PRRMSE_TRACKING > {output}"\n'
    with open(tmp_path / "Snakefile", "a") as file:
        file.write(f"\n\n{told}")
    folder.must("snakemake", "--cores", "1", "told.txt")
    assert (tmp_path / "told.txt").read_text() == "tensorboard\n"
    if find_spec("wandb") is None:
        folder.change("tracking", "wandb")
        refused = folder.snakemake("--dry-run")
        assert refused.returncode != 0
        assert "error: tracking: the package wandb is not installed" in refused.stdout
