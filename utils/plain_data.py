"""Frozen dataclasses to JSON objects and back, with errors that name the key."""

import math
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import Annotated, Any, TypeVar

from utils.errors import UserError, require

Record = TypeVar("Record")


@dataclass(frozen=True)
class Range:
    """The finite numbers from `low` to `high`, and tuples of them in ascending order.

    `brackets` state as in mathematics whether the ends belong to them.
    """

    low: float
    high: float = math.inf
    brackets: str = "[]"

    def __contains__(self, value: float | tuple[float, ...]) -> bool:
        if isinstance(value, tuple):
            return all(number in self for number in value) and list(value) == sorted(value)
        open_end = (self.brackets[0] == "(" and value == self.low) or (self.brackets[1] == ")" and value == self.high)
        return math.isfinite(value) and self.low <= value <= self.high and not open_end

    def __str__(self) -> str:
        return f"{self.brackets[0]}{self.low:g}, {self.high:g}{self.brackets[1]}"


def from_plain(kind: type[Record], data: Any, name: str) -> Record:
    """Undo `dataclasses.asdict` from parsed JSON; fields with a default may be missing.

    Messages call the object `name`, or only by its keys if that is empty.
    Fields are numbers, bools, strings, dataclasses, unions of these and None, tuples of one of these, or dictionaries,
    whose values are not checked. Of several dataclasses in a union the one with the most matching fields is built.
    Annotated[type, values]: `value in values` must hold, as for a `Range` or a tuple. A UserError names the key that is
    missing, unknown or of a wrong value.
    """
    require(isinstance(data, Mapping), f"{name} must be an object with named values", repr(data))
    hints = typing.get_type_hints(kind, include_extras=True)
    missing = [field.name for field in fields(kind) if field.default is MISSING and field.name not in data]
    unknown = [key for key in data if key not in hints]
    require(not unknown, f"{name} has unknown keys; known are {', '.join(hints)}", ", ".join(map(repr, unknown)))
    require(not missing, f"{name} lacks {', '.join(missing)}", f"only {', '.join(data) or 'nothing'}")
    values = {key: _convert(hints[key], value, f"{name}.{key}".lstrip(".")) for key, value in data.items()}
    try:
        return kind(**values)
    except UserError as error:
        raise UserError(f"{name}: {error}") from error


def _convert(hint: Any, value: Any, name: str) -> Any:
    if typing.get_origin(hint) is Annotated:
        hint, values = typing.get_args(hint)
        value = _convert(hint, value, name)
        ascending = ", lower first" * isinstance(value, tuple)
        require(value in values, f"{name} must be in {values}{ascending}", repr(value))
        return value
    if typing.get_origin(hint) is tuple:
        item_hint, *others = typing.get_args(hint)
        length_fits = isinstance(value, list | tuple) and (... in others or len(value) == 1 + len(others))
        require(length_fits, f"{name} must be a list" + f" of {1 + len(others)}" * (... not in others), repr(value))
        return tuple(_convert(item_hint, item, f"{name}[{index}]") for index, item in enumerate(value))
    if typing.get_origin(hint) is dict:
        require(isinstance(value, Mapping), f"{name} must be an object", repr(value))
        return dict(value)
    choices = typing.get_args(hint) or (hint,)
    records = [choice for choice in choices if is_dataclass(choice)]
    if records and isinstance(value, Mapping):
        return from_plain(max(records, key=lambda record: len({*value} & {field.name for field in fields(record)})),
                          value, name)
    if type(value) is int and float in choices:
        return float(value)
    require(type(value) in choices, f"{name} must be {' or '.join(map(_type_name, choices))}", repr(value))
    return value


def _type_name(choice: type) -> str:
    if choice is types.NoneType:
        return "null"
    return "an object" if is_dataclass(choice) else choice.__name__
