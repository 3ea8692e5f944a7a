"""How a run's scene describes itself to viewers: OME-NGFF 0.5, and for maps the CRS as GeoZarr and CF have it.

The keys are those of the OME-NGFF 0.5 specification (multiscales,
image-label) and of the GeoZarr ``proj:`` and ``spatial:`` conventions.
"""

from __future__ import annotations

from typing import Any

import zarr

from pipeline.arrays import MASK, SCENE, ArrayName, array_names, levels_of, writing, zarr_store
from pipeline.manifest import Manifest
from pipeline.ome import multiscale
from pipeline.run import Run
from tiling import Frame

_CONVENTIONS = [
    {"uuid": "689b58e2-cf7b-45e0-9fff-9cfc0883d6b4", "name": "spatial:"},
    {"uuid": "f17cb550-5864-4468-aeb7-f3180cfb622f", "name": "proj:"},
]


def describe_scene(run: Run) -> None:
    """Write the attributes of every group of ``scene.zarr``. The same bytes whenever it is called."""
    manifest = run.manifest
    store = zarr_store(run.store.within(SCENE))
    frame, first = manifest.frame, levels_of(manifest, "image")[0]
    place = georeference(frame, manifest.grid.extent)
    groups: dict[str, dict[str, Any]] = {
        "": {"ome": image_attributes(manifest), **place, **frame_attributes(frame, first)},
        "labels": {"ome": {"version": "0.5", "labels": ["mask"]}},
        MASK: {"ome": mask_attributes(manifest), **place, **frame_attributes(frame)},
    }
    for name in array_names(manifest):
        if name not in ("image", "labels"):
            groups[name] = {
                "ome": {"version": "0.5", "multiscales": [_multiscale(manifest, name, channel=name == "scores")]}
            }
    with writing(run.store):
        for path, attributes in groups.items():
            group = zarr.open_group(store, path=path, mode="a", zarr_format=3)
            group.attrs.update(attributes)


def image_attributes(manifest: Manifest) -> dict[str, Any]:
    """``ome`` attributes of the scene: the image, one channel each named after the source's."""
    attributes: dict[str, Any] = {"version": "0.5", "multiscales": [_multiscale(manifest, "image", channel=True)]}
    if manifest.question.source.dtype != "uint8":
        return attributes  # a range of display has to be given with a colour, and only here is one known beforehand
    names = manifest.question.source.channel_names
    colors = ["FF0000", "00FF00", "0000FF"] if len(names) == 3 else ["FFFFFF"] * len(names)
    channels = [
        {"label": n, "color": c, "active": True, "window": {"min": 0, "max": 255, "start": 0, "end": 255}}
        for n, c in zip(names, colors, strict=True)
    ]
    return attributes | {"omero": {"channels": channels}}


def mask_attributes(manifest: Manifest) -> dict[str, Any]:
    """``ome`` attributes of the mask: label values are class indices; nodata and unresolved are transparent."""
    colors = [{"label-value": n, "rgba": [*c.rgb, 255]} for n, c in enumerate(manifest.spec.classes)]
    properties = [{"label-value": n, "class": c.name, "value": c.value} for n, c in enumerate(manifest.spec.classes)]
    for code, name in ((manifest.nodata_code, "no data"), (manifest.unresolved_code, "unresolved")):
        colors.append({"label-value": code, "rgba": [0, 0, 0, 0]})
        properties.append({"label-value": code, "class": name})
    return {
        "version": "0.5",
        "multiscales": [_multiscale(manifest, "labels", channel=False)],
        "image-label": {"colors": colors, "properties": properties, "source": {"image": "../../"}},
    }


def georeference(frame: Frame, extent: tuple[int, ...]) -> dict[str, Any]:
    """Attributes that place a map: the affine as GDAL writes it, and the CRS. Empty where there is neither."""
    if frame.ndim != 2 or frame.unit == "px":
        return {}
    corner = 0.5 if frame.anchor == "centre" else 0.0  # the transform is of the corner of pixel (0, 0)
    # rows are (y, x); a GDAL transform is x = a col + b row + c, y = d col + e row + f
    (e, d, f), (b, a, c) = frame.matrix
    c, f = c - corner * (a + b), f - corner * (d + e)
    attributes: dict[str, Any] = {
        "zarr_conventions": _CONVENTIONS,
        "spatial:dimensions": list(frame.axes),
        "spatial:transform": [a, b, c, d, e, f],
        "spatial:shape": list(extent),
    }
    if frame.crs:
        attributes["proj:wkt2"] = frame.crs
    return attributes


def frame_attributes(frame: Frame, level: int = 0) -> dict[str, Any]:
    """The whole affine, of the first level that is stored: what NGFF 0.5 can say has neither direction nor shear.

    world = matrix[:, :n] @ index + matrix[:, n], in the order of the axes; see ``Frame``.
    """
    stored = frame.downsampled((2**level,) * frame.ndim) if level else frame
    return {"seamline": {"frame": stored.to_json()}}


def _multiscale(manifest: Manifest, name: ArrayName, *, channel: bool) -> dict[str, Any]:
    factors = {str(n): (2**n,) * manifest.ndim for n in levels_of(manifest, name)}
    return multiscale(manifest.scene, manifest.frame, factors, "mode" if name == "labels" else "mean", channel=channel)
