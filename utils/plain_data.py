"""Frozen dataclasses as JSON objects and back, with errors that name the key."""

import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, asdict, fields, is_dataclass
from typing import Any, TypeVar

from utils.errors import UserError, require

Record = TypeVar("Record")


def to_plain(record: Any) -> dict:
    """Give a dataclass, and those inside it, as dicts that JSON can hold; floats survive exactly."""
    return asdict(record)


def from_plain(kind: type[Record], data: Any, name: str) -> Record:
    """Undo `to_plain`.

    Args:
        kind: a dataclass whose fields are numbers, bools, strings, dataclasses, unions of these and None, or tuples
            of one of these kinds. Of several dataclasses in a union the one is built whose fields resemble the keys
            most.
        data: what JSON gave. Fields that have a default may be missing.
        name: what `data` is called in messages.

    Raises:
        UserError: a key is missing or unknown, or a value has the wrong type or lies outside its range. It is named.
    """
    require(isinstance(data, Mapping), f"{name} must be an object with named values", repr(data))
    hints = typing.get_type_hints(kind)
    optional = {field.name for field in fields(kind) if field.default is not MISSING}
    unknown = [key for key in data if key not in hints]
    missing = [key for key in hints if key not in data and key not in optional]
    require(not unknown, f"{name} has unknown keys; known are {', '.join(hints)}", ", ".join(map(repr, unknown)))
    require(not missing, f"{name} lacks {', '.join(missing)}", f"only {', '.join(data) or 'nothing'}")
    values = {key: _convert(hint, data[key], f"{name}.{key}") for key, hint in hints.items() if key in data}
    try:
        return kind(**values)
    except UserError as error:
        raise UserError(f"{name}: {error}") from error


def _convert(hint: Any, value: Any, name: str) -> Any:
    if typing.get_origin(hint) is tuple:
        require(isinstance(value, list | tuple), f"{name} must be a list", repr(value))
        kind = typing.get_args(hint)[0]
        return tuple(_convert(kind, item, f"{name}[{index}]") for index, item in enumerate(value))
    choices = typing.get_args(hint) or (hint,)
    records = [choice for choice in choices if is_dataclass(choice)]
    if records and isinstance(value, Mapping):
        best = max(records, key=lambda record: len({field.name for field in fields(record)} & set(value)))
        return from_plain(best, value, name)
    if type(value) is int and float in choices:
        return float(value)
    known = [_type_name(choice) for choice in choices]
    require(type(value) in choices, f"{name} must be {' or '.join(known)}", repr(value))
    return value


def _type_name(choice: type) -> str:
    if choice is types.NoneType:
        return "null"
    return "an object" if is_dataclass(choice) else choice.__name__
