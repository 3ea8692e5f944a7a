"""Which channels of a source a model reads. Never a silent choice: one mapping is evident, or it is asked for."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.errors import SourceError, UsageError
from pipeline.sources.base import SourceInfo


def choose_channels(info: SourceInfo, wanted: Sequence[str], bands: str | None = None) -> tuple[int, ...]:
    """For each channel the model wants, in its order, the index (from 0) of the source's channel.

    ``bands`` is the user's list: numbers from 1 (``4,1,2``) or channel names. Without it the counts must agree;
    then names decide if the same names stand on both sides, else the order does. Raises SourceError (the source
    does not fit the model) or UsageError (``bands`` does not).
    """
    if bands is not None:
        return _asked_for(info, wanted, bands)
    if len(wanted) != len(info.channels):
        raise SourceError(
            f"{info.uri} has {_listed(info.channels)} but the model wants {_listed(wanted)}; "
            f"say which to read, in the model's order, with --bands (e.g. --bands {_example(info, wanted)})"
        )
    return _by_name(info.channels, wanted) or tuple(range(len(wanted)))


def _by_name(have: Sequence[str], wanted: Sequence[str]) -> tuple[int, ...] | None:
    """The permutation that names give, or None where they are not the same set of distinct names."""
    ours = [name.casefold() for name in have]
    theirs = [name.casefold() for name in wanted]
    if len(set(ours)) < len(ours) or set(ours) != set(theirs):
        return None
    return tuple(ours.index(name) for name in theirs)


def _asked_for(info: SourceInfo, wanted: Sequence[str], bands: str) -> tuple[int, ...]:
    parts = [part.strip() for part in bands.split(",") if part.strip()]
    chosen = tuple(_index(info, part, bands) for part in parts)
    if len(chosen) != len(wanted):
        raise UsageError(
            f"--bands {bands} names {len(chosen)} channels but the model wants {_listed(wanted)}; "
            f"{info.uri} has {_listed(info.channels)}"
        )
    return chosen


def _index(info: SourceInfo, part: str, bands: str) -> int:
    names = [name.casefold() for name in info.channels]
    if names.count(part.casefold()) == 1:
        return names.index(part.casefold())
    if part.isdecimal() and 1 <= int(part) <= len(names):
        return int(part) - 1
    raise UsageError(
        f"--bands {bands}: {part!r} is not one of the channels of {info.uri}, which has {_listed(info.channels)} "
        f"(numbers start at 1)"
    )


def _example(info: SourceInfo, wanted: Sequence[str]) -> str:
    numbers = _subset_by_name(info.channels, wanted) or [min(i, len(info.channels)) for i in range(1, len(wanted) + 1)]
    return ",".join(map(str, numbers))


def _subset_by_name(have: Sequence[str], wanted: Sequence[str]) -> list[int] | None:
    ours = [name.casefold() for name in have]
    return [ours.index(w.casefold()) + 1 for w in wanted] if {w.casefold() for w in wanted} <= set(ours) else None


def _listed(names: Sequence[str]) -> str:
    return f"{len(names)} channel{'' if len(names) == 1 else 's'} ({', '.join(names)})"
