"""What is handed over works where people train: the bytes after loading and after each step, in the real packages.

The code is that of docs/handover.md.
"""

import copy
import json
import os
import pickle
import re
import shutil
import subprocess
import sys

import pytest
import torch
from nnunet import NAME, NETWORK, nnunet_run  # noqa: F401
from safetensors.torch import load_file
from tiny import ROOT
from torch import nn

from prrmse import api
from prrmse.cli.main import main
from prrmse.errors import InputError
from prrmse.handover.nnunet import write_nnunet
from prrmse.nets.build import build_network
from prrmse.nets.layers import inventory, tensor_names, under_all_names

TEXT = (ROOT / "docs/handover.md").read_text()
SECTIONS = dict(re.findall(r"^## (.*?)\n.*?^```python\n(.*?)^```$", TEXT, re.S | re.M))
START, LIST = "warm.safetensors", "warm.json"


class Plain(nn.Sequential):
    """Three normalisations; the middle convolution is registered under a second name."""

    def __init__(self):
        layers = []
        for channels in (1, 4, 4):
            layers += [nn.Conv2d(channels, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()]
        super().__init__(*layers, nn.Conv2d(4, 3, 1))
        self.again = nn.ModuleList([self[3]])

    def forward(self, x):
        for module in list(self)[:-1]:
            x = module(x)
        return x


def smp_unet():
    smp = pytest.importorskip("segmentation_models_pytorch")
    return smp.Unet("resnet18", encoder_weights=None, in_channels=1, classes=3, decoder_channels=(16, 8, 8, 4, 4))


def monai_unet():
    return pytest.importorskip("monai").networks.nets.UNet(2, 1, 3, (4, 8, 16), (2, 2), norm="batch")


def random_state(network):
    """Other values, the same under all names of a tensor."""
    generator, state = torch.Generator().manual_seed(1), network.state_dict()
    values = {x: state[x] + 0.1 * torch.rand(state[x].shape, generator=generator) for x in tensor_names(state)}
    return {**state, **under_all_names(state, {name: x.to(state[name]) for name, x in values.items()})}


def frozen_part(network):
    """Every second layer; of the first normalisation one of the two statistics only."""
    return [x for x in inventory(network) if x.layer % 2 and x.pair != ("RM", 1) and not x.final]


def write_start(network):
    """In the working folder, and the names of all that it says to keep."""
    taken = [x for x in inventory(network) if not x.final]
    source = random_state(network)
    found = api.warmstart(network, source, taken, START, frozen=frozen_part(network))
    assert found["freeze"] and found["freeze_statistics"] and "RM" in {x.kind for x in taken}
    return kept_names(network.state_dict(), found)


def kept_names(state, found):
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    kept = {*found["freeze"], *(f"{norm}.{s}" for norm in found["freeze_statistics"] for s in statistics)}
    return {name for names in tensor_names(state).values() if kept.intersection(names) for name in names}


def contents(network):
    return {name: x.detach().cpu().numpy().tobytes() for name, x in network.state_dict().items()}


def watched(network):
    """The bytes of all tensors before each forward pass of a training."""
    seen = []
    network.register_forward_pre_hook(lambda module, _: seen.append(contents(module)) if module.training else None)
    return seen


def loaded_bytes():
    return {name: x.numpy().tobytes() for name, x in load_file(START).items()}


def same(before, after):
    return {name for name in before if before[name] == after[name]}


def batches():
    """One batch of 4 images of 3 classes."""
    generator = torch.Generator().manual_seed(0)
    image, label = torch.randn(4, 1, 32, 32, generator=generator), torch.randint(3, (4, 32, 32), generator=generator)
    return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(image, label), 4)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield tmp_path
    torch.set_num_threads(threads)


@pytest.mark.parametrize(
    ("section", "make"),
    [
        ("Plain torch", Plain),
        ("Plain torch", monai_unet),
        ("segmentation_models_pytorch", smp_unet),
        ("MONAI", monai_unet),
    ],
)
def test_the_bytes_after_loading_and_after_each_step(folder, section, make):
    if section == "MONAI":
        pytest.importorskip("ignite")
    kept = write_start(make())
    network, loader = make(), batches()
    seen = watched(network)
    dictionaries = [{"image": image, "label": label[:, None]} for image, label in loader]
    exec(SECTIONS[section], {"network": network, "loader": loader, "dictionaries": dictionaries})
    assert len(seen) == 3
    assert seen[0] == loaded_bytes()
    for after in (seen[1], seen[2], contents(network)):
        assert same(seen[0], after) == kept


def test_lightning_trains_everything_from_an_epoch_on(folder):
    pytest.importorskip("lightning")
    kept = write_start(Plain())
    network, loader = Plain(), batches()
    seen = watched(network)
    names = {"network": network, "loader": loader}
    exec(SECTIONS["Lightning"], names)
    assert len(seen) == 3
    assert seen[0] == loaded_bytes()
    assert same(seen[0], seen[1]) == same(seen[0], seen[2]) == kept
    assert same(seen[0], contents(network)) == set()

    class Tested(names["Segmentation"]):
        def test_step(self, batch, i):
            self.training_step(batch, i)

    trained = contents(network)
    names["trainer"].test(Tested(network), loader, verbose=False)
    assert contents(network) == trained, "a test loads the start over what was trained"


def test_lightning_goes_on_from_its_own_checkpoint(folder):
    lightning = pytest.importorskip("lightning")
    from prrmse.handover.lightning import FineTuning

    write_start(Plain())
    names = {"network": Plain(), "loader": batches()}
    exec(SECTIONS["Lightning"].replace("max_epochs=3", "max_epochs=1"), names)
    names["trainer"].save_checkpoint("one.ckpt")
    network = Plain()
    seen = watched(network)
    schedule = FineTuning(START, LIST, network="network", unfreeze_at=1)
    trainer = lightning.Trainer(max_epochs=2, callbacks=[schedule], accelerator="cpu", logger=False)
    trainer.fit(names["Segmentation"](network), names["loader"], ckpt_path="one.ckpt")
    assert seen == [contents(names["network"])]
    assert same(seen[0], contents(network)) == set()


def test_lightning_says_that_the_optimiser_lacks_what_is_trained_later(folder):
    pytest.importorskip("lightning")
    write_start(Plain())
    filtered = SECTIONS["Lightning"].replace("self.parameters()", "[p for p in self.parameters() if p.requires_grad]")
    with pytest.raises(InputError, match="unfreeze_at: the optimisers lack frozen parameters"):
        exec(filtered, {"network": Plain(), "loader": batches()})


def step(network, forward=None):
    """In training mode, as every program sets it; each module anew, too."""
    network.train()
    for module in network.modules():
        module.train()
    optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9, weight_decay=0.1)
    for _ in range(2):
        (forward or network)(next(iter(batches()))[0]).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)


@pytest.mark.parametrize("how", ["itself", "deepcopy", "pickle", "compiled", "gradients before"])
def test_frozen_tensors_stay_in(folder, how):
    kept = write_start(Plain())
    network = Plain()
    if how == "gradients before":
        step(network)
    api.apply_start(network, START, LIST)
    start = contents(network)
    if how in ("deepcopy", "pickle"):
        network = copy.deepcopy(network) if how == "deepcopy" else pickle.loads(pickle.dumps(network))
    step(network, torch.compile(network, backend="eager") if how == "compiled" else None)
    assert same(start, contents(network)) == kept


def test_all_of_it_is_trained_after_release(folder):
    write_start(Plain())
    network = Plain()
    frozen = api.apply_start(network, START, LIST)
    step(network)
    frozen.release()
    assert all(module.training for module in network.modules())
    before = contents(network)
    step(network)
    assert same(before, contents(network)) == set()


def test_once_more_after_other_normalisations_were_put_in(folder):
    network = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
    names = [x.tensor for x in inventory(network) if x.kind in ("RM", "RV")]
    api.Frozen(network, names)
    other = nn.SyncBatchNorm.convert_sync_batchnorm(network)
    api.Frozen(other, names)
    other.train()
    before = contents(other)
    other(torch.randn(2, 1, 4, 4))  # on the CPU this normalisation runs in evaluation mode only
    assert contents(other) == before


def test_a_start_for_another_network_is_one_line(folder):
    write_start(Plain())
    network = Plain()
    before = contents(network)
    smaller = nn.Sequential(*list(Plain())[:2])
    with pytest.raises(InputError, match=r"start: \S+ is in the start, not in the network"):
        api.apply_start(smaller, START, LIST)
    more = nn.Sequential(*list(Plain())[:-1], nn.Conv2d(3, 3, 1))
    with pytest.raises(InputError, match=r"start: 10\.bias is in the network, not in the start"):
        api.apply_start(more, START, LIST)
    wider = {name: torch.zeros(5) if name == "0.bias" else x for name, x in load_file(START).items()}
    with pytest.raises(InputError, match=r"0\.bias is \(5,\) in the start, \(4,\) in the network"):
        api.apply_start(network, wider)
    with pytest.raises(InputError, match="freeze: names nothing"):
        api.apply_start(network, START, ["nothing"])
    assert contents(network) == before


def batch_normalised(plans):
    """The plans with batch normalisation, which has statistics to keep, in the place of instance normalisation."""
    changed = json.loads(json.dumps(plans))
    arguments = changed["configurations"]["2d"]["architecture"]["arch_kwargs"]
    assert arguments["norm_op"].endswith("InstanceNorm2d")
    arguments["norm_op"] = "torch.nn.modules.batchnorm.BatchNorm2d"
    return {**changed, "plans_name": "nnUNetPlansBN"}


def test_nnunet_trains_from_it(nnunet_run, folder):  # noqa: F811
    plans = batch_normalised(nnunet_run.plans)
    preprocessed = nnunet_run.folders["nnUNet_preprocessed"] / NAME
    (preprocessed / "nnUNetPlansBN.json").write_text(json.dumps(plans))
    arguments = nnunet_run._replace(plans=plans).arguments()
    torch.save(random_state(build_network(NETWORK, arguments, trust=True)), "source.pth")
    command = [
        "warmstart",
        "--trust",
        "--network",
        NETWORK,
        "--arguments",
        json.dumps(arguments),
        "--source",
        "source.pth",
    ]
    main([*command, "--out", START, "--nnunet", "trainers/nnUNetTrainerWarm.py", "--exclude", "W1,W3,RM2,RW3,RV4,RM4"])

    frozen = re.findall(r'"([^"]+)\.running_(mean|var)"', (folder / "trainers/nnUNetTrainerWarm.py").read_text())
    of = [{module for module, own in frozen if own == which} for which in ("mean", "var")]
    assert of[0] == of[1], "of a layer one statistic of which is listed, none is kept, and none is looked for"

    # With another of nnU-Net's trainers, as docs/handover.md has it: named in the two lines that name its default.
    program = (folder / "trainers/nnUNetTrainerWarm.py").read_text()
    other = "nnUNetTrainer.variants.lr_schedule.nnUNetTrainer_warmup import nnUNetTrainer_warmup"
    slowly = program.replace("nnUNetTrainer.nnUNetTrainer import nnUNetTrainer", other)
    slowly = slowly.replace("(WarmStart, nnUNetTrainer)", "(WarmStart, nnUNetTrainer_warmup)")
    assert slowly.count("nnUNetTrainer_warmup") == 3
    (folder / "trainers/nnUNetTrainerSlowly.py").write_text(slowly.replace("nnUNetTrainerWarm", "nnUNetTrainerSlowly"))
    shutil.copy("trainers/nnUNetTrainerWarm.pth", "trainers/nnUNetTrainerSlowly.pth")

    names = ["nnUNetTrainerWarm", "nnUNetTrainerSlowly"]
    run = [sys.executable, ROOT / "tests/nnunet.py", "trainers", "nnUNetPlansBN", *names]
    environment = {**os.environ, **nnunet_run.environment, "nnUNet_extTrainer": "trainers"}
    done = subprocess.run(run, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert "error: nnUNetTrainerWarm: the network does not hold the start's values" in done.stdout

    found, start = json.loads((folder / LIST).read_text()), load_file(START)
    assert len(found["freeze_statistics"]) > 5 and len(found["freeze"]) > 20
    kept = kept_names(build_network(NETWORK, arguments, trust=True).state_dict(), found)
    for name in names:
        loaded, trained = (torch.load(f"{name}_{when}.pth", weights_only=True) for when in ("loaded", "trained"))
        own = {name for name in loaded if ".seg_layers." in name}
        assert {name for name in start if torch.equal(loaded[name], start[name])} >= start.keys() - own
        assert kept and not kept & own
        assert {name for name in loaded if torch.equal(loaded[name], trained[name])} - own == kept


def test_heads_that_nnunet_does_not_load_are_not_frozen(folder, caplog):
    state = {"a.weight": torch.ones(2), "decoder.seg_layers.0.weight": torch.ones(2)}
    write_nnunet(state, list(state), "Mine.py")
    assert 'frozen = ["a.weight"]' in (folder / "Mine.py").read_text()
    assert "1 tensors of seg_layers are not frozen" in caplog.text
    assert torch.load("Mine.pth", weights_only=True)["network_weights"].keys() == state.keys()
    with pytest.raises(InputError, match="a-b is no name for a class"):
        write_nnunet(state, [], "a-b.py")
    with pytest.raises(InputError, match="freeze: names b"):
        write_nnunet(state, ["b"], "Mine.py")
