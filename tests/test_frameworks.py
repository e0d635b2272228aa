"""Checkpoints that the programs in use write themselves, each against what torch's own loader reads from it."""

import argparse
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from prrmse.errors import InputError
from prrmse.nets.foreign import fit, read_state, state_entries


def fits(network: nn.Module, found: dict[str, torch.Tensor]) -> bool:
    """Whether a state fits a network by all names, with the network's own numbers."""
    fitted, table = fit(network.state_dict(), found)
    assert set(table["status"]) <= {"same", "surplus"}, table
    return all(torch.equal(fitted[name], tensor) for name, tensor in network.state_dict().items())


def test_lightning(tmp_path):
    lightning = pytest.importorskip("lightning")

    class Module(lightning.LightningModule):
        def __init__(self, settings, folder):
            super().__init__()
            self.save_hyperparameters()
            self.net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))
            self.criterion = nn.CrossEntropyLoss(weight=torch.ones(2))

        def training_step(self, batch, _):
            image, label = batch
            return self.criterion(self.net(image), label)

        def configure_optimizers(self):
            optimizer = torch.optim.AdamW(self.parameters())
            return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1)]

    data = torch.utils.data.TensorDataset(torch.randn(4, 1, 6, 6), torch.zeros(4, 4, 4, dtype=torch.long))
    module = Module(argparse.Namespace(lr=0.1, data=Path("data")), tmp_path)
    keep = lightning.pytorch.callbacks.ModelCheckpoint(tmp_path, "a", save_last=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = lightning.Trainer(max_epochs=1, accelerator="cpu", callbacks=[keep], logger=False,
                                    enable_progress_bar=False, enable_model_summary=False)  # fmt: skip
        trainer.fit(module, torch.utils.data.DataLoader(data, 2))
    path = tmp_path / "a.ckpt"
    with pytest.raises(Exception, match="(?i)weights.only|unsupported global"):
        torch.load(path, weights_only=True)
    assert state_entries(path) == {"state_dict": 10}
    found = read_state(path)
    assert found.keys() == torch.load(path, weights_only=False)["state_dict"].keys() == module.state_dict().keys()
    assert fits(module.net, found)


def test_timm(tmp_path):
    timm = pytest.importorskip("timm")
    from timm.utils import CheckpointSaver, ModelEmaV3

    network = timm.create_model("test_resnet")
    averaged = ModelEmaV3(network)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(1)
    arguments = argparse.Namespace(model="test_resnet", lr=0.1)
    saver = CheckpointSaver(network, torch.optim.SGD(network.parameters(), 0.1, momentum=0.9), arguments, averaged,
                            checkpoint_dir=str(tmp_path), recovery_dir=str(tmp_path))  # fmt: skip
    saver.save_checkpoint(3, metric=0.5)
    path = tmp_path / "last.pth.tar"
    assert list(state_entries(path)) == ["state_dict", "state_dict_ema"]
    assert fits(averaged.module, read_state(path))
    assert fits(network, read_state(path, "state_dict"))
    assert not torch.equal(network.conv1[0].weight, averaged.module.conv1[0].weight)
    reloaded = timm.create_model("test_resnet")
    timm.models.load_checkpoint(reloaded, str(path), weights_only=False)
    assert fits(reloaded, read_state(path)), "timm's own loader takes another state"


def test_monai(tmp_path):
    monai = pytest.importorskip("monai")
    network = monai.networks.nets.UNet(2, 1, 2, (4, 8), (2,), norm="batch")
    monai.networks.utils.save_state(network, str(tmp_path / "model.pt"))
    assert fits(network, read_state(tmp_path / "model.pt"))
    # What ignite's Checkpoint(to_save={"net": ..., "optimizer": ..., "trainer": ...}) collects and saves.
    optimizer = torch.optim.Adam(network.parameters())
    content = {"net": network.state_dict(), "optimizer": optimizer.state_dict(), "trainer": {"epoch_length": 3}}
    torch.save(content, tmp_path / "checkpoint_3.pt")
    assert fits(network, read_state(tmp_path / "checkpoint_3.pt"))
    meta = monai.data.MetaTensor(torch.arange(3.0), affine=torch.eye(4), meta={"filename_or_obj": Path("a.nii")})
    torch.save({**network.state_dict(), "mean": meta}, tmp_path / "meta.pt")
    found = read_state(tmp_path / "meta.pt")
    assert type(found["mean"]) is torch.Tensor and found["mean"].tolist() == [0, 1, 2]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.jit.script(network)  # a bundle's model.ts
        torch.jit.save(program, tmp_path / "model.ts")
    with pytest.raises(InputError, match=r"model\.ts: a TorchScript program"):
        read_state(tmp_path / "model.ts")


def test_segmentation_models_pytorch(tmp_path):
    smp = pytest.importorskip("segmentation_models_pytorch")
    network = smp.Unet("resnet18", encoder_weights=None, in_channels=1, classes=2)
    network.save_pretrained(str(tmp_path / "hub"))
    assert fits(network, read_state(tmp_path / "hub" / "model.safetensors"))
    torch.save(network, tmp_path / "whole.pth")
    assert fits(network, read_state(tmp_path / "whole.pth"))
    torch.save(nn.DataParallel(network).state_dict(), tmp_path / "parallel.pth")
    assert fits(network, read_state(tmp_path / "parallel.pth"))
    assert fits(network.encoder, read_state(tmp_path / "parallel.pth"))


def test_torchvision_references(tmp_path):
    models = pytest.importorskip("torchvision.models")
    network = models.segmentation.lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=2)
    averaged = torch.optim.swa_utils.AveragedModel(network, use_buffers=True)
    optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9)
    content = {
        "model": network.state_dict(),
        "optimizer": optimizer.state_dict(),
        "lr_scheduler": torch.optim.lr_scheduler.PolynomialLR(optimizer, 3).state_dict(),
        "epoch": 1,
        "args": argparse.Namespace(device="cuda", data_path=Path("data")),
        "scaler": torch.amp.GradScaler("cpu").state_dict(),
        "model_ema": averaged.state_dict(),
    }
    torch.save(content, tmp_path / "model_1.pth")
    assert fits(averaged.module, read_state(tmp_path / "model_1.pth"))
    assert fits(network, read_state(tmp_path / "model_1.pth", "model"))


def test_dino(tmp_path):
    timm = pytest.importorskip("timm")
    student, teacher = (timm.create_model("test_vit", num_classes=0) for _ in range(2))

    def wrapped(network: nn.Module) -> dict[str, torch.Tensor]:
        state = {f"backbone.{name}": tensor for name, tensor in network.state_dict().items()}
        return {**state, "head.last_layer.weight_v": torch.ones(4, 4)}

    content = {
        "student": {f"module.{name}": tensor for name, tensor in wrapped(student).items()},
        "teacher": wrapped(teacher),
        "optimizer": torch.optim.AdamW(student.parameters()).state_dict(),
        "epoch": 1,
        "args": argparse.Namespace(arch="vit_small"),
        "dino_loss": {"center": torch.zeros(1, 4)},
    }
    torch.save(content, tmp_path / "checkpoint.pth")
    assert fits(teacher, read_state(tmp_path / "checkpoint.pth"))
    assert fits(student, read_state(tmp_path / "checkpoint.pth", "student"))
