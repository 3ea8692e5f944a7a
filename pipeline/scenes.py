"""From what a person named to runs that are ready to start: find, open, plan, create. All validation is here, once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.arrays import create_arrays
from pipeline.errors import SeamlineError, StoreError, UsageError
from pipeline.manifest import Manifest
from pipeline.models.bundle import Bundle, open_bundles
from pipeline.ngff import describe_scene
from pipeline.plan import Hardware, Plan, adopt, make_plan
from pipeline.run import MANIFEST, Run, create_run, open_run
from pipeline.settings import Settings
from pipeline.sources import find_scenes, open_source, scene_names
from pipeline.store import Store, join


@dataclass(frozen=True, slots=True)
class Scene:
    """One scene of a batch: planned, or rejected with the reason."""

    name: str
    uri: str
    plan: Plan | None = None
    error: SeamlineError | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """What ``segment`` was asked for. ``skipped`` are files that are no scenes, each with the reason."""

    scenes: tuple[Scene, ...]
    skipped: tuple[tuple[str, str], ...]
    bundles: tuple[Bundle, ...]
    settings: Settings

    @property
    def planned(self) -> tuple[Scene, ...]:
        """Scenes that can run, largest first, so that no worker waits for one large scene at the end."""
        ready = [s for s in self.scenes if s.plan is not None]
        return tuple(sorted(ready, key=lambda s: (-s.plan.windows if s.plan else 0, s.name)))


def plan_batch(paths: Sequence[str], settings: Settings, hardware: Hardware) -> Batch:
    """Find the scenes and plan each. One bad scene does not stop the others; nothing is written.

    Raises SeamlineError if there is no scene at all, or the model cannot be used.
    """
    bundles = open_bundles(settings.model, trust=settings.trust_model)
    found = find_scenes(paths)
    names = scene_names(found.scenes)
    scenes = tuple(_plan_scene(names[uri], uri, settings, bundles, hardware) for uri in found.scenes)
    return Batch(scenes, found.skipped, bundles, settings)


def start_run(scene: Scene, batch: Batch) -> Run:
    """Create the scene's run directory, or adopt the one that is there."""
    assert scene.plan is not None
    planned, settings = scene.plan.manifest, batch.settings
    found = find_run(settings.out, planned)
    if found is not None:
        adopt(planned, found.manifest, settings)
        create_arrays(found.store, found.manifest)
        return found
    probe_output(settings.out)
    run = create_run(settings.out, planned)
    for n, bundle in enumerate(batch.bundles):
        bundle.copy_to(run.store.within(f"bundle/{n}"))
    describe_scene(run)
    return run


def find_run(out: str, planned: Manifest) -> Run | None:
    """The run that answers this question, if there is one."""
    uri = join(out, planned.run_name)
    return open_run(uri) if Store(uri).exists(MANIFEST) else None


def probe_output(out: str) -> None:
    """Write and remove one small object. Raises StoreError where nothing can be written."""
    store, key = Store(out), ".seamline-probe"
    try:
        store.put(key, b"")
        store.delete(key)
    except StoreError as e:
        raise StoreError(
            f"the output {out} cannot be written: {e}; choose another --out or mend its permissions"
        ) from e


def _plan_scene(name: str, uri: str, settings: Settings, bundles: Sequence[Bundle], hardware: Hardware) -> Scene:
    try:
        source = open_source(uri, nodata=settings.nodata)
        try:
            info = source.info
        finally:
            source.close()
        spec, notes = bundles[0].spec_for(info.dtype)
        if any(b.spec_for(info.dtype)[0].classes != spec.classes for b in bundles):
            raise UsageError(
                f"an ensemble needs the same classes in every bundle: {', '.join(b.name for b in bundles)} differ"
            )
        plan = make_plan(settings, info, spec, [b.digest for b in bundles], hardware, scene=name)
        return Scene(name, uri, plan=Plan(plan.manifest, plan.memory, (*plan.notes, *notes)))
    except SeamlineError as e:
        return Scene(name, uri, error=e)
