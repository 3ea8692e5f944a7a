"""Geometry of windows, blocks and seams: pure, n-D, numpy only."""

from tiling.box import Box
from tiling.errors import FrameError, GeometryError, SeamlineError
from tiling.frame import Frame
from tiling.grid import Axis, Grid, Index
from tiling.ramp import RAMPS, RampName, ramp
from tiling.reflect import reflect
from tiling.seams import Pieces, downstream, incoming, pieces, seam_pixels, upstream

__all__ = [
    "RAMPS",
    "Axis",
    "Box",
    "Frame",
    "FrameError",
    "GeometryError",
    "Grid",
    "Index",
    "Pieces",
    "RampName",
    "SeamlineError",
    "downstream",
    "incoming",
    "pieces",
    "ramp",
    "reflect",
    "seam_pixels",
    "upstream",
]
