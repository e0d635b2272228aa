"""The sweep engine answers what forward passes of the whole network answer, and stays under its bound of memory."""

import copy
import dataclasses
import weakref

import numpy as np
import pytest
import torch
import zoo
from conftest import ARGUMENTS, COMPUTE, SETTINGS, initialise
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn import functional as F
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from prrmse.engine.onednn import Activation
from prrmse.engine.program import Program
from prrmse.engine.rewrite import rewrite
from prrmse.engine.steps import Call, Conv
from prrmse.engine.sweep import sweep
from prrmse.engine.trace import TracingError, trace
from prrmse.errors import InputError
from prrmse.learning.evaluate import Evaluation, output_of
from prrmse.learning.train import train
from prrmse.nets.layers import inventory, swap


class Branches(nn.Module):
    """A user's network: a skip, a sum of two branches, a module used twice, maps resized before a convolution."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 16, 3, padding=1)
        self.left = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(inplace=True))
        self.right = nn.Conv2d(16, 16, 1, bias=False)
        self.twice = nn.Conv2d(16, 16, 3, padding=1, groups=2)
        self.norm = nn.BatchNorm2d(32)
        self.deep = nn.Conv2d(32, 64, 3, padding=1, bias=False)
        self.halved = nn.Conv2d(16, 64, 1)
        self.wide = nn.Conv2d(64, 16, 3, padding=1)
        self.point = nn.Conv2d(64, 16, 1)
        self.after = nn.BatchNorm2d(16)
        self.out = nn.Conv2d(48, 4, 1)

    def forward(self, x):
        x = self.stem(x).relu()
        y = self.left(x) + self.right(x)
        y = self.twice(self.twice(y))
        z = F.relu(self.deep(F.avg_pool2d(self.norm(torch.cat([x, y], 1)), 4)))
        z = z + F.max_pool2d(self.halved(F.interpolate(y, scale_factor=0.5, mode="bilinear")), 2)
        large = F.interpolate(z, scale_factor=4, mode="bilinear")
        point = self.point(F.interpolate(z, size=x.shape[-2:], mode="nearest"))
        return {"out": self.out(torch.cat([x, self.after(self.wide(large)), point], 1))}


class Written(nn.Module):
    """As libraries write: functions instead of modules, dropout between, other normalisations and activations."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.drop, self.leaky = nn.Dropout2d(0.5), nn.LeakyReLU(0.2, inplace=True)
        self.mix, self.instance = nn.Conv2d(8, 16, 3, stride=2), nn.InstanceNorm2d(16, affine=True)
        self.none, self.silu = nn.Identity(), nn.SiLU()
        self.scaled, self.tracked = nn.Conv2d(16, 16, 1), nn.InstanceNorm2d(16, track_running_stats=True)
        self.depthwise, self.six = nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.ReLU6()
        self.own = nn.BatchNorm2d(16)
        self.hooked, self.out = nn.ReLU(), nn.ConvTranspose2d(16, 4, 2, stride=2)
        self.hooked.register_forward_hook(lambda module, args, value: value + 0.1)

    def forward(self, x):
        n = self.norm
        x = F.batch_norm(self.stem(x), n.running_mean, n.running_var, n.weight, n.bias, self.training, 0.1, n.eps)
        x = F.pad(self.leaky(self.drop(x)), (1, 0, 1, 0))
        x = self.silu(self.none(self.instance(F.conv2d(x, self.mix.weight, self.mix.bias, stride=2))))
        x = self.tracked(F.conv2d(x, self.scaled.weight * 2, self.scaled.bias))
        x = self.six(self.drop(self.depthwise(x)))
        x = F.batch_norm(x, None, None, self.own.weight, self.own.bias, True)
        return self.out(self.hooked(x))


class Joined(nn.Module):
    """Sums and concatenations of two maps: residual connections, skips, what was resized; identities between."""

    def __init__(self):
        super().__init__()
        self.stem, self.leaky, self.none = nn.Conv2d(1, 16, 3, padding=1), nn.LeakyReLU(0.1), nn.Identity()
        self.one, self.other = nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 16, 1)
        self.norm_one, self.norm_other = nn.BatchNorm2d(16), nn.BatchNorm2d(16)
        self.down, self.norm_down = nn.Conv2d(16, 128, 3, stride=4, padding=1), nn.BatchNorm2d(128)
        self.deep, self.norm_deep = nn.Conv2d(128, 128, 3, padding=1), nn.BatchNorm2d(128)
        self.skip, self.norm_skip = nn.Conv2d(144, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.point, self.six = nn.Conv2d(144, 16, 1), nn.ReLU6()
        self.out = nn.Conv2d(32, 4, 1)

    def forward(self, x):
        x = self.leaky(self.stem(x))
        y = F.relu(self.norm_one(self.one(x)) + self.norm_other(self.other(x)))
        y = self.none(y) + y
        z = F.relu(self.norm_down(self.down(y)))
        z = torch.add(z, self.norm_deep(self.deep(z))).relu()
        z = self.six(z + F.max_pool2d(z, 3, 1, 1) + z.mean((2, 3), keepdim=True))
        large = F.interpolate(z, scale_factor=4, mode="bilinear")
        near = F.interpolate(z, size=x.shape[-2:], mode="nearest")
        y = self.leaky(self.norm_skip(self.skip(self.none(torch.cat([self.none(y), large], 1)))))
        return self.out(torch.cat([y, self.point(torch.cat([near, x], 1))], 1))


class Enlarging(nn.Module):
    """A decoder of many channels: maps enlarged twofold and threefold, alone and beside a skip connection."""

    def __init__(self):
        super().__init__()
        self.stem, self.down = nn.Conv2d(1, 48, 3, padding=1), nn.Conv2d(48, 48, 3, 2, 1)
        self.up, self.norm = nn.Conv2d(48, 48, 3, padding=1), nn.BatchNorm2d(48)
        self.skip, self.norm_skip = nn.Conv2d(96, 48, 3, padding=1, bias=False), nn.BatchNorm2d(48)
        self.three, self.out = nn.Conv2d(48, 48, 3, padding=1), nn.Conv2d(96, 4, 1)

    def forward(self, x):
        x = F.relu(self.stem(x))
        y = F.relu(self.down(x))
        z = F.relu(self.norm(self.up(F.interpolate(y, scale_factor=2, mode="bilinear"))))
        near = F.interpolate(y, scale_factor=2, mode="nearest")
        y = F.relu(self.norm_skip(self.skip(torch.cat([x, near], 1))))
        y = self.three(F.interpolate(F.max_pool2d(y, 3, 3, 1), scale_factor=3, mode="bilinear"))
        return self.out(torch.cat([z, y[:, :, :32, :32]], 1))


class Coordinates(nn.Module):
    """A convolution of what is the same for every image, and so has no batch, is added to a feature map."""

    def __init__(self):
        super().__init__()
        self.stem, self.where, self.out = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(2, 8, 1), nn.Conv2d(8, 4, 1)
        at = torch.linspace(-1, 1, 32)
        self.register_buffer("at", torch.stack(torch.meshgrid(at, at, indexing="ij"))[None])

    def forward(self, x):
        x = self.stem(x)
        return self.out(x + F.relu(x + self.where(self.at)))


class Attending(nn.Module):
    """A sum whose memory format a view relies on, and a module by the name of a method of tensors."""

    def __init__(self):
        super().__init__()
        self.stem, self.beside = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.out = nn.Conv2d(9, 4, 1)
        self.add = nn.CosineSimilarity(dim=1)

    def forward(self, x):
        x = self.stem(x)
        n, c, h, w = x.shape
        y = x.flatten(2).softmax(-1).view(n, c, h, w)
        y = F.relu(y + self.beside(x))
        y = F.avg_pool2d(y.view(n * c, 1, h, w), 3, 1, 1).view(n, c, h, w)
        return self.out(torch.cat([y, self.add(x, y).unsqueeze(1)], 1))


class Choosing(nn.Module):
    """Cannot be traced: which way it goes depends on the image."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 4, 1), nn.Conv2d(1, 4, 3, padding=1)

    def forward(self, x):
        return self.a(x) if x.sum() > 0 else self.b(x)


class Accumulating(nn.Module):
    """Changes a value that something else has already read."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 4, 1), nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x):
        x = self.a(x)
        y = self.b(x)
        return x.mul_(2) + y


TRACED = {
    "branches": Branches,
    "written": Written,
    "joined": Joined,
    "enlarging": Enlarging,
    "coordinates": Coordinates,
    "attending": Attending,
}
OWN = TRACED | {"choosing": Choosing, "accumulating": Accumulating}


def networks(name, slices):
    """Target and source, trained a little on different tasks, so that swaps matter."""
    if name in OWN:
        torch.manual_seed(0)
        return disturbed(OWN[name]()), disturbed(OWN[name]())
    pair = tuple(initialise(name, ARGUMENTS[name], "independent", "none", m, 0) for m in ("a-seg", "b-seg"))
    settings = SETTINGS.model_copy(update={"steps": 12, "learning_rate": 0.01})
    for network, task in zip(pair, ("seg", "auto"), strict=True):
        train(network, slices.split("train"), task, settings, 0, COMPUTE)
    return pair


def disturbed(network):
    with torch.no_grad():
        for tensor in network.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(0.3 * torch.randn_like(tensor)).clamp_(-2, 2)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_var.uniform_(0.5, 2)
    return network.eval()


@torch.inference_mode()
def called(network, state, images, precision):
    """Classes ``[N, H, W]`` by a copy of the network that is simply called, with nothing of ours."""
    network = copy.deepcopy(network)
    network.load_state_dict(state)
    found = []
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
        for image in torch.from_numpy(images).unsqueeze(1).split(COMPUTE.evaluation_batch_size):
            found.append(output_of(network(image)).argmax(1))
    return torch.cat(found).numpy()


def counted(predicted, slices):
    """Pixels in both, predicted, true: ``[3, P, C]``."""
    patient, label = slices.index["patient"].to_numpy(), slices.label
    return [
        [[int(mask[patient == p].sum()) for mask in masks] for p in slices.patients()]
        for masks in (
            [(predicted == c) & (label == c) for c in range(4)],
            [predicted == c for c in range(4)],
            [label == c for c in range(4)],
        )
    ]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["unet", "pspnet", "branches", "written", "joined", "choosing", "accumulating"])
def test_exact_counts_are_bit_equal_to_the_plain_way(name, precision, slices):
    target, source = networks(name, slices)
    val = slices.split("val")
    evaluation = Evaluation(val, COMPUTE.model_copy(update={"evaluation_precision": precision}), 4)
    layers = inventory(target)[:: 1 if name in OWN else 9]
    before = {k: v.clone() for k, v in target.state_dict().items()}
    baseline, swapped = sweep(target, source.state_dict(), layers, evaluation, engine="exact")
    assert all(torch.equal(v, before[k]) for k, v in target.state_dict().items()), "the target was changed"
    assert np.array_equal(baseline, counted(called(target, before, val.image, precision), val))
    changed = 0
    for layer, counts in zip(layers, swapped, strict=True):
        state = swap(before, source.state_dict(), [layer])
        assert np.array_equal(counts, counted(called(target, state, val.image, precision), val)), layer
        changed += not np.array_equal(counts.predicted, baseline.predicted)
    assert changed > len(layers) // 3, "hardly any swap changed anything: the test shows nothing"


@torch.inference_mode()
def in_float64(network, state, slices):
    """Counts of the network called in float64, and the pixels of each patient that float32 cannot be sure of.

    Plain float32 logits are wrong by up to ``error``. The engine adds in another order and transforms, which may round
    several times worse (`test_winograd_rounds_little_more_than_a_convolution`: below 5 times); 8 times is allowed. A
    class can then be another one only where the two largest logits are closer than twice that.
    """
    network = copy.deepcopy(network)
    network.load_state_dict(state)
    image = torch.from_numpy(slices.image).unsqueeze(1)
    single = output_of(network(image)).double()
    exact = output_of(network.double()(image.double()))
    error = float((single - exact).abs().max())
    first, second = exact.topk(2, dim=1).values.unbind(1)
    unsure = (first - second < 2 * 8 * error).sum((1, 2)).numpy()
    patient = slices.index["patient"].to_numpy()
    return counted(exact.argmax(1).numpy(), slices), [int(unsure[patient == p].sum()) for p in slices.patients()]


def assert_equal_but_for_ties(found, network, states, slices):
    """The counts are those of float64, but for the few pixels whose two largest logits float32 cannot tell apart."""
    total = 0
    for counts, state in zip(found, states, strict=True):
        (_, predicted, _), unsure = in_float64(network, state, slices)
        other = np.abs(counts.predicted - np.array(predicted)).sum(1) // 2
        assert (other <= unsure).all(), f"{other} pixels differ, {unsure} are ties"
        total += sum(unsure)
    assert total <= 1e-3 * len(found) * slices.label.size, "the test shows nothing: too many ties"


@pytest.mark.parametrize("name", ["unet", "pspnet", *TRACED])
def test_fast_counts_are_those_of_float64(name, slices):
    target, source = networks(name, slices)
    val = slices.split("val")
    layers = inventory(target)
    own, swapped = sweep(target, source.state_dict(), layers, Evaluation(val, COMPUTE, 4), engine="fast")
    states = [target.state_dict(), *(swap(target.state_dict(), source.state_dict(), [x]) for x in layers)]
    assert_equal_but_for_ties([own, *swapped], target, states, val)


@torch.inference_mode()
def rewritten(network, size, dtype=torch.float32):
    """The program of the fast engine for images of this size."""
    image = torch.zeros(2, 1, size, size)
    traced = trace(network.to(memory_format=torch.channels_last), image)
    return rewrite(traced, traced.outline(image), dtype, image.device)


def kind_of(step):
    """How a convolution is done; of other steps, what they are."""
    return type(step.kernel if isinstance(step, Conv) else step).__name__


def test_fast_rewrites_what_it_says(slices):
    """Else the test above would compare `plain` with itself."""
    target, _ = networks("branches", slices)
    steps = rewritten(target, 32).steps
    kinds = {name: kind_of(step) for name, step in steps.items()}
    assert (kinds["left_0:raw"], kinds["left_2"]) == ("Convolution", "Affine")
    assert (kinds["wide:raw"], kinds["after"]) == ("ResizedConvolution", "Affine")
    assert kinds["point:raw"] == "ConvThenResize"
    assert [kinds[f"out:{i}"] for i in range(3)] == ["Convolution"] * 3
    assert kinds["out:raw"] == "Sum"
    assert kinds["twice"] == kinds["twice_1"] == "Call", "a module used twice stays as it is"
    assert "cat_1" not in kinds


def test_a_sum_is_done_with_the_convolution_before_it(slices):
    target, source = networks("joined", slices)
    program = rewritten(target, 32)
    kinds = {name: kind_of(step) for name, step in program.steps.items()}
    assert kinds["relu"] == kinds["relu_2"] == kinds["leaky_1"] == kinds["point"] == "Sum"
    assert (kinds["skip:0"], kinds["skip:1"]) == ("Affine", "Affine"), "of each part, before the sum"
    assert kinds["skip:1:raw"] == "ResizedConvolution"
    assert kinds["add_4"] == "Call", "of two sizes"
    assert "none_2" not in kinds

    def again(tensor):
        changes = {n: program.steps[n].replaced(tensor, source.state_dict()[tensor]) for n in program.readers(tensor)}
        return {name: step for name, step, _ in program.rerun(changes, program.steps).steps}

    behind = again("deep.weight")
    assert isinstance(behind["relu_2"], Conv), "also where the convolution is the one that is swapped"
    assert (behind["relu_2"].inputs, behind["relu_2"].activation) == (("relu_1", "relu_1"), Activation("relu"))
    assert kind_of(behind["leaky_1"]) == "ResizedConvolution"
    assert behind["leaky_1"].added == "skip:0", "of the unchanged network"
    assert not {"deep:raw", "norm_deep", "skip:1", "skip:1:raw"} & set(behind)
    assert type(again("norm_skip.weight")["leaky_1"]).__name__ == "Sum", "neither convolution is run again"


def test_convolutions_of_enlarged_maps(slices):
    target, _ = networks("enlarging", slices)
    kinds = {name: kind_of(step) for name, step in rewritten(target, 32).steps.items()}
    assert kinds["up:raw"] == kinds["skip:1:raw"] == kinds["three:raw"] == "EnlargedConvolution"
    assert kinds["skip:0:raw"] == "Convolution"
    kinds = {kind_of(step) for step in rewritten(target, 32, torch.bfloat16).steps.values()}
    assert "EnlargedConvolution" not in kinds


def test_what_is_rewritten_is_tried_as_it_is_run_again(slices, monkeypatch, caplog):
    """A mistake that only the steps of a re-run have, wrong or not to be run, is found before it matters."""
    target, source = networks("joined", slices)
    evaluation, layers = Evaluation(slices.split("val"), COMPUTE, 4), inventory(target)[:3]
    expected = sweep(target, source.state_dict(), layers, evaluation, engine="exact")
    fold = Program._fold
    for mistake in ({"bias": torch.full((), 9.0)}, {"padding": (0, 0)}):
        caplog.clear()
        with monkeypatch.context() as patched:
            patched.setattr(Program, "_fold", lambda *args, m=mistake: {n: other(s, m) for n, s in fold(*args).items()})
            found = sweep(target, source.state_dict(), layers, evaluation)
        assert "has other outputs" in caplog.text
        np.testing.assert_array_equal([found[0], *found[1]], [expected[0], *expected[1]])


def other(step, change):
    if not isinstance(step, Conv) or step.kernel.bias is None:
        return step
    change = {key: value.expand_as(step.kernel.bias) if key == "bias" else value for key, value in change.items()}
    return dataclasses.replace(step, kernel=dataclasses.replace(step.kernel, **change))


def test_fast_knows_how_libraries_write(slices):
    target, _ = networks("written", slices)
    program = rewritten(target, 32)
    kinds = {name: kind_of(step) for name, step in program.steps.items()}
    affine, instance, six = (program.steps[name] for name in ("leaky", "silu", "six"))
    assert (kinds["stem:raw"], kinds["conv2d:raw"], kinds["silu"]) == ("Convolution", "Convolution", "InstanceNorm")
    assert (instance.norm, instance.activation) == ("instance", Activation("swish"))
    assert (affine.norm, affine.activation) == ("norm", Activation("leaky_relu", (0.2,)))
    assert (six.norm, six.activation) == (None, Activation("hardtanh", (0.0, 6.0)))
    assert not {"batch_norm", "drop", "drop_1", "norm_weight", "instance", "none"} & set(kinds), (
        "they are done with the rest"
    )
    kept = {"conv2d_1": "its weight is computed", "tracked": "by running statistics", "hooked": "it has a hook",
            "batch_norm_1": "by the statistics of the batch"}  # fmt: skip
    for name, why in kept.items():
        assert kinds[name] == "Call", why


class Heads(nn.Module):
    """Three heads of which one is the output; another takes part or is looked at, unseen by tracing."""

    def __init__(self, reads):
        super().__init__()
        self.stem, self.out = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 1)
        self.first, self.second, self.reads = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1), reads

    def forward(self, x):
        x, bias = self.stem(x).relu(), dict(self.named_parameters())["first.bias"].data
        if self.reads == "checks":
            {True: "finite"}[bool(bias.isfinite().all())]
        if self.reads == "compares":
            return self.out(x * torch.where(bias > 5, -1.0, 1.0).view(-1, 1, 1))
        return self.out(x * bias.view(-1, 1, 1) if self.reads == "computes" else x)


@pytest.mark.parametrize("engine", ["fast", "exact"])
@pytest.mark.parametrize("reads", ["nothing", "computes", "checks", "compares"])
def test_heads_that_do_not_run_cost_three_passes_and_what_tracing_did_not_see_counts(
    engine, reads, slices, monkeypatch
):
    torch.manual_seed(0)
    target, source = disturbed(Heads(reads)), disturbed(Heads(reads))
    nn.init.zeros_(target.out.bias)  # else one class is everywhere the largest
    nn.init.constant_(source.first.bias, 9.0)
    layers, passes = inventory(target), []
    forward = Heads.forward
    monkeypatch.setattr(Heads, "forward", lambda self, x: (passes.append(x.shape[0]), forward(self, x))[1])
    evaluation = Evaluation(slices.split("val"), COMPUTE, 4)
    plain = sweep(target, source.state_dict(), layers, evaluation, engine="plain")
    of_plain, passes[:] = len(passes), []
    base, found = sweep(target, source.state_dict(), layers, evaluation, engine=engine)
    for mine, other in zip((base, *found), (plain[0], *plain[1]), strict=True):
        np.testing.assert_array_equal(mine.predicted, other.predicted)
    ineffective = [np.array_equal(c.predicted, base.predicted) for c in found]
    named = dict(zip((x.tensor for x in layers), ineffective, strict=True))
    assert named["second.weight"]
    assert named["first.bias"] is (reads not in ("computes", "compares"))
    of_batches = of_plain // (1 + len(layers))
    # The check of a trace takes a pass of two images; that of the heads three of each batch: as they are, with NaN, and
    # with the source's values. It ends at the first that differs; then each of their tensors is run whole, and none.
    of_images = [n for n in passes if isinstance(n, int) and n != 2]
    of_check = {"nothing": 3 * of_batches, "computes": 2, "checks": 2, "compares": 3}[reads]
    heads = [x for x in layers if x.tensor.startswith(("first.", "second."))]
    assert len(of_images) == of_check + (0 if reads == "nothing" else (1 + len(heads)) * of_batches)


@pytest.mark.parametrize("name", ["smp Unet", "smp PSPNet", "smp Unet, resnet18"])
def test_fast_leaves_no_batch_normalisation_of_a_library_as_it_is(name):
    steps = rewritten(zoo.make(name, 0), zoo.ZOO[name].shape[-1]).steps
    calls = {type(step.module).__name__ for step in steps.values() if isinstance(step, Call)}
    calls |= {getattr(step.node.target, "__name__", "") for step in steps.values() if isinstance(step, Call)}
    assert not calls & {"BatchNorm2d", "batch_norm"}


class Wide(nn.Module):
    """Wide enough for Winograd's transformations, with a dilation and with a size that tiles do not divide."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 256, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(256)
        self.dilated = nn.Conv2d(256, 256, 3, padding=4, dilation=4)
        self.valid = nn.Conv2d(256, 256, 3)
        self.out = nn.ConvTranspose2d(256, 4, 6, stride=2)

    def forward(self, x):
        x = F.relu(self.norm(self.dilated(F.relu(self.stem(x)))))
        return self.out(F.relu(self.valid(x)))


def winograds(step):
    return isinstance(step, Conv) and step.kernel.winograd is not None


def test_winograd_does_not_change_the_answer(slices):
    torch.manual_seed(0)
    target, source = Wide().eval(), Wide().eval()
    disturbed(target.norm)
    steps, halved = rewritten(target, 32).steps, rewritten(target, 32, torch.bfloat16).steps
    assert [name for name, step in steps.items() if winograds(step)] == ["dilated:raw", "valid:raw"]
    assert not any(map(winograds, halved.values()))
    val, layers = slices.split("val"), inventory(target)
    own, swapped = sweep(target, source.state_dict(), layers, Evaluation(val, COMPUTE, 4), engine="fast")
    states = [target.state_dict(), *(swap(target.state_dict(), source.state_dict(), [x]) for x in layers)]
    assert_equal_but_for_ties([own, *swapped], target, states, val)


class Alive(TorchDispatchMode):
    """Counts the bytes of all tensors alive that operations have made."""

    def __init__(self):
        super().__init__()
        self.made, self.peak = {}, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for leaf in pytree.tree_leaves(result):
            if not isinstance(leaf, torch.Tensor) or leaf.device.type == "meta":
                continue
            if leaf.layout is torch._mkldnn:  # a kernel in oneDNN's order, without a storage
                alive = weakref.ref(leaf)
                self.made[id(leaf)] = (lambda alive=alive: alive() is not None, leaf.numel() * leaf.element_size())
            else:
                storage = leaf.untyped_storage()
                reference = StorageWeakRef(storage)
                self.made[storage._cdata] = (lambda r=reference: not r.expired(), storage.nbytes())
        self.made = {k: v for k, v in self.made.items() if v[0]()}
        self.peak = max(self.peak, sum(size for _, size in self.made.values()))
        return result


@pytest.mark.parametrize("engine", ["fast", "exact"])
def test_memory_stays_under_the_bound_and_the_answer_does_not_change(engine, slices):
    target, source = networks("unet", slices)
    tiled = {key: np.tile(getattr(slices, key), (1, 4, 4)) for key in ("image", "label")}
    large = dataclasses.replace(slices, **tiled)
    evaluation = Evaluation(large.split("val"), COMPUTE, 4)
    layers = inventory(target)[::10]
    generous, expected = peak_of(lambda: sweep(target, source.state_dict(), layers, evaluation, engine=engine))
    bound = 4 if engine == "fast" else 16  # MiB; the exact engine takes all five slices at once
    tight = {"engine": engine, "memory_mb": bound}
    peak, counts = peak_of(lambda: sweep(target, source.state_dict(), layers, evaluation, **tight))
    copies = 9 * sum(v.nbytes for v in target.state_dict().values())  # own, swapped, cut in parts, folded; in order
    assert peak < bound * 2**20 + copies < generous / 2
    if engine == "exact":
        assert np.array_equal([counts[0], *counts[1]], [expected[0], *expected[1]])
    else:
        states = [target.state_dict(), *(swap(target.state_dict(), source.state_dict(), [x]) for x in layers)]
        assert_equal_but_for_ties([counts[0], *counts[1]], target, states, large.split("val"))
    with pytest.raises(InputError, match=r"memory_mb: 0\.01 is too little: .* slice\(s\)"):
        sweep(target, source.state_dict(), layers, evaluation, engine=engine, memory_mb=0.01)


def test_copies_of_a_wide_network_are_few(slices):
    target, source = (initialise("unet", {"width": 64}, "shared", "none", "a-seg", seed) for seed in (0, 1))
    tiled = {key: np.tile(getattr(slices, key), (1, 2, 2)) for key in ("image", "label")}
    evaluation = Evaluation(dataclasses.replace(slices, **tiled).split("val"), COMPUTE, 4)
    bound, own = 30, sum(v.nbytes for v in target.state_dict().values())
    peak, _ = peak_of(lambda: sweep(target, source.state_dict(), inventory(target), evaluation, memory_mb=bound))
    # Winograd's transforms of a kernel, four times as large as it, are held once; those of the swapped are not kept.
    assert 5 * own < peak < bound * 2**20 + 9 * own


def peak_of(work):
    with Alive() as alive:
        result = work()
    return alive.peak, result


@pytest.mark.parametrize("name", ["unet", "pspnet"])
def test_self_swap_reproduces_the_baseline(name, slices):
    target, _ = networks(name, slices)
    evaluation = Evaluation(slices.split("val"), COMPUTE, 4)
    twin = {k: v.clone() for k, v in target.state_dict().items()}
    baseline, swapped = sweep(target, twin, inventory(target), evaluation)
    for counts in swapped:
        assert all(np.array_equal(a, b) for a, b in zip(counts, baseline, strict=True))


def test_sweep_refuses_another_shape_before_it_runs(slices):
    small = initialise("unet", {"width": 4}, "shared", "none", "a-seg", 0)
    large = initialise("unet", {"width": 8}, "shared", "none", "a-seg", 0)
    with pytest.raises(ValueError, match=r"inc\.0\.weight: shape"):
        sweep(small, large.state_dict(), inventory(small), Evaluation(slices.split("val"), COMPUTE, 4))


class Halved(nn.Module):
    """An input with a default, which torch.fx makes a second placeholder of."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 1)

    def forward(self, image, factor=0.5):
        return self.conv(image) * factor


def test_an_argument_with_a_default_is_a_constant():
    network = Halved().eval()
    image = torch.randn(1, 1, 3, 3)
    program = trace(network, image)
    with torch.no_grad():
        assert torch.equal(program.record(()).run({program.image: image})[program.output], network(image))


class OnShapes(nn.Module):
    """Asks for shapes and branches, loops and unpacks by them."""

    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Conv2d(1, 4, 3, stride=2, padding=1), nn.Conv2d(4, 4, 1)
        self.scale = nn.Parameter(torch.full((4, 1, 1), 1.5))

    def forward(self, x):
        height, width = size = x.shape[2:]
        if height % 2 or width % 2 or len(x.size()) != 4:
            raise ValueError(f"{size}: not even")
        y = self.stem(x)
        number, channels = y.size(0), y.shape[1]
        y = y.reshape(number * channels, -1).view(number, channels, *y.shape[2:])
        for i in range(y.shape[1]):
            y = y + i * self.scale.max().item()  # no constant: another tensor makes another number
        parts = [part * len(parts) for parts in (y.chunk(2, dim=1),) for part in parts]
        grid = torch.zeros(height, width, dtype=y.dtype, device=y.device)
        y = grid + F.interpolate(torch.cat(parts, 1), size=size)
        return [{"out": self.head(y * self.scale), "size": size}, number]


def test_shapes_are_known_while_tracing_but_not_the_number_of_images():
    network = OnShapes().eval()
    program = trace(network, torch.rand(2, 1, 8, 6))
    changed = {n: program.steps[n].replaced("scale", torch.ones(4, 1, 1)) for n in program.readers("scale")}
    for number in (1, 2, 3, 7):
        image = torch.rand(number, 1, 8, 6)
        with torch.no_grad():
            expected, recorded = network(image), program.record(program.steps).run({program.image: image})
            made = recorded[program.output]
            assert torch.equal(made[0]["out"], expected[0]["out"])
            assert (made[0]["size"], made[1]) == (expected[0]["size"], number)
            other = copy.deepcopy(network)
            other.scale.fill_(1)
            made = program.rerun(changed, program.steps).run(recorded)[program.output]
            assert torch.equal(made[0]["out"], other(image)[0]["out"])


class Asking(nn.Module):
    """Goes another way by the answer to a question."""

    def __init__(self, question):
        super().__init__()
        self.conv, self.question = nn.Conv2d(1, 4, 1), question

    def forward(self, x):
        return self.conv(x) if self.question(self, x) else self.conv(x) * 2


@pytest.mark.parametrize(
    ("question", "on"),
    [
        (lambda _, x: x.shape[0] > 1, "number of images"),
        (lambda _, x: range(len(x))[1:], "number of images"),
        (lambda _, x: x.sum() > 0, "what tensors hold"),
        (lambda _, x: x.sum().item() > 0, "what tensors hold"),
        (lambda network, _: network.conv.weight.abs().max().item() > 0, "what tensors hold"),
        (lambda network, _: float(network.conv.bias[0]) > 0, "what tensors hold"),
        (lambda network, _: torch.equal(network.conv.weight, network.conv.weight), "what tensors hold"),
    ],
)
def test_what_depends_on_values_or_the_number_of_images_is_not_traced(question, on):
    with pytest.raises(TracingError, match=on):
        trace(Asking(question).eval(), torch.rand(1, 1, 4, 4))


class Batched(nn.Module):
    """Not what its trace does, if there are two images."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 1)

    def forward(self, x):
        return self.conv(x) * (2 if x.shape[0] == 2 else 1)


def test_a_trace_that_does_not_hold_for_any_number_of_images_is_not_used(slices, caplog):
    torch.manual_seed(0)
    target, source = Batched().eval(), Batched().eval()
    evaluation = Evaluation(slices.split("val"), COMPUTE, 4)
    found = sweep(target, source.state_dict(), inventory(target), evaluation, engine="exact")
    assert "has other outputs than its torch.fx trace; the whole network is run for each swap" in caplog.text
    plain = sweep(target, source.state_dict(), inventory(target), evaluation, engine="plain")
    assert np.array_equal([found[0], *found[1]], [plain[0], *plain[1]])
