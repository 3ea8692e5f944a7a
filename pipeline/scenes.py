"""From what a person named to runs that are ready to start: find, open, plan, create. All validation is here, once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.arrays import create_arrays
from pipeline.errors import SeamlineError, StoreError
from pipeline.manifest import Manifest
from pipeline.memory import plan_memory
from pipeline.models.bundle import bundle_digest, bundle_files, cache_folder, load_network, read_spec, resolve_bundle
from pipeline.models.locate import PROGRAM, weights_of
from pipeline.ngff import describe_scene
from pipeline.plan import Hardware, Plan, adopt, check_memory, make_plan
from pipeline.run import MANIFEST, Run, create_run, open_run
from pipeline.settings import Settings
from pipeline.sources import find_scenes, open_source, scene_names
from pipeline.sources.whole import check_whole
from pipeline.store import Store, absolute, join


@dataclass(frozen=True, slots=True)
class Scene:
    """One scene of a batch: planned, or rejected with the reason. ``found`` is the run that is there already."""

    name: str
    uri: str
    plan: Plan | None = None
    found: Run | None = None
    error: SeamlineError | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """What ``segment`` was asked for. ``skipped`` are files that are no scenes, each with the reason."""

    scenes: tuple[Scene, ...]
    skipped: tuple[tuple[str, str], ...]
    bundles: tuple[Path, ...]
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
    bundles = tuple(resolve_bundle(name, cache_folder()) for name in settings.model)
    for bundle in bundles:
        read_spec(bundle)  # broken for one scene is broken for all
    found = find_scenes(paths)
    names = scene_names(found.scenes)
    settings = settings.model_copy(update={"out": absolute(settings.out)})
    scenes = tuple(_plan_scene(names[uri], absolute(uri), settings, bundles, hardware) for uri in found.scenes)
    return Batch(scenes, found.skipped, bundles, settings)


def check_bundles(batch: Batch) -> None:
    """Load the weights once, before anything is spent, unless all that is left is to finish runs that have them.

    Raises ModelError if weights do not fit what their bundle says, or have to be trusted.
    """
    for bundle in batch.bundles:
        if any(scene.found is None for scene in batch.planned) or weights_of(bundle).name == PROGRAM:
            spec, _ = read_spec(bundle)
            load_network(bundle, spec, trust=batch.settings.trust_model)


def start_run(scene: Scene, batch: Batch) -> Run:
    """Create the scene's run directory, or go on with the one that is there: it may have been killed half made."""
    assert scene.plan is not None
    run = scene.found or create_run(batch.settings.out, scene.plan.manifest)
    create_arrays(run.store, run.manifest)
    for n, bundle in enumerate(batch.bundles):
        for file in bundle_files(bundle):
            data = file.read_bytes()
            if run.bundle(n).get_or_none(file.name) != data:
                run.bundle(n).put(file.name, data)
    describe_scene(run)
    return run


def find_run(out: str, planned: Manifest) -> Run | None:
    """The run that answers this question, if there is one."""
    uri = join(out, planned.run_name)
    return open_run(uri) if Store(uri).exists(MANIFEST) else None


def probe_output(batch: Batch) -> None:
    """Write and remove one small object, if a run is to be created. Raises StoreError where nothing can be written."""
    if all(scene.found is not None for scene in batch.planned):
        return
    store, key = Store(batch.settings.out), ".seamline-probe"
    try:
        store.put(key, b"")
        store.delete(key)
    except StoreError as e:
        raise StoreError(f"{e}; choose another --out, or mend its permissions") from e


def _plan_scene(name: str, uri: str, settings: Settings, bundles: Sequence[Path], hardware: Hardware) -> Scene:
    try:
        source = open_source(uri, nodata=settings.nodata)
        try:
            info = source.info
        finally:
            source.close()
        check_whole(uri)
        read = [read_spec(bundle, info.dtype) for bundle in bundles]
        (spec, *ensemble), notes = [spec for spec, _ in read], [note for _, notes in read for note in notes]
        digests = [bundle_digest(bundle) for bundle in bundles]
        plan = make_plan(settings, info, spec, digests, hardware, scene=name, ensemble=ensemble)
        found = find_run(settings.out, plan.manifest)
        if found is not None:
            adopt(plan.manifest, found.manifest, settings)
            check_memory(Plan(found.manifest, plan_memory(found.manifest), ()), settings, hardware)
            plan = Plan(found.manifest, plan_memory(found.manifest), (*plan.notes, f"goes on with {found.uri}"))
        return Scene(name, uri, plan=replace(plan, notes=(*plan.notes, *notes)), found=found)
    except SeamlineError as e:
        return Scene(name, uri, error=e)
