"""The one place that sets the switches on which the bits of a forward pass depend."""

from __future__ import annotations

import os
from typing import Literal

Precision = Literal["fp32", "bf16", "fp16"]


def set_determinism(precision: Precision = "fp32", threads: int | None = None) -> None:
    """Of this process: deterministic kernels only, no autotuning, no TF32 in fp32, and ``threads`` if given.

    An operation without a deterministic kernel warns instead of failing: some upsampling layers on CUDA have
    none for their backward pass, and inference never runs that.
    """
    import torch

    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is deterministic only with a fixed workspace
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    tf32 = precision != "fp32"
    torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.backends.cudnn.allow_tf32 = tf32
    if threads is not None:
        torch.set_num_threads(threads)
