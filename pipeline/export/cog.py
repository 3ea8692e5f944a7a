"""A mask as a cloud-optimised GeoTIFF: codes, colours, class names, nodata, georeference, overviews by mode."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

from pipeline.errors import StoreError, UsageError
from pipeline.export.codes import Codes, codes_of, rgb
from pipeline.export.frames import geotransform
from pipeline.export.place import Exported, local_target, placed, remove, size_on_disk
from pipeline.export.view import MaskView

CACHE_BYTES = 2**27


def export_cog(view: MaskView, path: str | Path) -> Exported:
    """Write ``path`` (*.tif) and ``path.aux.xml`` with the class names. 2-D masks only.

    The codes go block by block into a tiled scratch file beside the target, which GDAL's COG driver then
    reorders; the two files are moved into place when they are whole. Raises UsageError for a volume or
    another suffix, StoreError if the place cannot be written to.
    """
    import rasterio
    from rasterio.errors import RasterioError

    if view.ndim != 2:
        raise UsageError(f"{view.name} is a volume of {view.shape}; a COG is a map: use --to nifti or --to zarr")
    target = local_target(path, "a COG", (".tif", ".tiff"), view.tags.get("source"))
    sidecar = target.with_name(target.name + ".aux.xml")
    codes = codes_of(view)
    try:
        with rasterio.Env(GDAL_CACHEMAX=CACHE_BYTES), placed(sidecar) as names, placed(target, ".tif") as whole:
            _write(view, codes, whole)
            names.write_bytes(pam(view, codes))
    except RasterioError as e:
        raise StoreError(f"cannot write {target}: {e}; is the folder writable and the disk not full?") from e
    return Exported(str(target), size_on_disk(target) + size_on_disk(sidecar))


def pam(view: MaskView, codes: Codes) -> bytes:
    """The sidecar that GDAL and QGIS read: category names by code, and an attribute table with the colours.

    Category names are a list from code 0 up, so they are left out where codes pass 255.
    """
    root = ET.Element("PAMDataset")
    band = ET.SubElement(root, "PAMRasterBand", band="1")
    rows = sorted((c.value, c.name, (*rgb(c.color), 255)) for c in view.classes)
    if codes.nodata is not None:
        rows.append((codes.nodata, "nodata", (0, 0, 0, 0)))
    if codes.dtype == "uint8":
        names = {value: name for value, name, _ in rows}
        listing = ET.SubElement(band, "CategoryNames")
        for value in range(max(c.value for c in view.classes) + 1):
            ET.SubElement(listing, "Category").text = names.get(value, "")
    table = ET.SubElement(band, "GDALRasterAttributeTable", tableType="thematic")
    for index, (name, kind, usage) in enumerate(_FIELDS):
        definition = ET.SubElement(table, "FieldDefn", index=str(index))
        for tag, text in (("Name", name), ("Type", kind), ("Usage", usage)):
            ET.SubElement(definition, tag).text = text
    for index, (value, name, rgba) in enumerate(rows):
        row = ET.SubElement(table, "Row", index=str(index))
        for cell in (value, name, *rgba):
            ET.SubElement(row, "F").text = str(cell)
    ET.indent(root)
    return bytes(ET.tostring(root, encoding="utf-8", xml_declaration=False))


# name, type (GFT_Integer 0, GFT_String 2) and usage (GFU_MinMax 5, Name 2, Red 6 to Alpha 9) of GDAL's attribute tables
_FIELDS = (
    ("Value", "0", "5"),
    ("Class", "2", "2"),
    ("Red", "0", "6"),
    ("Green", "0", "7"),
    ("Blue", "0", "8"),
    ("Alpha", "0", "9"),
)


def _write(view: MaskView, codes: Codes, whole: Path) -> None:
    from rasterio.shutil import copy

    scratch = whole.with_suffix(".scratch.tif")
    try:
        _write_scratch(view, codes, scratch)
        # not OVERVIEW_COMPRESS=AUTO: it leaves the overviews uncompressed
        options = {"COMPRESS": "DEFLATE", "BLOCKSIZE": 512, "OVERVIEW_RESAMPLING": "MODE", "BIGTIFF": "IF_SAFER"}
        with quiet():
            copy(str(scratch), str(whole), driver="COG", **options)
    finally:
        remove(scratch)
        remove(scratch.with_name(scratch.name + ".aux.xml"))


def _write_scratch(view: MaskView, codes: Codes, scratch: Path) -> None:
    """The codes as a tiled GeoTIFF with everything that the COG driver takes over."""
    import rasterio
    from rasterio.windows import Window

    with quiet(), rasterio.open(scratch, "w", **_profile(view, codes)) as file:
        file.update_tags(**{f"SEAMLINE_{key.upper()}": value for key, value in view.tags.items()})
        if codes.dtype == "uint8":  # a uint16 table would be 393 kB of zeros; there the attribute table has the colours
            colours = {c.value: (*rgb(c.color), 255) for c in view.classes}
            file.write_colormap(1, colours if codes.nodata is None else {**colours, codes.nodata: (0, 0, 0, 0)})
        for box in view.blocks():
            part, _ = codes.apply(view.read(box))
            file.write(part, 1, window=Window(box.start[1], box.start[0], box.shape[1], box.shape[0]))


def _profile(view: MaskView, codes: Codes) -> dict[str, Any]:
    height, width = view.shape
    profile: dict[str, Any] = {
        "driver": "GTiff",
        "height": height,
        "width": width,
        "count": 1,
        "dtype": codes.dtype.name,
        "nodata": codes.nodata,
        "tiled": True,
        "blockxsize": 512,
        "blockysize": 512,
        "compress": "DEFLATE",
        "zlevel": 1,
        "bigtiff": "IF_SAFER",
    }
    transform = geotransform(view.frame)
    if transform is not None:
        from affine import Affine

        profile["transform"] = Affine(*transform)
    if view.frame.crs is not None:
        profile["crs"] = view.frame.crs
    return profile


@contextmanager
def quiet() -> Iterator[None]:
    """No warning that a file has no georeference: a mask of a picture without one has none either."""
    from rasterio.errors import NotGeoreferencedWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield
