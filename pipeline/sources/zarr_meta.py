"""What zarr metadata says, in our terms: OME-Zarr 0.4 and 0.5, named dimensions, GeoZarr. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.errors import SourceError
from tiling import Frame

_UNITS = {
    "nanometer": "nm",
    "micrometer": "um",
    "millimeter": "mm",
    "centimeter": "cm",
    "meter": "m",
    "kilometer": "km",
    "degree": "degree",
}
_NAMES = {"band": "c", "bands": "c", "channel": "c", "channels": "c", "time": "t", "lat": "y", "latitude": "y"}
_NAMES |= {"lon": "x", "longitude": "x", "northing": "y", "easting": "x", "depth": "z", "s": "c"}


@dataclass(frozen=True, slots=True)
class Multiscale:
    """Level 0 of an OME-Zarr image: path of its array, axis names, units, and scale and translation per axis."""

    path: str
    axes: tuple[str, ...]
    units: tuple[str | None, ...]
    scale: tuple[float, ...]
    translation: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Order:
    """Where the array's axes go.

    spatial  numbers of the axes z, y, x, in this order; ``names`` are their names
    channel  number of the channel axis, None for none
    single   the rest, each of length 1
    """

    spatial: tuple[int, ...]
    names: tuple[str, ...]
    channel: int | None
    single: tuple[int, ...]

    @property
    def is_native(self) -> bool:
        """Whether the array is (c?,) spatial already, so that it can be read in place."""
        wanted = ((self.channel,) if self.channel is not None else ()) + self.spatial
        return not self.single and wanted == tuple(range(len(wanted)))


def multiscale_of(attributes: Mapping[str, Any], uri: str) -> Multiscale | None:
    """The first multiscale image of a group's attributes (0.5 under ``ome``, 0.4 beside), None if there is none."""
    ome = attributes.get("ome", attributes)
    found = ome.get("multiscales") if isinstance(ome, Mapping) else None
    if not isinstance(found, Sequence) or not found:
        return None
    try:
        return _multiscale(found[0])
    except (KeyError, TypeError, ValueError, IndexError) as e:
        raise SourceError(f"{uri} has OME-Zarr metadata that cannot be read: {type(e).__name__}: {e}") from e


def _multiscale(image: Mapping[str, Any]) -> Multiscale:
    axes = [a if isinstance(a, Mapping) else {"name": a} for a in image.get("axes", "tczyx")]
    n, level = len(axes), image["datasets"][0]
    scale, shift = [1.0] * n, [0.0] * n
    for step in [*level.get("coordinateTransformations", []), *image.get("coordinateTransformations", [])]:
        if step["type"] == "scale":
            scale = [a * float(b) for a, b in zip(scale, step["scale"], strict=True)]
            shift = [a * float(b) for a, b in zip(shift, step["scale"], strict=True)]
        elif step["type"] == "translation":
            shift = [a + float(b) for a, b in zip(shift, step["translation"], strict=True)]
    names, units = tuple(str(a["name"]) for a in axes), tuple(a.get("unit") for a in axes)
    return Multiscale(str(level["path"]), names, units, tuple(scale), tuple(shift))


def order_of(axes: Sequence[str], shape: Sequence[int], uri: str) -> Order:
    """Axes by name. Raises SourceError for time series and names that mean nothing here."""
    if len(axes) != len(shape):
        raise SourceError(f"{uri} names {len(axes)} axes {tuple(axes)} for an array of shape {tuple(shape)}")
    names = [_NAMES.get(a.lower(), a.lower()) for a in axes]
    sizes = dict(zip(names, shape, strict=True))
    if sizes.get("t", 1) != 1:
        raise SourceError(
            f"{uri} is a time series of {sizes['t']} points (axes {', '.join(axes)}); "
            "save each time point as an array of its own"
        )
    unknown = [a for a, n in zip(names, shape, strict=True) if a not in "tczyx" and n != 1]
    if unknown or not {"y", "x"} <= set(names) or len(set(names)) < len(names):
        raise SourceError(f"{uri} has axes {', '.join(axes)}; they must be named y and x, and may be c, z, and t of 1")
    spatial = tuple(a for a in "zyx" if a in names)
    channel = names.index("c") if "c" in names else None
    single = tuple(i for i, a in enumerate(names) if a not in ("c", *spatial))
    return Order(tuple(names.index(a) for a in spatial), spatial, channel, single)


def plain_axes(n_axes: int, uri: str) -> tuple[tuple[str, ...], str]:
    """Axes of an array that names none, and a sentence that says so."""
    axes = {2: ("y", "x"), 3: ("z", "y", "x"), 4: ("c", "z", "y", "x")}.get(n_axes)
    if axes is None:
        raise SourceError(f"{uri} has {n_axes} axes without names; give it dimension_names such as c, z, y, x")
    return axes, f"its axes have no names and are taken as ({', '.join(axes)})"


def ome_frame(image: Multiscale, order: Order) -> tuple[Frame, list[str]]:
    """Centre-anchored frame of level 0; lengths of different units are brought to micrometres."""
    scale = [image.scale[i] for i in order.spatial]
    shift = [image.translation[i] for i in order.spatial]
    given = [_UNITS.get(str(image.units[i]), image.units[i]) for i in order.spatial]
    if len(set(given)) == 1 and given[0]:
        return _diagonal(order.names, scale, shift, str(given[0])), []
    metric = {"nm": 1e-3, "um": 1.0, "mm": 1e3, "cm": 1e4, "m": 1e6, "km": 1e9}
    if all(u in metric for u in given):
        factor = [metric[str(u)] for u in given]
        scale, shift = [[a * f for a, f in zip(v, factor, strict=True)] for v in (scale, shift)]
        return _diagonal(order.names, scale, shift, "um"), []
    if set(scale) == {1.0}:
        return Frame.pixels(order.names), []
    return _diagonal(order.names, scale, shift, "unknown"), ["its scale has no unit: lengths are in unknown units"]


def own_frame(attributes: Mapping[str, Any], order: Order) -> Frame | None:
    """The whole frame as Seamline writes it under ``seamline``, None if it is not there or of other axes."""
    own = attributes.get("seamline")
    if not isinstance(own, Mapping) or not isinstance(own.get("frame"), dict):
        return None
    frame = Frame.from_json(own["frame"])
    return frame if frame.axes == order.names else None


def geozarr_frame(attributes: Mapping[str, Any], order: Order, to_wkt: Any) -> Frame | None:
    """Frame from the ``spatial:`` and ``proj:`` conventions, None if they are not there or not 2-D.

    ``to_wkt`` turns what ``proj:`` holds into (WKT, unit). Source: zarr-conventions spatial and proj.
    """
    numbers = attributes.get("spatial:transform")
    if numbers is None or len(order.spatial) != 2:
        return None
    a, b, c, d, e, f = (float(v) for v in numbers[:6])
    crs = attributes.get("proj:code") or attributes.get("proj:wkt2") or attributes.get("proj:projjson")
    wkt, unit = to_wkt(crs) if crs else (None, "unknown")
    anchor = "centre" if attributes.get("spatial:registration") == "node" else "corner"
    return Frame(("y", "x"), ((e, d, f), (b, a, c)), unit, wkt, anchor)  # type: ignore[arg-type]


def omero_channels(attributes: Mapping[str, Any], n: int) -> tuple[str, ...]:
    """Channel labels of the ``omero`` block if they are there and differ, else numbers."""
    ome = attributes.get("ome", attributes)
    labels = [str(c.get("label", "")) for c in (ome.get("omero") or {}).get("channels", [])]
    if len(labels) == n and all(labels) and len(set(labels)) == n:
        return tuple(labels)
    return ("intensity",) if n == 1 else tuple(f"channel {i + 1}" for i in range(n))


def fill_value_of(attributes: Mapping[str, Any]) -> float | None:
    """Nodata by the CF attributes; a value xarray stored encoded is not a number and not used."""
    for key in ("_FillValue", "missing_value"):
        value = attributes.get(key)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
        if value in ("NaN", "nan"):
            return float("nan")
    return None


def _diagonal(axes: tuple[str, ...], scale: Sequence[float], shift: Sequence[float], unit: str) -> Frame:
    rows = tuple(
        (*(float(s) if i == k else 0.0 for k in range(len(axes))), float(t))
        for i, (s, t) in enumerate(zip(scale, shift, strict=True))
    )
    return Frame(axes, rows, unit, None, "centre")
