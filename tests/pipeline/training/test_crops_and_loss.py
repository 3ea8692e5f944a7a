"""Crops: aligned with their targets under every change, and reproducible. The loss against its definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.models.normalise import Constants
from pipeline.training.config import AugmentConfig
from pipeline.training.crops import Crops
from pipeline.training.loss import Loss, soft_dice_loss
from pipeline.training.pictures import IGNORE, Picture


def picture(shape: tuple[int, int], seed: int = 0) -> Picture:
    """An image that *is* its target: blocks of 4 pixels with value 40 k for class k."""
    blocks = np.random.default_rng(seed).integers(0, 5, tuple(-(-s // 4) for s in shape))
    target = np.kron(blocks, np.ones((4, 4), int))[: shape[0], : shape[1]].astype(np.uint8)
    return Picture("p", "p", np.stack([40 * target, 40 * target]), np.ones(shape, bool), target)


def crops(p: Picture, size: int = 16, **augment: object) -> Crops:
    return Crops([p], [Constants((0.0,), (40.0,))], [1.0], size, AugmentConfig.model_validate(augment), seed=5)


@settings(max_examples=25)
@given(st.tuples(st.integers(5, 40), st.integers(5, 40)), st.integers(0, 1000))
def test_pixels_and_targets_move_together(shape: tuple[int, int], step: int) -> None:
    x, target = crops(picture(shape)).batch(step, 3)  # also where the picture is smaller than the crop
    assert x.shape == (3, 2, 16, 16)
    assert torch.equal(x[:, 0].round().long(), target)


def test_zoomed_crops_stay_aligned_inside_their_blocks() -> None:
    x, target = crops(picture((64, 64)), 32, scale=2.0).batch(0, 8)
    same = (x[:, 0] - target).abs() < 0.5
    assert same.float().mean() > 0.8  # the rest are mixed pixels at the borders of blocks
    assert {tuple(t.unique().tolist()) for t in target} == {(0, 1, 2, 3, 4)}


def test_a_batch_depends_on_seed_and_step_alone() -> None:
    augment = {"scale": 1.5, "brightness": 0.2, "contrast": 0.2, "colour": 0.2}
    a, b = (crops(picture((40, 50)), **augment) for _ in range(2))
    a.batch(0, 4)
    assert torch.equal(a.batch(7, 4)[0], b.batch(7, 4)[0])
    assert not torch.equal(a.batch(7, 4)[0], a.batch(8, 4)[0])


def test_colour_changes_leave_targets_and_invalid_pixels_alone() -> None:
    p = picture((32, 32))
    p.valid[:10] = False
    plain, turned = (
        crops(p, 32, flips=False, rot90=False),
        crops(p, 32, flips=False, rot90=False, brightness=3, colour=0.5),
    )
    x, target = turned.batch(0, 4)
    assert not x[:, :, :10].any()
    assert (x[:, :, 10:] - plain.batch(0, 4)[0][:, :, 10:]).abs().mean() > 0.3
    assert torch.equal(target, plain.batch(0, 4)[1])


def test_hue_turns_colours_and_leaves_grey_alone() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (3, 16, 16)).astype(np.uint8)
    image[:, :8] = image[0, :8]
    p = Picture("p", "p", image, np.ones((16, 16), bool), np.zeros((16, 16), np.uint8))
    plain, turned = (crops(p, flips=False, rot90=False, hue=h).batch(3, 1)[0][0] for h in (0.0, 1.0))
    torch.testing.assert_close(turned[:, :8], plain[:, :8])
    assert (turned[:, 8:] - plain[:, 8:]).abs().mean() > 0.5
    torch.testing.assert_close(turned.mean(0), plain.mean(0), rtol=1e-4, atol=1e-4)
    chroma = [(t - t.mean(0)).norm(dim=0)[8:] for t in (turned, plain)]
    ratio = chroma[0] / chroma[1]
    torch.testing.assert_close(ratio, ratio.mean().expand_as(ratio), rtol=1e-3, atol=1e-3)  # a rotation and one gain


def test_all_eight_turns_occur() -> None:
    p = picture((16, 16))
    seen = {crops(p).batch(step, 1)[1].numpy().tobytes() for step in range(80)}
    assert len(seen) == 8


# loss -----------------------------------------------------------------------------------------------------


def test_unlabelled_pixels_weigh_nothing() -> None:
    logits = torch.randn(2, 3, 6, 7, generator=torch.Generator().manual_seed(0))
    target = torch.randint(0, 3, (2, 6, 7), generator=torch.Generator().manual_seed(1))
    target[:, :3] = IGNORE
    other = logits.clone()
    other[:, :, :3] = 100.0
    loss = Loss(1.0, 1.0, (1.0, 2.0, 0.5))
    torch.testing.assert_close(loss(logits, target), loss(other, target))
    torch.testing.assert_close(loss(logits, target), loss(logits[:, :, 3:], target[:, 3:]))


def test_dice_is_its_definition_on_hard_scores() -> None:
    target = torch.tensor([[[0, 0, 1, 1]]])
    predicted = torch.tensor([[[0, 1, 1, 1]]])
    logits = torch.nn.functional.one_hot(predicted, 3).movedim(-1, 1).float() * 100
    # class 0: 2*1/(1+2), class 1: 2*2/(3+2), class 2 does not occur
    assert soft_dice_loss(logits, target).item() == pytest.approx(1 - (2 / 3 + 4 / 5) / 2, abs=1e-5)


def test_a_batch_without_labels_costs_nothing_and_has_finite_gradients() -> None:
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    loss = Loss(1.0, 1.0)(logits, torch.full((1, 4, 4), IGNORE))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_the_right_answer_costs_less() -> None:
    target = torch.randint(0, 3, (1, 8, 8), generator=torch.Generator().manual_seed(0))
    right = torch.nn.functional.one_hot(target, 3).movedim(-1, 1).float() * 20
    for loss in (Loss(1.0, 0.0), Loss(0.0, 1.0)):
        assert loss(right, target) < 0.01 < loss(right.roll(1, 1), target)
