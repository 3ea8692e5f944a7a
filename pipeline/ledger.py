"""The ledger: which jobs of a run remain, and which may start.

It is made from the receipts on disk and kept in memory by whoever drives the run; losing it loses nothing.
A job may start when the jobs it reads from are done, or have failed for good where it can do without them.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from pipeline import pyramid, spool
from pipeline.receipts import Job, Output, Receipt, Stage
from pipeline.run import Run
from tiling import Index, downstream, upstream

_URGENCY: dict[Stage, int] = {"stitch": 0, "constants": 1, "infer": 2, "pyramid": 3, "spool": 4, "ingest": 5}
"""What frees the most is done first: stitching deletes partials; ingest runs only as far ahead as it must."""

_JUDGED: tuple[tuple[Stage, ...], ...] = (("ingest", "constants", "stitch", "pyramid"), ("infer",), ("spool",))
"""Whether a piece or the scratch is needed is known when its readers are known. No receipt is kept meanwhile."""


@dataclass
class Ledger:
    """Remaining work of one run.

    done      jobs with a valid receipt
    failed    jobs that failed for good in this invocation
    partial   jobs done without something that had failed: a later invocation runs them again
    total     jobs of the whole run, whether done or not
    lost      jobs that had a receipt but whose output was gone or rotten, and that run again
    left      how many jobs remain, by stage;  ``whole`` blocks that are stitched with nothing missing
    """

    run: Run
    done: set[Job] = field(default_factory=set)
    failed: set[Job] = field(default_factory=set)
    partial: set[Job] = field(default_factory=set)
    lost: set[Job] = field(default_factory=set)
    left: Counter[Stage] = field(default_factory=Counter)
    whole: int = 0
    finished_before: int = 0

    def __post_init__(self) -> None:
        self._waits: dict[Job, set[Job]] = {}
        self._blocks: defaultdict[Job, list[Job]] = defaultdict(list)
        self._ready: list[tuple[int, Index, Job]] = []
        self.total = sum(1 for _ in all_jobs(self.run))
        self._resume()
        self.finished_before = len(self.done)
        for job in self._goals():
            self._want(job)

    # what there is to do --------------------------------------------------------------------------------

    @property
    def remaining(self) -> int:
        return len(self._waits)

    def pop(self) -> Job | None:
        """The most urgent job that may start; None if all wait."""
        while self._ready:
            _, _, job = heapq.heappop(self._ready)
            if job in self._waits and not self._waits[job]:
                return job
        return None

    def push(self, job: Job) -> None:
        """Put a popped job back, to be tried again."""
        heapq.heappush(self._ready, (_URGENCY[job.stage], job.index, job))

    def missing(self, job: Job) -> tuple[Index, ...]:
        """What a job has to do without: of a stitch the blocks without sums, of a pyramid the incomplete children."""
        if job.stage == "pyramid":
            return tuple(n.index for n in self._needs(job) if n in self.failed or n in self.partial)
        if job.stage != "stitch":
            return ()
        blocks = (job.index, *upstream(self.run.grid, job.index))
        return tuple(i for i in blocks if Job("infer", i) in self.failed)

    def hopeless(self, job: Job) -> Job | None:
        """A failed job without which ``job`` cannot run."""
        if job.stage in ("stitch", "pyramid"):
            return None
        return next((n for n in self._needs(job) if n in self.failed), None)

    # what has happened ----------------------------------------------------------------------------------

    def complete(self, receipt: Receipt) -> None:
        job = receipt.job
        if receipt.missing:
            self.partial.add(job)
        elif job.stage == "stitch" and job not in self.done:
            self.whole += 1
        self.done.add(job)
        self._settle(job)

    def fail(self, job: Job) -> None:
        """The job failed for good: what depends on it goes on without it, or fails as well."""
        self.failed.add(job)
        self._settle(job)

    def void(self, writer: Index, reader: Job) -> None:
        """A promised piece is gone: the infer job that filed it runs again, and ``reader`` waits for it."""
        job = Job("infer", writer)
        if job in self.failed:
            self.push(reader)  # it failed while the reader was under way: the reader does without
            return
        self._lose(job)
        self.done.discard(job)
        self._want(job)
        if reader not in self._waits:
            self._wait(reader, set())
        self._waits[reader].add(job)
        self._blocks[job].append(reader)

    def _wait(self, job: Job, needs: set[Job]) -> None:
        self._waits[job] = needs
        self.left[job.stage] += 1

    def _settle(self, job: Job) -> None:
        if self._waits.pop(job, None) is not None:
            self.left[job.stage] -= 1
        for other in self._blocks.pop(job, []):
            waits = self._waits.get(other)
            if waits is not None:
                waits.discard(job)
                if not waits:
                    self.push(other)

    # dependencies ---------------------------------------------------------------------------------------

    def _want(self, job: Job) -> None:
        """Add a job, and whatever it needs that is not done."""
        stack = [job]
        while stack:
            current = stack.pop()
            if current in self._waits or current in self.done or current in self.failed:
                continue
            waits = {n for n in self._needs(current) if n not in self.done and n not in self.failed}
            self._wait(current, waits)
            for need in waits:
                self._blocks[need].append(current)
                stack.append(need)
            if not waits:
                self.push(current)

    def _needs(self, job: Job) -> Iterator[Job]:
        run, index = self.run, job.index
        manifest = run.manifest
        if job.stage == "ingest" and manifest.layout.spool:
            yield Job("spool", ())
        elif job.stage == "constants" and manifest.needs_histograms:
            yield from (Job("ingest", j) for j in run.grid.blocks())
        elif job.stage == "infer":
            yield Job("constants", ())
            yield from (Job("ingest", j) for j in run.grid.touching(run.grid.read(index)))
        elif job.stage == "stitch":
            yield Job("ingest", index)
            yield from (Job("infer", i) for i in (index, *upstream(run.grid, index)))
        elif job.stage == "pyramid":
            level, *shard = index
            below: Stage = "stitch" if level == 1 else "pyramid"
            for child in pyramid.children(run, level, tuple(shard)):
                yield Job(below, child if level == 1 else (level - 1, *child))

    def _goals(self) -> Iterator[Job]:
        # infer and constants too: where nothing waits for them any more, their receipts are still counted
        return (job for job in all_jobs(self.run) if job.stage != "spool")

    # resume ---------------------------------------------------------------------------------------------

    def _resume(self) -> None:
        """All jobs minus valid receipts. A receipt is valid if what it vouches for lies there in its size."""
        sizes = {entry.key: entry.n_bytes for entry in self.run.store.list()}
        for stages in _JUDGED:
            jobs = (job for job in all_jobs(self.run) if job.stage in stages and job.key in sizes)
            for job, receipt in self.run.receipts_of(jobs):
                if receipt is None or not (receipt.missing or self._valid(receipt, sizes)):
                    self._lose(job)
                elif not receipt.missing:
                    self.done.add(job)
        self.whole = sum(job.stage == "stitch" for job in self.done)

    def _valid(self, receipt: Receipt, sizes: Mapping[str, int]) -> bool:
        if receipt.stage == "infer":
            return self._filed(receipt, sizes)
        return self._spooled(receipt, sizes) if receipt.stage == "spool" else self._intact(receipt, sizes)

    def _lose(self, job: Job) -> None:
        """A receipt that vouches for what is not there is removed, so that no one else trusts it."""
        self.lost.add(job)
        self.run.store.delete(job.key)

    def _intact(self, receipt: Receipt, sizes: Mapping[str, int]) -> bool:
        return all(self._lies(key, output, sizes) for key, output in receipt.outputs.items())

    def _filed(self, receipt: Receipt, sizes: Mapping[str, int]) -> bool:
        """Whether the pieces lie there that have not been read yet."""
        readers = (receipt.index, *downstream(self.run.grid, receipt.index))
        keys = [self.run.partial_key(d, receipt.index) for d in readers if Job("stitch", d) not in self.done]
        return all(k in receipt.outputs and self._lies(k, receipt.outputs[k], sizes) for k in keys)

    def _spooled(self, receipt: Receipt, sizes: Mapping[str, int]) -> bool:
        """Whether the scratch is whole, or has gone because nobody needs it any more."""
        if all(Job("ingest", j) in self.done for j in self.run.grid.blocks()):
            return True
        return self._intact(receipt, sizes) and spool.stored(sizes) == receipt.pixels.get("stored_bytes")

    def _lies(self, key: str, output: Output, sizes: Mapping[str, int]) -> bool:
        # looked at again before it counts as lost: another driver may have written it while the store was listed
        return output.n_bytes == sizes.get(key) or output.n_bytes == self.run.store.size_or_none(key)


def all_jobs(run: Run) -> Iterator[Job]:
    """Every job of a run, whether done or not."""
    if run.manifest.layout.spool:
        yield Job("spool", ())
    yield Job("constants", ())
    for stage in ("ingest", "infer", "stitch"):
        yield from (Job(stage, j) for j in run.grid.blocks())
    for level in range(1, run.manifest.layout.levels):
        yield from (Job("pyramid", (level, *index)) for index in pyramid.shards(run, level))
