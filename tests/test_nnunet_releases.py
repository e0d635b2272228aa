"""Checkpoints in the form in which each release of nnU-Net v2 writes them.

All of 2.0 to 2.8 write the same nine keys (`nnUNetTrainer.save_checkpoint`). What differs: 2.0 and 2.1 take the
``state_dict`` of the network as it is, so that one compiled by ``torch.compile`` has another prefix; ``init_args``
loses ``unpack_dataset`` in 2.6; the plans in it describe the network by ``UNet_class_name`` before 2.4 and by
``architecture`` since; and NumPy before 2.0 pickles numbers under another name. These files are built here as those
releases do it, not by them; `tests/test_nnunet.py` has the installed release itself.
"""

import io
import time
import zipfile

import numpy as np
import pytest
import torch
from zoo import nnunet

from prrmse import api
from prrmse.nets.foreign import read_state, state_entries

RELEASES = ("2.0", "2.1", "2.2", "2.3", "2.4", "2.5", "2.6", "2.7")
KEYS = ["network_weights", "optimizer_state", "grad_scaler_state", "logging", "_best_ema", "current_epoch", "init_args",
        "trainer_name", "inference_allowed_mirroring_axes"]  # fmt: skip


def logged():
    """Of one epoch: losses are means of float32 arrays, scores means of float64."""
    losses = [np.asarray(0.5, np.float32), np.asarray(0.25, np.float32)]
    per_class = list(2 * np.array([5, 3]) / (2 * np.array([5, 3]) + np.array([1, 0]) + np.array([2, 1])))
    return {
        "mean_fg_dice": [np.nanmean(per_class)],
        "ema_fg_dice": [np.nanmean(per_class)],
        "dice_per_class_or_region": [per_class],
        "train_losses": [np.mean(losses)],
        "val_losses": [np.mean(losses)],
        "lrs": [0.01],
        "epoch_start_timestamps": [time.time()],
        "epoch_end_timestamps": [time.time()],
    }


def plans(release):
    if release < "2.4":
        network = {"UNet_class_name": "PlainConvUNet", "UNet_base_num_features": 4, "conv_kernel_sizes": [[3, 3]] * 3}
    else:
        kwargs = {"n_stages": 3, "conv_op": "torch.nn.modules.conv.Conv2d", "nonlin_kwargs": {"inplace": True}}
        name = "dynamic_network_architectures.architectures.unet.PlainConvUNet"
        required = ("conv_op", "norm_op", "dropout_op", "nonlin")
        network = {"architecture": {"network_class_name": name, "arch_kwargs": kwargs, "_kw_requires_import": required}}
    configuration = {"data_identifier": "nnUNetPlans_2d", "patch_size": [32, 32], "spacing": [1.5, 1.5], **network}
    return {"dataset_name": "Dataset001_Squares", "plans_name": "nnUNetPlans", "configurations": {"2d": configuration}}


def content(release, network):
    optimizer = torch.optim.SGD(network.parameters(), 1e-2, weight_decay=3e-5, momentum=0.99, nesterov=True)
    network(torch.randn(1, 1, 32, 32))[0].sum().backward()
    optimizer.step()
    log = logged()
    given = {"plans": plans(release), "configuration": "2d", "fold": 0, "dataset_json": {"labels": {"background": 0}}}
    given |= {"unpack_dataset": True} if release < "2.6" else {}
    weights = network.state_dict()
    if release < "2.2":  # of a network that torch.compile wraps
        weights = torch.compile(network).state_dict()
    values = (weights, optimizer.state_dict(), None, log, log["ema_fg_dice"][-1], 1,
              {**given, "device": torch.device("cuda")}, "nnUNetTrainer", (0, 1))  # fmt: skip
    return dict(zip(KEYS, values, strict=True))


def written(made, path, *, old_numpy):
    """By ``torch.save``, as a program with NumPy before 2.0 would have written it if ``old_numpy``."""
    buffer = io.BytesIO()
    torch.save(made, buffer)
    with zipfile.ZipFile(buffer) as new, zipfile.ZipFile(path, "w") as file:
        for member in new.infolist():
            data = new.read(member)
            if old_numpy and member.filename.endswith("data.pkl"):
                assert b"cnumpy._core.multiarray\nscalar\n" in data
                data = data.replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")
            file.writestr(member, data)


@pytest.mark.parametrize("old_numpy", [True, False], ids=["numpy 1", "numpy 2"])
@pytest.mark.parametrize("release", RELEASES)
def test_a_file_of_each_release_is_read(release, old_numpy, tmp_path, caplog):
    torch.manual_seed(0)
    network, path = nnunet(2, deep_supervision=True), tmp_path / "checkpoint_final.pth"
    made = content(release, network)
    assert all(name.startswith("_orig_mod.") == (release < "2.2") for name in made["network_weights"])
    written(made, path, old_numpy=old_numpy)
    with pytest.raises(Exception, match=r"(?i)weights.only"):  # because of the numbers of NumPy
        torch.load(path, weights_only=True)
    with caplog.at_level("WARNING"):
        state = read_state(path)
    own = network.state_dict()
    assert list(state) == list(own)
    assert all(torch.equal(state[name], tensor) for name, tensor in own.items())
    assert len({x.data_ptr() for x in state.values()}) == len({x.data_ptr() for x in own.values()})
    assert state_entries(path) == {"network_weights": len(own)}
    assert not caplog.records
    pairs = api.inspect(path)
    assert len(pairs) == len(set(pairs["tensor"])) == len({p.data_ptr() for p in network.parameters()})
    network.load_state_dict(state)
