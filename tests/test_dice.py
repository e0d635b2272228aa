"""Dice from counts against a direct computation, and the rule for empty structures."""

import numpy as np
import torch

from prrmse.learning.dice import Counts, Masks, dice, dice_table
from prrmse.tables.means import mean_over_patients


def test_counts_give_dice_per_patient_volume():
    rng = np.random.default_rng(0)
    prediction, label = rng.integers(0, 4, (2, 6, 9, 9))
    patient = np.array([0, 0, 1, 1, 1, 0])
    masks = Masks(torch.from_numpy(label), torch.from_numpy(patient), (2, 4))
    counts = masks.count(torch.from_numpy(prediction)).numpy()
    found = dice(Counts(*counts))
    for p in range(2):
        for c in range(4):
            a, b = prediction[patient == p] == c, label[patient == p] == c
            assert found[p, c] == 2 * (a & b).sum() / (a.sum() + b.sum())


def test_counting_scores_is_counting_their_first_largest_class():
    generator = torch.Generator().manual_seed(0)
    distinct = torch.randn((3, 4, 8, 8), generator=generator)
    equal = torch.randint(0, 2, distinct.shape, generator=generator).float()
    undefined = distinct.clone()
    undefined[0, 1, 2, 3] = torch.nan
    both = equal.clone()  # one class too many here, one too few there
    both[0], both[1] = distinct[0], distinct[1]
    both[0, :, 0, 0] = torch.nan
    both[1, :, 0, 0] = 1.0
    label = torch.randint(0, 4, (3, 8, 8), generator=generator)
    masks = Masks(label, torch.tensor([0, 1, 0]), (2, 4))
    for scores in (distinct, equal, undefined, both, distinct.bfloat16(), torch.zeros_like(distinct)):
        assert torch.equal(masks.count_largest(scores), masks.count(scores.argmax(1)))


def test_structure_in_neither_mask_does_not_count_and_in_one_is_zero():
    counts = Counts(np.array([[5, 0, 0]]), np.array([[5, 0, 3]]), np.array([[5, 0, 0]]))
    assert np.isnan(dice(counts)[0, 1])
    assert dice(counts)[0, 2] == 0
    table = dice_table(counts, ["p"], {1: "a", 2: "b"}).set_index("class")["dice"]
    assert table["mean"] == 0
    assert table["mean_with_background"] == 0.5


def test_means_carry_spread_and_n():
    counts = Counts(np.array([[5, 1], [5, 3]]), np.array([[5, 2], [5, 4]]), np.array([[5, 2], [5, 4]]))
    table = mean_over_patients(dice_table(counts, ["p", "q"], {1: "a"}), ["class"]).set_index("class")
    assert table.loc["a", "dice"] == (0.5 + 0.75) / 2
    assert table.loc["a", "n_patients"] == 2
    assert table.loc["a", "dice_sd"] == np.std([0.5, 0.75], ddof=1)
