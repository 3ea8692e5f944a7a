"""The engine in this process: one worker, one job at a time."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence

from flows.pool import Order, Outcome
from pipeline.worker import Worker


class SerialEngine:
    """Runs each order when it is waited for."""

    def __init__(self, worker: Worker | None = None) -> None:
        self.worker = worker or Worker()
        self._orders: deque[Order] = deque()

    def room(self) -> int:
        return 1 - len(self._orders)

    def submit(self, order: Order) -> None:
        self._orders.append(order)

    def wait(self, seconds: float) -> Sequence[Outcome]:
        if not self._orders:
            time.sleep(min(seconds, 0.05))
            return ()
        order = self._orders.popleft()
        try:
            receipt = self.worker.run(order.uri, order.job, missing=order.missing, attempt=order.attempt)
        except Exception as e:  # noqa: BLE001 - the loop quarantines and names it
            return (Outcome(order, error=e, worker=self.worker.name),)
        return (Outcome(order, receipt=receipt),)

    def close(self) -> None:
        self.worker.close()
