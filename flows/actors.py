"""What runs inside a Ray actor: one worker, which answers every order with a receipt or with the error, as values."""

from __future__ import annotations

import os
import pickle
import socket
import traceback
from collections.abc import Callable

from flows.pool import Order
from pipeline.errors import BlockError
from pipeline.receipts import Receipt
from pipeline.worker import Worker

MakeWorker = Callable[[str], Worker]
"""A worker by its name; pickled, and called in the actor."""


class WorkerActor:
    """Holds a worker for as long as it lives. Ray runs its calls one after another, in the order they were sent."""

    def __init__(self, make_worker: MakeWorker, *, gpu: bool) -> None:
        if gpu:
            _require_cuda()
        self._worker = make_worker(f"{socket.gethostname()}:{os.getpid()}")

    def name(self) -> str:
        """Answers once the actor lives."""
        return self._worker.name

    def run(self, order: Order) -> Receipt | Exception:
        """Do the job. An error is returned, not raised: what is raised would come back as an error of Ray's."""
        try:
            return self._worker.run(order.uri, order.job, missing=order.missing, attempt=order.attempt)
        except Exception as e:  # noqa: BLE001 - the loop quarantines and names it
            return portable(e)


def portable(error: Exception) -> Exception:
    """The error as it will arrive: with the traceback as a note, and of its own type if it survives pickling."""
    note = "in the worker: " + "".join(traceback.format_exception(error)).rstrip()
    try:
        arrived = pickle.loads(pickle.dumps(error))
        same = type(arrived) is type(error) and str(arrived) == str(error)
    except Exception:  # noqa: BLE001 - an exception's own pickling may raise anything
        same = False
    sent = error if same else BlockError(f"{type(error).__name__}: {error}")
    sent.add_note(note)
    return sent


def _require_cuda() -> None:
    import torch

    if not torch.cuda.is_available():
        raise BlockError(
            f"Ray gave this worker on {socket.gethostname()} the GPU {os.environ.get('CUDA_VISIBLE_DEVICES', '')!r}, "
            "but torch sees no CUDA device; check its driver and that its torch was built for CUDA"
        )
