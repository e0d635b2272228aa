"""Inventory and swap: numbers of pairs, names, and what a swap may and may not touch."""

import pandas as pd
import pytest
import torch
from conftest import ARGUMENTS, initialise

from prrmse.names import KINDS
from prrmse.nets.build import build
from prrmse.nets.layers import inventory, swap
from prrmse.tables.plan import PAPER_NOT_REUSED, reused_pairs


@pytest.mark.parametrize(("net", "counts"), [("unet", (19, 19, 18, 110)), ("pspnet", (29, 5, 23, 126))])
def test_inventory_matches_the_design(net, counts):
    layers = inventory(build(net))
    of_kind = {kind: [layer for layer in layers if layer.kind == kind] for kind in KINDS}
    assert (len(of_kind["W"]), len(of_kind["B"]), len(of_kind["RM"]), len(layers)) == counts
    for kind, found in of_kind.items():
        assert [layer.layer for layer in found] == list(range(1, len(found) + 1)), kind
    assert [layer.kind for layer in layers if layer.final] == ["W", "B"]


def test_pspnet_numbering_is_that_of_the_papers_list():
    name = {layer.layer: layer.module for layer in inventory(build("pspnet")) if layer.kind == "W"}
    assert [name[i] for i in (8, 13, 18)] == [f"backbone.layer{k}.0.downsample.0" for k in (2, 3, 4)]
    assert [name[i] for i in (6, 11, 16)] == [f"backbone.layer{k}.0.conv1" for k in (2, 3, 4)]
    biased = [layer.module for layer in inventory(build("pspnet")) if layer.kind == "B"]
    assert biased[0] == "bottleneck"


@pytest.mark.parametrize("net", ["unet", "pspnet"])
def test_swapping_every_pair_gives_the_sources_output(net):
    target, source = (initialise(net, ARGUMENTS[net], "independent", "none", m, 0).eval() for m in ("a-seg", "b-seg"))
    for module in source.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-1, 1)
            module.running_var.uniform_(0.5, 2)
    state = swap(target.state_dict(), source.state_dict(), inventory(target))
    target.load_state_dict(state)
    x = torch.randn(2, 1, 32, 32)
    assert torch.equal(target(x), source(x))


def test_swap_aliases_neither_side():
    target, source = (initialise("unet", {"width": 4}, "independent", "none", m, 0) for m in ("a-seg", "b-seg"))
    before = {k: v.clone() for k, v in target.state_dict().items()}
    state = swap(target.state_dict(), source.state_dict(), inventory(target))
    for tensor in state.values():
        tensor.zero_()
    assert all(torch.equal(v, before[k]) for k, v in target.state_dict().items())
    assert source.state_dict()["inc.0.weight"].abs().sum() > 0


def test_swap_names_the_tensor_that_does_not_fit():
    small, large = (build("unet", width=w) for w in (4, 8))
    with pytest.raises(ValueError, match=r"inc\.0\.weight: shape"):
        swap(small.state_dict(), large.state_dict(), inventory(small))
    with pytest.raises(ValueError, match=r"inc\.0\.weight: not in the source"):
        swap(small.state_dict(), {}, inventory(small))


def test_verdict_plan_reuses_what_the_verdict_of_this_target_and_source_allows():
    layers = inventory(build("pspnet"))
    rows = [("a", "s", 1), ("b", "s", 2), ("a", "other", 3)]
    verdict = pd.DataFrame(
        [{"net": "pspnet", "target": t, "source": s, "kind": "W", "layer": n, "reusable": True} for t, s, n in rows]
    )
    assert [layer.pair for layer in reused_pairs("pspnet", "a", "s", layers, "verdict", False, verdict)] == [("W", 1)]


def test_paper_plan_reuses_all_but_the_printed_list_and_the_final_layer():
    layers = inventory(build("pspnet"))
    plan = reused_pairs("pspnet", "acdc-seg", "t1-seg", layers, "paper", False)
    left = {layer.pair for layer in layers} - {layer.pair for layer in plan}
    assert left == PAPER_NOT_REUSED["pspnet"] | {("W", 29), ("B", 5)}
    # Research note: 126 pairs, 11 in the list: 91.27 % by pairs, 47 % by scalars.
    listed = [layer for layer in layers if layer.pair in PAPER_NOT_REUSED["pspnet"]]
    assert round(1 - len(listed) / len(layers), 4) == 0.9127
    assert round(1 - sum(x.scalars for x in listed) / sum(x.scalars for x in layers), 2) == 0.47
