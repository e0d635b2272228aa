"""Pixels with the reserved label 255 count neither in the loss nor in Dice; without any, nothing changes."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from prrmse.data.slices import IGNORE
from prrmse.learning.cuda import pixel_cross_entropy
from prrmse.learning.dice import Counts, Masks, dice
from prrmse.learning.progress import batch_dice
from prrmse.learning.train import loss_of


def batch(classes=4, ignored=0.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    output = torch.randn((3, classes, 8, 6), generator=generator)
    label = torch.randint(0, classes, (3, 8, 6), generator=generator)
    label[torch.rand(label.shape, generator=generator) < ignored] = IGNORE
    return output, label


def test_dice_is_that_of_the_known_pixels():
    output, label = batch(ignored=0.4)
    output[0, :, 0, 0] = 1.0  # equal scores: the first class wins
    patient = torch.tensor([0, 1, 0])
    masks = Masks(label, patient, (2, 4))
    prediction = output.argmax(1)
    found = dice(Counts(*masks.count(prediction).numpy()))
    assert torch.equal(masks.count(prediction), masks.count_largest(output))
    for p in range(2):
        rows = patient == p
        known = label[rows] != IGNORE
        for c in range(4):
            a, b = (prediction[rows] == c)[known], (label[rows] == c)[known]
            assert found[p, c] == pytest.approx(2 * int((a & b).sum()) / int(a.sum() + b.sum()))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_loss_and_gradient_are_those_of_the_known_pixels(layout):
    output, label = batch(ignored=0.4)
    output = output.contiguous(memory_format=layout).requires_grad_()
    loss_of(output, output, label, "seg", "ce+dice").backward()
    known = label != IGNORE
    flat = output.detach().permute(0, 2, 3, 1)[known].requires_grad_()  # the known pixels alone, one a row
    truth = F.one_hot(label[known], 4)[:, 1:]
    share = flat.softmax(1)[:, 1:]
    soft = (2 * (share * truth).sum(0) + 1) / (share.sum(0) + truth.sum(0) + 1)
    expected = F.cross_entropy(flat, label[known]) + 1 - soft.mean()
    expected.backward()
    assert torch.allclose(loss_of(output, output, label, "seg", "ce+dice"), expected, atol=1e-6)
    assert torch.allclose(pixel_cross_entropy(output, label), F.cross_entropy(flat, label[known]), atol=1e-6)
    gradient = output.grad.permute(0, 2, 3, 1)
    assert torch.allclose(gradient[known], flat.grad, atol=1e-7)
    assert not gradient[~known].any()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_without_ignored_pixels_every_bit_is_as_without_the_label(layout):
    output, label = batch()
    output = output.contiguous(memory_format=layout)
    found, plain = (output.clone(memory_format=torch.preserve_format).requires_grad_() for _ in range(2))
    loss = loss_of(found, found, label, "seg", "ce+dice")
    probability = plain.softmax(1)[:, 1:]
    truth = (label.unsqueeze(1) == torch.arange(1, 4).view(-1, 1, 1)).float()
    both, total = (probability * truth).sum((0, 2, 3)), probability.sum((0, 2, 3)) + truth.sum((0, 2, 3))
    reference = F.cross_entropy(plain, label) + (1 - ((2 * both + 1) / (total + 1)).mean())
    assert torch.equal(loss, reference)
    loss.backward(), reference.backward()
    assert torch.equal(found.grad, plain.grad)


def test_dice_of_a_batch_leaves_them_out():
    _, label = batch(ignored=0.4)
    perfect = F.one_hot(torch.where(label == IGNORE, 1, label), 4).permute(0, 3, 1, 2).float()
    assert batch_dice(perfect, label) == 1
    assert batch_dice(perfect, torch.full_like(label, IGNORE)).isnan()
