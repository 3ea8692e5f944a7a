"""The engine on Ray: actors that each hold a worker. Job names go out, receipts come back, pixels never cross.

Actors are not restarted, nor their calls repeated, by Ray: the engine replaces a dead actor, the pool repeats a lost
job. So there is one policy for each, and a block that kills its worker is known by name.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from flows.actors import MakeWorker, WorkerActor
from flows.cluster import connect, resources, stuck
from flows.pool import Order, Outcome, StuckError
from pipeline.receipts import Receipt
from pipeline.settings import Settings
from pipeline.worker import Worker

LOCAL_PATIENCE, CLUSTER_PATIENCE = 120.0, 900.0
"""Seconds without a living actor after which a run is stuck; a cluster may first have to start a node."""

MAX_STILLBORN = 3
"""Actors per slot that may die as they start, with none alive, before the run is stuck."""

COOLEST = 30.0
"""Seconds at most before a dead actor is replaced: 0.5, doubled with each death since a job last went well."""

_FETCH_SECONDS = 60.0
"""For an answer that is there, to come over the network."""


@dataclass
class Slot:
    """The place of one actor and of those that replace it.

    actor, birth  the actor and its first answer; both None from its death to ``not_before``
    name          of the worker, once it lives
    orders        sent to it, in the order in which it runs them, each with the reference of its answer
    """

    actor: Any = None
    birth: Any = None
    name: str = ""
    deaths: int = 0
    not_before: float = 0.0
    orders: deque[tuple[Any, Order]] = field(default_factory=deque)

    @property
    def alive(self) -> bool:
        return bool(self.name)


class RayEngine:
    """Runs orders on Ray actors: one per GPU if ``device`` is cuda, else ``settings.workers`` on CPUs.

    threads      CPUs that a CPU actor reserves; with how many it computes says the manifest of each run
    make_worker  builds the worker inside the actor
    depth        orders that an actor holds, the one it runs included: the next is there when one ends
    patience     seconds without a living actor after which ``wait`` raises StuckError
    """

    def __init__(
        self,
        settings: Settings,
        *,
        device: Literal["cpu", "cuda"] = "cpu",
        threads: int = 1,
        make_worker: MakeWorker = Worker,
        depth: int = 2,
        patience: float | None = None,
    ) -> None:
        self._gpu, self._threads, self._make_worker, self._depth = device == "cuda", threads, make_worker, depth
        self._connection = connect(settings.workers * threads)
        self._patience = patience or (LOCAL_PATIENCE if self._connection.local else CLUSTER_PATIENCE)
        count, self._share = settings.workers, 0.0
        if self._gpu:
            count, self._share = gpu_share(settings, resources().get("GPU", 0.0))
        self._slots = [Slot() for _ in range(count)]
        self._backlog: deque[Order] = deque()
        self._refused: list[Outcome] = []
        self._lived, self._stillborn, self._last_words = time.monotonic(), 0, ""
        self._replace()

    # the protocol -------------------------------------------------------------------------------------------

    def room(self) -> int:
        free = sum(self._depth - len(slot.orders) for slot in self._slots if slot.alive)
        return max(0, free - len(self._backlog))

    def submit(self, order: Order) -> None:
        if order.device == "cuda" and not self._gpu:
            self._refused.append(Outcome(order, error=_no_gpu(order)))
            return
        self._backlog.append(order)
        self._dispatch()

    def wait(self, seconds: float) -> Sequence[Outcome]:
        """What ended. Raises StuckError where no actor has lived for ``patience`` seconds, or none is born alive."""
        refused, self._refused = self._refused, []
        if refused:
            return refused
        self._replace()
        self._check_alive()
        ended = self._ended(seconds)
        outcomes = [outcome for slot in self._slots for outcome in self._settle(slot, ended)]
        self._dispatch()
        return outcomes

    def close(self) -> None:
        import ray

        for slot in self._slots:
            if slot.actor is not None and ray.is_initialized():
                ray.kill(slot.actor, no_restart=True)
        self._slots = []
        self._connection.close()

    # orders -------------------------------------------------------------------------------------------------

    def _dispatch(self) -> None:
        """Hand the backlog to the actors that hold least."""
        while self._backlog:
            free = [slot for slot in self._slots if slot.alive and len(slot.orders) < self._depth]
            if not free:
                return
            slot, order = min(free, key=lambda s: len(s.orders)), self._backlog.popleft()
            slot.orders.append((slot.actor.run.remote(order), order))

    def _ended(self, seconds: float) -> set[Any]:
        """References that have an answer, as soon as there is one."""
        import ray

        births = [slot.birth for slot in self._slots if slot.birth is not None and not slot.alive]
        waiting = [*births, *(ref for slot in self._slots for ref, _ in slot.orders)]
        if not waiting:
            time.sleep(min(seconds, 0.05))
            return set()
        first, _ = ray.wait(waiting, num_returns=1, timeout=seconds, fetch_local=False)
        if not first:
            return set()
        return set(ray.wait(waiting, num_returns=len(waiting), timeout=0, fetch_local=False)[0])

    def _settle(self, slot: Slot, ended: set[Any]) -> list[Outcome]:
        """What a slot has to tell: its actor was born, its oldest orders ended, or it died."""
        outcomes: list[Outcome] = []
        if slot.birth in ended and not slot.alive:
            self._settle_birth(slot)
        while slot.orders and slot.orders[0][0] in ended:
            ref, order = slot.orders.popleft()
            answer = _answer(ref)
            if isinstance(answer, _Lost):
                outcomes.append(Outcome(order, error=answer.error, lost=True, worker=slot.name))
                self._bury(slot, answer.error)
                break
            slot.deaths, self._lived = 0, time.monotonic()
            receipt = answer if isinstance(answer, Receipt) else None
            error = None if isinstance(answer, Receipt) else answer
            outcomes.append(Outcome(order, receipt=receipt, error=error, worker=slot.name))
        return outcomes

    # actors -------------------------------------------------------------------------------------------------

    def _replace(self) -> None:
        """Start an actor in every slot that has none and whose time has come."""
        for slot in self._slots:
            if slot.actor is None and slot.not_before <= time.monotonic():
                slot.actor = self._make_actor()
                slot.birth = slot.actor.name.remote()

    def _make_actor(self) -> Any:
        import ray

        # Ray gives an actor with a GPU one CPU as well unless told, and then waits for ever where there is none
        cpus = 0 if self._gpu else self._threads
        options: dict[str, Any] = {"num_cpus": cpus, "num_gpus": self._share, "max_restarts": 0, "max_task_retries": 0}
        # read when numpy and torch start; torch is given the run's own number later, by the worker
        options["runtime_env"] = {"env_vars": {"OMP_NUM_THREADS": str(self._threads)}}
        return ray.remote(WorkerActor).options(**options).remote(self._make_worker, gpu=self._gpu)

    def _settle_birth(self, slot: Slot) -> None:
        answer = _answer(slot.birth)
        if isinstance(answer, _Lost):
            self._stillborn += 1
            self._bury(slot, answer.error)
            return
        slot.name, self._stillborn, self._lived = str(answer), 0, time.monotonic()

    def _bury(self, slot: Slot, error: BaseException) -> None:
        """The actor is gone, or cannot be reached, which is the same; the orders that it had not begun go elsewhere."""
        import ray

        ray.kill(slot.actor, no_restart=True)
        self._backlog.extendleft(order for _, order in reversed(slot.orders))
        slot.orders.clear()
        slot.actor, slot.birth, slot.name = None, None, ""
        slot.not_before = time.monotonic() + min(0.5 * 2**slot.deaths, COOLEST)
        slot.deaths += 1
        self._last_words = first_line(error)

    def _check_alive(self) -> None:
        now = time.monotonic()
        if any(slot.alive for slot in self._slots):
            self._lived = now
        elif self._stillborn >= MAX_STILLBORN * len(self._slots):
            raise stuck(
                f"{self._stillborn} workers died as they started", now - self._lived, self._gpu, self._last_words
            )
        elif now - self._lived > self._patience:
            raise stuck("no worker came to life", now - self._lived, self._gpu, self._last_words)


def gpu_share(settings: Settings, gpus: float) -> tuple[int, float]:
    """How many GPU actors, and the share of a GPU that each takes: one each, unless more workers are asked for.

    Without a GPU yet there is one actor, which waits for one: a cluster may start a node for it.
    """
    count = settings.workers if "workers" in settings.model_fields_set else max(1, int(gpus))
    each = -(-count // int(gpus)) if gpus >= 1 else 1
    return count, 1.0 if each == 1 else int(10_000 / each) / 10_000


def first_line(error: BaseException) -> str:
    """The type and the line that says most: for Ray's errors of creation, the last, which is the cause."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1 if 'creation task' in str(error) else 0] if lines else ''}"


@dataclass(frozen=True, slots=True)
class _Lost:
    """No answer will come: the worker or its node is gone."""

    error: BaseException


def _answer(ref: Any) -> Any:
    """The answer behind a reference that has one: a value, an error as a value, or that it is lost."""
    from ray import exceptions

    gone = (
        exceptions.RayActorError,
        exceptions.ObjectLostError,
        exceptions.OutOfMemoryError,
        exceptions.WorkerCrashedError,
        exceptions.NodeDiedError,
        exceptions.GetTimeoutError,
    )
    try:
        return _get(ref)
    except exceptions.RayTaskError as e:  # the actor itself catches every error of a job: this is one of its own
        return e.cause if isinstance(e.cause, Exception) else e
    except gone as e:
        return _Lost(e)


def _get(ref: Any) -> Any:
    import ray

    return ray.get(ref, timeout=_FETCH_SECONDS)


def _no_gpu(order: Order) -> StuckError:
    return StuckError(
        f"{order.uri} was planned for cuda and these workers have none: its labels would not be the same bytes; "
        "run the command where there is a GPU, or choose another --out and --device cpu for a new run"
    )
