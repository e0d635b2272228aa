"""3D patches: trained on, augmented and counted."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import COMPUTE
from torch import nn

from prrmse import api
from prrmse.cli.main import main
from prrmse.compare.features import sample_pixels
from prrmse.compare.scores import cc_fv, logme
from prrmse.data.slices import IGNORE, Slices, load_slices, save_slices
from prrmse.learning.augment import Augmentation
from prrmse.learning.train import batch_order, loss_of, train, with_foreground
from prrmse.nets.build import build_network
from prrmse.seeding import derive_seed
from prrmse.settings import Training


def cubes():
    """Patches of four patients: a bright cuboid, cut away in all but one patch of each."""
    rng = np.random.default_rng(0)
    label = np.zeros((16, 4, 8, 12), np.uint8)
    label[::4, 1:3, 2:6, 3:9] = 1
    label[:, :, :, -1] = IGNORE
    image = (2.0 * (label == 1) + 0.3 * rng.standard_normal(label.shape)).astype(np.float32)[:, None]
    index = pd.DataFrame({"patient": np.repeat(["a", "b", "c", "d"], 4), "frame": "1", "slice": [*range(4)] * 4})
    index["split"] = np.where(index["patient"] < "c", "train", "val")
    meta = {"dataset": "cubes", "classes": {"1": "cube"}, "spacing_mm": 1.0, "provenance": "synthetic"}
    return Slices(image, label, index, meta)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv3d(1, 6, 3, padding=1), nn.BatchNorm3d(6), nn.ReLU(), nn.Conv3d(6, 2, 1))


def test_a_3d_network_is_trained_and_counted(tmp_path):
    slices = cubes()
    save_slices(slices, tmp_path / "cubes.npz")
    assert load_slices(tmp_path / "cubes.npz").fingerprint() == slices.fingerprint()
    made = network()
    evaluation = api.evaluation_for(made, slices.split("val"), COMPUTE)
    train(made, slices.split("train"), "seg", Training(steps=40, learning_rate=0.02, batch_size=3), 0, COMPUTE)
    own = slices.split("val")
    with torch.inference_mode():
        prediction = made(torch.from_numpy(own.image)).argmax(1).numpy()
    counts = evaluation.own_counts(made)
    for row, patient in enumerate(evaluation.patients):
        of = (own.index["patient"] == patient).to_numpy()
        known = own.label[of] != IGNORE
        p, t = (prediction[of] == 1)[known], (own.label[of] == 1)[known]
        assert (counts.both[row, 1], counts.predicted[row, 1], counts.true[row, 1]) == ((p & t).sum(), p.sum(), t.sum())
        assert 2 * (p & t).sum() / (p.sum() + t.sum()) > 0.8


def test_the_loss_does_not_know_how_voxels_lie():
    draws = torch.Generator().manual_seed(0)
    output, label = torch.randn(2, 3, 4, 5, 6, generator=draws), torch.randint(0, 3, (2, 4, 5, 6), generator=draws)
    label[0, 0] = IGNORE
    flat = loss_of(output.flatten(2, 3), output.flatten(2, 3), label.flatten(1, 2), "seg", "ce+dice")
    torch.testing.assert_close(loss_of(output, output, label, "seg", "ce+dice"), flat)


@pytest.mark.parametrize("batch_size", [2, 7])
def test_a_third_of_each_batch_has_foreground(batch_size):
    label = cubes().label
    order = with_foreground(batch_order(16, batch_size, 50, 0), label, 0)
    some = (torch.from_numpy(np.isin(np.arange(16), [0, 4, 8, 12]))[order]).sum(1)
    assert order.shape == (50, batch_size)
    assert some.min() >= -(-batch_size // 3)
    assert set(order.flatten().tolist()) == set(range(16))
    nothing = np.where(label == 1, 0, label)
    assert torch.equal(with_foreground(batch_order(16, 2, 5, 0), nothing, 0), batch_order(16, 2, 5, 0))


@pytest.mark.parametrize("shape", [(4, 6, 6), (4, 5, 6), (5, 6)])
def test_labels_are_moved_with_patches_and_with_what_is_not_square(shape):
    label = torch.arange(2 * int(np.prod(shape))).view(2, *shape)
    augmentation = Augmentation(200, 2, 0, torch.device("cpu"))
    seen = set()
    for step in range(200):
        image, moved = augmentation(step, label[:, None].float(), label)
        scale, offset = (x[step].view(-1, *[1] * len(shape)) for x in (augmentation.scale, augmentation.offset))
        torch.testing.assert_close(image[:, 0], moved * scale + offset)
        assert image[:, 0].shape == moved.shape == label.shape
        seen.add(tuple(moved[0].flatten().tolist()))
    assert len(seen) == {(4, 6, 6): 16, (4, 5, 6): 8, (5, 6): 4}[shape]


# Its feature maps are half as large along each axis between the first and the last convolution.
UNET = ("monai.networks.nets:UNet", {"spatial_dims": 3, "in_channels": 1, "out_channels": 2, "norm": "batch",
                                     "channels": [3, 6], "strides": [2]})  # fmt: skip
# Of Dice: `fast` sums in another order, so that a voxel may fall to another class.
ROUNDING = {"exact": 1e-9, "fast": 0.01}


@pytest.fixture(scope="module")
def patches(tmp_path_factory):
    """Patches, a 3D network that segments them, and another one; as the command line takes them."""
    folder = tmp_path_factory.mktemp("patches")
    slices = cubes()
    save_slices(slices, folder / "cubes.npz")
    networks = []
    for seed, name in enumerate(("target.pth", "source.pth")):
        torch.manual_seed(seed)
        networks.append(build_network(*UNET))
        settings = Training(steps=60, learning_rate=0.02, batch_size=4)
        train(networks[-1], slices.split("train"), "seg", settings, seed, COMPUTE)
        torch.save(networks[-1].eval().state_dict(), folder / name)
    options = ["--data", folder / "cubes.npz", "--network", UNET[0], "--arguments", json.dumps(UNET[1])]
    options += ["--device", "cpu", "--threads", "1", "--json"]
    return slices.split("val"), *networks, [folder / "target.pth", folder / "source.pth", *options]


def printed(capsys, *command):
    assert main([str(part) for part in command]) == 0, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)


@torch.no_grad()
def plain_dice(network, slices):
    """Mean over patients; all voxels of a patient at once."""
    prediction = network(torch.from_numpy(slices.image)).argmax(1).numpy() == 1
    found = []
    for patient in slices.patients():
        of = (slices.index["patient"] == patient).to_numpy()
        known = slices.label[of] != IGNORE
        p, t = prediction[of][known], (slices.label[of] == 1)[known]
        found.append(2 * (p & t).sum() / (p.sum() + t.sum()))
    return np.mean(found)


@pytest.mark.parametrize("engine", ["exact", "fast"])
def test_the_command_line_sweeps_patches(patches, capsys, engine):
    slices, target, source, options = patches
    rows = printed(capsys, "sweep", *options, "--engine", engine)
    own, other = target.state_dict(), source.state_dict()
    assert {row["tensor"] for row in rows} == {layer.tensor for layer in api.inspect(target).itertuples()}
    assert {row["baseline"] for row in rows} == {plain_dice(target, slices)} and rows[0]["baseline"] > 0.7
    for row in rows:
        swapped = build_network(*UNET)
        swapped.load_state_dict({**own, row["tensor"]: other[row["tensor"]]})
        assert row["score"] == pytest.approx(plain_dice(swapped.eval(), slices), abs=ROUNDING[engine]), row["tensor"]


def test_the_command_line_scores_the_features_of_patches(patches, capsys):
    slices, target, source, options = patches
    (row,) = printed(capsys, "advise", *options)["ranking"]
    pixels = sample_pixels(api.evaluation_for(target, slices, COMPUTE), api.PIXELS, derive_seed("advise", "pixels"))
    assert len(pixels.where) == 4
    assert set(pixels.label) == {0, 1}
    assert np.array_equal(slices.label[pixels.where], pixels.label)
    assert np.array_equal(slices.index["patient"].to_numpy()[pixels.where[0]], np.array(["c", "d"])[pixels.patient])
    seen = []
    for module in [module for module in source.modules() if isinstance(module, nn.Conv3d | nn.ConvTranspose3d)]:
        module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].numpy()))
    with torch.no_grad():
        source(torch.from_numpy(slices.image))
    assert {value.shape[2:] for value in seen} == {(4, 8, 12), (2, 4, 6)}

    def at_voxels(value):
        scale = [full // size for full, size in zip(slices.label.shape[1:], value.shape[2:], strict=True)]
        voxels = zip(*pixels.where, strict=True)
        return np.stack([value[n, :, z // scale[0], y // scale[1], x // scale[2]] for n, z, y, x in voxels])

    features = [at_voxels(value) for value in seen[-4:]]
    assert row["logme"] == pytest.approx(logme(features[-1], pixels.label), rel=1e-3)
    assert row["cc_fv"] == pytest.approx(cc_fv(features, pixels.label, pixels.patient), rel=1e-3)
