"""Scores of a network over whole pictures, by sliding windows, as inference will run it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.models.normalise import Constants, normalise
from pipeline.models.spec import ClassScore, ClassSpec, Scores
from pipeline.training.pictures import IGNORE, Picture
from tiling import Grid

Forward = Callable[[Tensor], Tensor]
"""``(N, C, y, x)`` normalised -> ``(N, K, y, x)`` scores."""


def predict(
    forward: Forward, picture: Picture, constants: Constants, *, window: int, overlap: int, batch: int
) -> NDArray[np.uint8]:
    """Class indices ``(y, x)``: windows on the lattice of ``tiling``, blended by the hann ramp."""
    shape = picture.target.shape
    grid = Grid.of(shape, (window,) * 2, (overlap,) * 2, (window - overlap,) * 2)
    ramps = grid.ramps("hann")
    total = np.zeros((0, *shape))
    where = [k for j in grid.blocks() for k in grid.owned(j)]
    for start in range(0, len(where), batch):
        some = where[start : start + batch]
        scores = forward(torch.cat([_window(picture, constants, grid, k) for k in some])).cpu().numpy()
        total = np.zeros((scores.shape[1], *shape)) if not len(total) else total
        for k, each in zip(some, scores, strict=True):
            box = grid.window_box(k)
            rows, columns = (slice(a, min(b, n)) for a, b, n in zip(box.start, box.stop, shape, strict=True))
            part = each * grid.weight(k, ramps)
            total[:, rows, columns] += part[:, : rows.stop - rows.start, : columns.stop - columns.start]
    labels: NDArray[np.uint8] = total.argmax(0).astype(np.uint8)
    return labels


def _window(picture: Picture, constants: Constants, grid: Grid, k: tuple[int, ...]) -> Tensor:
    rows, columns = grid.window_indices(k)
    pixels = torch.from_numpy(picture.image[:, rows[:, None], columns[None]].astype(np.float32))
    return normalise(pixels[None], torch.from_numpy(picture.valid[np.ix_(rows, columns)])[None], constants)


def confusion(truth: NDArray[np.uint8], predicted: NDArray[np.uint8], n_classes: int) -> NDArray[np.int64]:
    """``(K, K)`` counts over labelled pixels: rows are the reference, columns the prediction."""
    used = truth != IGNORE
    pairs = truth[used].astype(np.int64) * n_classes + predicted[used]
    return np.bincount(pairs, minlength=n_classes**2).reshape(n_classes, n_classes)


def summarise(counts: NDArray[np.int64], classes: Sequence[ClassSpec], split: str, n_images: int) -> Scores:
    """IoU and Dice per class from one confusion matrix; the mean is over the classes of the reference.

    A class that is in the reference and never predicted counts as 0; one in neither has no score.
    """
    hit, truth, found = np.diag(counts), counts.sum(1), counts.sum(0)
    each = [_class_score(c.name, int(h), int(t), int(p)) for c, h, t, p in zip(classes, hit, truth, found, strict=True)]
    ious = [s.iou for s in each if s.n_reference and s.iou is not None]
    n = int(counts.sum())
    return Scores(
        split=split,
        n_images=n_images,
        n_pixels=n,
        mean_iou=sum(ious) / len(ious) if ious else None,
        accuracy=int(hit.sum()) / n if n else None,
        classes=tuple(each),
    )


def _class_score(name: str, hit: int, truth: int, found: int) -> ClassScore:
    union = truth + found - hit
    iou, dice = (hit / union, 2 * hit / (truth + found)) if union else (None, None)
    return ClassScore(name=name, iou=iou, dice=dice, n_reference=truth)


def score(
    forward: Forward,
    pictures: Sequence[Picture],
    constants: Sequence[Constants],
    classes: Sequence[ClassSpec],
    *,
    split: str,
    window: int,
    overlap: int,
    batch: int,
) -> Scores:
    """Over all labelled pixels of all pictures together."""
    counts = np.zeros((len(classes), len(classes)), np.int64)
    for picture, own in zip(pictures, constants, strict=True):
        predicted = predict(forward, picture, own, window=window, overlap=overlap, batch=batch)
        counts += confusion(picture.target, predicted, len(classes))
    return summarise(counts, classes, split, len(pictures))
