"""The tables of docs/settings.md, made from the code: `python docs/tables.py` writes them, a test compares them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic_core import PydanticUndefined
from typer.main import get_command

SETTINGS_PAGE = Path(__file__).parent / "settings.md"
BEGIN, END = "<!-- made by docs/tables.py -->", "<!-- end -->"


def settings_table() -> str:
    """Every setting of ``segment``: its key in a file, its flag, its default."""
    from pipeline.settings import Settings

    flags = {option.name: option for option in options("segment")}
    rows = []
    for name, field in Settings.model_fields.items():
        flag = _flag(flags[name]) if name in flags else "only in a file"
        default = "required" if field.is_required() else shown(field.get_default())
        said = field.description or (_what(flags[name]) if name in flags else "")
        parts = [said.partition("[default")[0].strip(), ", ".join(f"`{c}`" for c in choices(field.annotation))]
        rows.append((f"`{name}`", flag, default, ": ".join(filter(None, parts))))
    return table(("key in a file", "flag", "default", "what"), rows)


def choices(annotation: Any) -> tuple[str, ...]:
    """The words that a setting takes, if it takes words."""
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    return tuple(choice for part in get_args(annotation) for choice in choices(part))


def command_table(*path: str) -> str:
    """Every argument and option of one command, settings of ``segment`` left out."""
    from pipeline.settings import Settings

    known = set(Settings.model_fields) if path == ("segment",) else set()
    rows = [(_flag(p), _default(p), _what(p)) for p in options(*path) if p.name not in known and p.name != "help"]
    return table(("argument or flag", "default", "what"), rows)


def options(*path: str) -> list[Any]:
    """The parameters of a command of the command line, as click knows them."""
    from pipeline.__main__ import app

    command: Any = get_command(app)
    for name in path:
        command = command.commands[name]
    return list(command.params)


def command_paths() -> Iterator[tuple[str, ...]]:
    """The words of every command, in the order of ``--help``."""
    from pipeline.__main__ import app

    root: Any = get_command(app)
    for name, command in root.commands.items():
        yield (name,)
        yield from ((name, inner) for inner in getattr(command, "commands", {}))


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def shown(value: Any) -> str:
    """A default as it would stand in a file."""
    if value is PydanticUndefined:
        return "required"
    if value is None or value == ():
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    return f"`{value}`"


def sections() -> str:
    """Everything between the markers of the page."""
    parts = ["## Settings of `segment`", settings_table()]
    for path in command_paths():
        parts += [f"## `{' '.join(path)}`" + (", flags that are no settings" if path == ("segment",) else "")]
        parts.append(command_table(*path))
    return "\n\n".join(parts)


def page_with(text: str, made: str) -> str:
    """``text`` with what lies between the markers replaced."""
    head, rest = text.split(BEGIN)
    return f"{head}{BEGIN}\n\n{made}\n\n{END}{rest.split(END)[1]}"


def _flag(option: Any) -> str:
    if option.param_type_name == "argument":
        return f"`{option.metavar or option.name.upper()}`"
    return ", ".join(f"`{name}`" for name in option.opts)


def _what(option: Any) -> str:
    return (option.help or "").replace("|", "\\|")


def _default(option: Any) -> str:
    if option.required:
        return "required"
    return "off" if option.default is False else shown(option.default)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    SETTINGS_PAGE.write_text(page_with(SETTINGS_PAGE.read_text(), sections()))
