"""What nnU-Net's own trainer wrote: opened, inspected, compared, swept and used as a start."""

import json

import pytest
import torch
from nnunet import NETWORK, nnunet_run  # noqa: F401
from safetensors.torch import load_file
from torch import nn

from prrmse import api
from prrmse.cli.main import main
from prrmse.nets.build import build_network
from prrmse.nets.foreign import file_of, read_state, state_entries


@pytest.fixture(scope="module")
def contents(nnunet_run):  # noqa: F811
    """Both checkpoints as nnU-Net's own trainer loads them."""
    return [torch.load(path, weights_only=False) for path in nnunet_run.checkpoints]


def test_the_file_is_as_nnunet_writes_it(nnunet_run, contents):  # noqa: F811
    assert {"network_weights", "optimizer_state", "grad_scaler_state", "logging", "_best_ema", "current_epoch",
            "init_args", "trainer_name", "inference_allowed_mirroring_axes"} <= contents[0].keys()  # fmt: skip
    with pytest.raises(Exception, match=r"(?i)weights.only"):  # its log holds numbers of NumPy
        torch.load(nnunet_run.checkpoints[0], weights_only=True)


def test_it_is_opened(nnunet_run, contents, caplog):  # noqa: F811
    with caplog.at_level("INFO"):
        found = [read_state(path) for path in nnunet_run.checkpoints]
    for state, content in zip(found, contents, strict=True):
        assert list(state) == list(content["network_weights"])
        assert all(torch.equal(state[name], tensor) for name, tensor in content["network_weights"].items())
        assert len({x.data_ptr() for x in state.values()}) < len(state), "shared tensors are shared no more"
    assert state_entries(nnunet_run.checkpoints[0]) == {"network_weights": len(found[0])}
    assert not any(record.levelname == "WARNING" for record in caplog.records)


def test_the_commands_inspect_and_compare_it(nnunet_run, contents, capsys):  # noqa: F811
    first, second = map(str, nnunet_run.checkpoints)
    main(["inspect", first, "--json"])
    pairs = json.loads(capsys.readouterr().out)
    network = build_network(NETWORK, nnunet_run.arguments(), trust=True)
    kernels = {x.weight.data_ptr() for x in network.modules() if isinstance(x, nn.Conv2d | nn.ConvTranspose2d)}
    assert len({pair["tensor"] for pair in pairs if pair["kind"] == "W"}) >= len(kernels)
    main(["compare", first, second, "--json"])
    rows = {row["tensor"]: row for row in json.loads(capsys.readouterr().out)["distances"]}
    a, b = (content["network_weights"] for content in contents)
    name = "encoder.stages.0.0.convs.0.conv.weight"
    assert rows[name]["rmse"] == pytest.approx(float((a[name] - b[name]).square().mean().sqrt()), rel=1e-5)


def test_each_tensor_is_one_pair(nnunet_run):  # noqa: F811
    path = nnunet_run.checkpoints[0]
    network = build_network(NETWORK, nnunet_run.arguments(), trust=True)
    of_network = [(x.kind, x.tensor) for x in api.inspect(network).itertuples()]
    assert len(of_network) == len({x.data_ptr() for x in network.parameters()})
    assert sorted((x.kind, x.tensor) for x in api.inspect(path).itertuples()) == sorted(of_network)


def image_and_network(run, content):
    network = build_network(NETWORK, run.arguments(), trust=True)
    network.load_state_dict(content["network_weights"])
    return torch.randn(2, 1, 40, 40, generator=torch.Generator().manual_seed(0)), network.eval()


def test_a_sweep_equals_parameters_set_in_place(nnunet_run, contents):  # noqa: F811
    image, network = image_and_network(nnunet_run, contents[0])
    source = contents[1]["network_weights"]

    @torch.no_grad()
    def evaluate(model):
        return {"case": float(model(image).double().square().mean())}

    table = api.sweep(network, nnunet_run.checkpoints[1], evaluate).set_index("tensor")["score"]
    assert len(table) >= len({x.data_ptr() for x in network.parameters()}) - 4  # two heads are not in use
    named = dict(network.named_parameters(remove_duplicate=False))
    for name, score in table.items():
        own = named[name].detach().clone()
        named[name].data.copy_(source[name])
        assert score == pytest.approx(evaluate(network)["case"], rel=1e-6), name
        named[name].data.copy_(own)


def test_the_commands_sweep_it_and_start_from_it(nnunet_run, contents, tmp_path, capsys):  # noqa: F811
    first, second = map(str, nnunet_run.checkpoints)
    network = ["--trust", "--network", NETWORK, "--arguments", json.dumps(nnunet_run.arguments())]
    data = ["--data", str(nnunet_run.raw), "--size", "48", "--split", "all", "--device", "cpu", "--threads", "1"]
    main(["sweep", first, second, *network, *data, "--json"])
    rows = json.loads(capsys.readouterr().out)
    assert {row["kind"] for row in rows} == {"W", "B", "RW", "RB"}
    assert any(row["drop"] for row in rows)
    main(["warmstart", first, "--source", second, *network, "--out", str(tmp_path / "warm.safetensors")])
    warm = build_network(NETWORK, nnunet_run.arguments(), trust=True)
    fitted, _ = api.fit(warm.state_dict(), load_file(tmp_path / "warm.safetensors"))
    warm.load_state_dict(fitted)
    reused = json.loads((tmp_path / "warm.json").read_text())["reused"]
    sources = [contents[1 if name in reused else 0]["network_weights"] for name, _ in warm.named_parameters()]
    assert len(reused) > 20
    for (name, parameter), source in zip(warm.named_parameters(), sources, strict=True):
        assert torch.equal(parameter, source[name]), name


def test_a_folder_of_results_stands_for_its_checkpoint(nnunet_run, capsys):  # noqa: F811
    first, second = nnunet_run.checkpoints
    assert file_of(first.parent) == first == file_of(first)
    assert main(["inspect", str(second.parent), "--csv"]) == 0
    by_folder = capsys.readouterr().out
    assert main(["inspect", str(second), "--csv"]) == 0
    assert capsys.readouterr().out == by_folder
    assert main(["inspect", str(first.parents[1])]) == 2
    names = "fold_0/checkpoint_final.pth, fold_1/checkpoint_final.pth"
    assert capsys.readouterr().err.strip().endswith(f"holds 2 checkpoints; name one of {names}")
