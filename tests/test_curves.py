"""Training curves: what is in them, and that they are whole after a resume."""

from __future__ import annotations

import json
import logging
import math
import re
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ARGUMENTS, COMPUTE, SETTINGS, initialise
from test_resume import killed_after
from tiny import ROOT
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from prrmse.data.slices import save_slices
from prrmse.errors import InputError
from prrmse.learning.progress import CURVE_POINTS, PROGRESS_LINES, Progress, listening
from prrmse.learning.train import batch_order, train
from prrmse.tables.curves import curves_table

STEPS = 6
PLAIN = SETTINGS.model_copy(update={"steps": STEPS, "augment": False})


def trained(slices, task="seg", resume=None, settings=PLAIN, title="unet a-seg"):
    """The points of a training."""
    points = []
    network = initialise("unet", ARGUMENTS["unet"], "shared", "none", "a-seg", 0)
    with listening(lambda found, point: points.append((found, point))):
        train(network, slices.split("train"), task, settings, 1, COMPUTE, title=title, resume=resume)
    assert {found for found, _ in points} == {title}
    return [point for _, point in points]


def test_a_resumed_training_tells_the_time_of_its_own_steps(caplog):
    caplog.set_level(logging.INFO)
    progress = Progress("t", 1000, "auto", torch.optim.Adam([torch.zeros(1, requires_grad=True)]))
    progress.start -= 10
    image = torch.zeros(1, 1, 2, 2)
    for step in range(901, 1001):
        progress.show(step, torch.tensor(0.1), image, image, 0.01)
    rate = float(re.findall(r"([\d.]+)step/s", caplog.text)[-1])
    assert rate == pytest.approx(100 / 10, rel=0.2), "of the 100 steps, not of all 1000"


def test_a_long_training_says_how_long_it_may_take_before_its_first_line(caplog, monkeypatch):
    caplog.set_level(logging.INFO)
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr("prrmse.learning.progress.time", SimpleNamespace(monotonic=lambda: clock.now))
    for waited, lines in ((20, ["t: 10 of 8000 steps, about 4.4 h left"]), (0, [])):
        progress = Progress("t", 8000, "auto", torch.optim.Adam([torch.zeros(1, requires_grad=True)]))
        image = torch.zeros(1, 1, 2, 2)
        for step in range(1, 21):
            if step == 10:
                clock.now += waited
            progress.show(step, torch.tensor(0.1), image, image, 0.01)
        assert [r.getMessage() for r in caplog.records] == lines
        caplog.clear()


def dice_of(output, label):
    found = output.argmax(1).numpy()
    scores = [
        2 * np.sum((found == c) & (label == c)) / (np.sum(found == c) + np.sum(label == c))
        for c in (1, 2, 3)
        if (label == c).any()
    ]
    return np.mean(scores)


@pytest.mark.parametrize("task", ["seg", "auto"])
def test_a_curve_has_loss_rate_and_dice_of_its_steps(task, slices):
    """As a loop written out here finds them."""
    part = slices.split("train")
    image, label = torch.from_numpy(part.stacked), torch.from_numpy(part.label).long()
    network = initialise("unet", ARGUMENTS["unet"], "shared", "none", "a-seg", 0).train()
    adam = torch.optim.Adam(network.parameters())
    points = trained(slices, task)
    assert [point["step"] for point in points] == list(range(1, STEPS + 1))
    for step, rows in enumerate(batch_order(len(image), PLAIN.batch_size, STEPS, 1)):
        rate = PLAIN.learning_rate * (1 + math.cos(math.pi * step / STEPS)) / 2
        x, y = image[rows], label[rows]
        output = network(x)
        if task == "seg":
            probability, truth = output.softmax(1), F.one_hot(y, 4).movedim(-1, 1)
            overlap = (2 * (probability * truth).sum((0, 2, 3)) + 1) / ((probability + truth).sum((0, 2, 3)) + 1)
            loss = F.cross_entropy(output, y) + 1 - overlap[1:].mean()
            assert points[step]["dice"] == pytest.approx(dice_of(output, y.numpy()), abs=2e-3)
        else:
            loss = ((output - x) ** 2).mean()
        assert points[step]["loss"] == pytest.approx(loss.item(), rel=1e-3)
        assert points[step]["rate"] == pytest.approx(rate, rel=1e-5)
        assert set(points[step]) == {"step", "loss", "rate", *(["dice"] if task == "seg" else [])}
        adam.param_groups[0]["lr"] = rate
        adam.zero_grad()
        loss.backward()
        adam.step()


def test_a_batch_without_foreground_has_no_dice(slices):
    empty = type(slices)(slices.image, np.zeros_like(slices.label), slices.index, slices.meta)
    assert {point["dice"] for point in trained(empty)} == {None}


@pytest.mark.parametrize("steps", [1, 7, 150, 6000])
def test_a_curve_has_so_many_points_and_the_first_and_last_step(steps):
    points = []
    progress = Progress("", steps, "auto", torch.optim.Adam([torch.zeros(1, requires_grad=True)]))
    one = torch.ones(())
    with listening(lambda _, point: points.append(point["step"])):
        for step in range(1, steps + 1):
            progress.show(step, one, one, one, 0.1)
    assert points == sorted(set(points))
    assert (points[0], points[-1]) == (1, steps)
    assert min(steps, CURVE_POINTS) <= len(points) + 1 <= CURVE_POINTS + PROGRESS_LINES + 3
    assert max(np.diff([0, *points])) <= math.ceil(steps / CURVE_POINTS)


def test_nothing_is_read_from_a_gpu_but_with_a_line():
    """A fake tensor has no value that could be read."""
    with FakeTensorMode():
        loss, rate = torch.empty((), device="cuda"), torch.empty((), device="cuda")
        output, label = torch.empty(2, 4, 8, 8, device="cuda"), torch.zeros(2, 8, 8, device="cuda").long()
        progress = Progress("", 100, "seg", torch.optim.Adam([torch.zeros(1, requires_grad=True)]))
        lines = []
        for step in range(1, 26):
            try:
                progress.show(step, loss, output, label, rate)
            except Exception as e:
                assert "data-dependent" in str(e) or "DataDependent" in type(e).__name__, e
                lines.append(step)
        assert progress._unread[0][1].device.type == "cuda"
    assert lines == [12, 24]
    assert [step for step, _ in progress._unread] == [1, *range(2, 25, 2)]


@pytest.mark.parametrize("steps", [1, 3, 5])
def test_a_curve_is_whole_after_a_resume(steps, slices, tmp_path, monkeypatch):
    resume = tmp_path / ".resume"
    killed_after(steps, monkeypatch, lambda: trained(slices, resume=resume))
    assert resume.is_file()
    assert trained(slices, resume=resume) == trained(slices)
    assert trained(slices, resume=resume) == trained(slices), "of a training that was done but for its result"


def test_the_table_of_the_plot_has_every_point_of_every_curve(tmp_path):
    points = [
        {"step": 1, "loss": 0.123457, "rate": 2e-05, "dice": 0.5},
        {"step": 3, "loss": 0.1, "rate": 0, "dice": None},
    ]
    files = [tmp_path / "unet/acdc-seg/seed0.jsonl", tmp_path / "pspnet/t1_b-auto/seed11.jsonl"]
    for file, found in zip(files, (points, [{"step": 1, "loss": 2.5, "rate": 0.1}]), strict=True):
        file.parent.mkdir(parents=True)
        file.write_text("".join(f"{json.dumps(point)}\n" for point in found))
    table = curves_table(map(str, files))
    assert table.to_csv(index=False).splitlines() == [
        "net,model,task,seed,step,loss,rate,dice",
        "unet,acdc-seg,seg,0,1,0.123457,2e-05,0.5",
        "unet,acdc-seg,seg,0,3,0.1,0.0,",
        "pspnet,t1_b-auto,auto,11,1,2.5,0.1,",
    ]
    files[0].write_text('{"step": 1, "lo')
    with pytest.raises(InputError, match=r"seed0\.jsonl: not a complete curve"):
        curves_table(map(str, files))


def test_the_job_of_a_base_model_writes_its_curve(slices, tmp_path):
    data = tmp_path / "data.npz"
    save_slices(slices, data)
    spec = {"arguments": ARGUMENTS["unet"], "pretrained": "none"}
    params = {"nets.unet": spec, "init": "shared", "base": PLAIN.model_dump(), "compute": COMPUTE.model_dump()}
    names = ["--net", "unet", "--model", "squares-seg", "--seed", "0", "--data", data, "--params", json.dumps(params)]
    made = ["--checkpoint", "a/seed0.safetensors", "--table", "a/seed0.csv", "--curve", "a/seed0.jsonl"]
    script = [sys.executable, str(ROOT / "workflow/scripts/base.py"), *map(str, names), *made]
    done = subprocess.run(script, cwd=tmp_path, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    curve = pd.read_json(tmp_path / "a/seed0.jsonl", lines=True)
    assert curve["step"].tolist() == list(range(1, STEPS + 1))
    last = f"loss {curve['loss'].iloc[-1]:.4f}, Dice of the batch {curve['dice'].iloc[-1]:.3f}"
    assert last in done.stdout + done.stderr
