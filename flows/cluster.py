"""Ray itself: reach a cluster or start one here, ask what it has, and leave it as it was found."""

from __future__ import annotations

import os
import secrets
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

from flows.pool import StuckError
from flows.quiet import quiet_environment
from pipeline.hardware import detect
from pipeline.plan import Hardware
from pipeline.settings import Settings

OBJECT_STORE_BYTES = 80_000_000
"""The least that Ray takes without a complaint: only job names and receipts cross it."""


@dataclass(frozen=True, slots=True)
class Connection:
    """``ours``: this process was connected here, and leaving is ours to do. ``local``: nobody else adds nodes to it."""

    ours: bool
    local: bool

    def close(self) -> None:
        if self.ours:
            import ray

            ray.shutdown()


def connect(cpus: int) -> Connection:
    """Use the Ray of this process, else the cluster at RAY_ADDRESS, else start one here with so many ``cpus``.

    A local Ray is guarded by a token of its own, kept in the environment of this process and its children alone;
    set RAY_AUTH_MODE to choose otherwise. Raises StuckError if there is no Ray to be had.
    """
    quiet_environment()
    address = os.environ.get("RAY_ADDRESS")
    if address is None and "RAY_AUTH_MODE" not in os.environ:
        # otherwise Ray would write a token into the home folder, which then locks out every other client of this user
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    import ray

    if ray.is_initialized():
        return Connection(ours=False, local=address is None)
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if address is None:
        options |= {"num_cpus": cpus, "include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES}
    try:
        ray.init(address=address, **options)
    except (ConnectionError, RuntimeError, ValueError) as e:
        where = f"the Ray cluster at RAY_ADDRESS={address}" if address else "a local Ray"
        raise StuckError(f"cannot reach {where}: {e}; check it with `ray status`, or use --engine serial") from e
    return Connection(ours=True, local=address is None)


def resources() -> dict[str, float]:
    """CPUs and GPUs of the whole cluster, in use or not."""
    import ray

    found: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return {name: found[name] for name in ("CPU", "GPU") if name in found}


def cluster_hardware(settings: Settings, *, patience: float = 900.0) -> Hardware:
    """What ``auto`` means on the cluster at RAY_ADDRESS: of a node that has GPUs, if there is one, else of any.

    ``threads`` and ``memory_bytes`` are such that a share of one in ``settings.workers`` is what one worker can
    have when they are spread evenly over the nodes, which are taken to be alike.
    Raises StuckError if no node answers within ``patience`` seconds.
    """
    import ray

    with closing(connect(settings.workers)):
        gpu = settings.device == "cuda" or (settings.device == "auto" and resources().get("GPU", 0) > 0)
        ask = ray.remote(detect).options(num_gpus=1 if gpu else 0, num_cpus=0 if gpu else 1, max_retries=3)
        answer = ask.remote(settings)
        try:
            node: Hardware = ray.get(answer, timeout=patience)
        except ray.exceptions.GetTimeoutError:
            # only here: to cancel a task whose answer has just come can abort the whole process (a race in Ray 2.60)
            ray.cancel(answer, force=True)
            raise stuck("no node answered", patience, gpu) from None
        except ray.exceptions.RayTaskError as e:
            raise e.cause from None
        return per_worker(node, settings.workers, _n_nodes("GPU" if gpu else "CPU"))


def per_worker(node: Hardware, workers: int, nodes: int) -> Hardware:
    """A cluster of alike ``nodes`` as one machine, of which each worker takes an equal share. Pure."""
    on_a_node = -(-workers // max(nodes, 1))
    return replace(
        node,
        threads=max(1, node.threads // on_a_node) * workers if node.device == "cpu" else node.threads,
        memory_bytes=node.memory_bytes // on_a_node * workers,
    )


def stuck(what: str, seconds: float, gpu: bool, cause: str = "") -> StuckError:
    """Nothing can take a job: what the cluster has, and the cure."""
    has = ", ".join(f"{n:g} {name}" for name, n in sorted(resources().items())) or "no node"
    cure = (
        "start a node with a GPU, or use --device cpu" if gpu else "start a node with free CPUs, or use fewer --workers"
    )
    return StuckError(
        f"{what} in {seconds:.0f} s: a worker needs {'a GPU' if gpu else 'CPUs'}, and the Ray cluster has {has}"
        + (f"; the last worker ended with: {cause}" if cause else "")
        + f"; {cure}; the same command goes on where this one stopped"
    )


def _n_nodes(resource: str) -> int:
    import ray

    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return sum(1 for node in nodes if node["Alive"] and node["Resources"].get(resource, 0) > 0)
