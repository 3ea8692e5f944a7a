"""Errors of the geometry floor. Each is also the builtin a caller would catch."""


class SeamlineError(Exception):
    """Base of every error Seamline raises on purpose: what is wrong, the values, and the cure."""


class GeometryError(SeamlineError, ValueError):
    """A box, lattice or ramp that cannot exist, or an index outside it."""


class FrameError(SeamlineError, ValueError):
    """A georeference that cannot be used for what was asked of it."""
