"""Reading imagery: the only place that knows file formats.

``open_source(uri)`` gives a ``Source`` (see ``base``): what the file says of itself, and boxes of its pixels
with their validity. ``find_scenes`` turns what a user named into scenes.
"""

from pipeline.sources.base import NodataRule, Source, SourceInfo
from pipeline.sources.channels import choose_channels
from pipeline.sources.discover import Found, find_scenes, is_own_output
from pipeline.sources.names import scene_name, scene_names
from pipeline.sources.opening import fingerprint_of, open_source
from pipeline.sources.watch import check_unchanged

__all__ = [
    "Found",
    "NodataRule",
    "Source",
    "SourceInfo",
    "check_unchanged",
    "choose_channels",
    "find_scenes",
    "fingerprint_of",
    "is_own_output",
    "open_source",
    "scene_name",
    "scene_names",
]
