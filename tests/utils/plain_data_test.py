"""Dataclasses as JSON and back."""

import json
from dataclasses import dataclass

import pytest

from utils.errors import UserError, require
from utils.plain_data import from_plain, to_plain


@dataclass(frozen=True)
class Circle:
    radius: float

    def __post_init__(self):
        require(self.radius > 0, "radius must be positive", self.radius)


@dataclass(frozen=True)
class Box:
    width: float
    height: float


@dataclass(frozen=True)
class Tube:
    width: float
    length: float = 2.0


@dataclass(frozen=True)
class Drawing:
    name: str
    count: int
    filled: bool
    shape: Circle | Box | None
    frame: Box


DRAWING = Drawing("a", 3, True, Circle(0.1 + 0.2), Box(1.0, 1e-300))


def read(**changes):
    return from_plain(Drawing, {**to_plain(DRAWING), **changes}, "drawing")


@pytest.mark.parametrize("shape", [Circle(1 / 3), Box(2 / 3, 1e22), None])
def test_json_gives_back_exactly_what_it_got(shape):
    drawing = Drawing("ä\n", -5, False, shape, Box(5e-324, 0.1))
    assert from_plain(Drawing, json.loads(json.dumps(to_plain(drawing))), "drawing") == drawing


def test_integers_serve_as_numbers():
    drawing = read(shape={"radius": 2})
    assert type(drawing.shape.radius) is float
    assert drawing.shape == Circle(2.0)


@pytest.mark.parametrize(("changes", "message"), [
    ({"colour": 1}, r"drawing has unknown keys; known are name, .*'colour'"),
    ({"shape": {"radius": 1.0, "colour": 1}}, r"drawing\.shape has unknown keys; known are radius.*'colour'"),
    ({"shape": {"width": 1.0}}, r"drawing\.shape lacks height"),
    ({"frame": {}}, r"drawing\.frame lacks width, height"),
    ({"frame": None}, r"drawing\.frame must be an object\. Received: None"),
    ({"shape": 3}, r"drawing\.shape must be an object or an object or null"),
    ({"shape": {"radius": "1"}}, r"drawing\.shape\.radius must be float\. Received: '1'"),
    ({"shape": {"radius": -1.0}}, r"drawing\.shape: radius must be positive\. Received: -1"),
    ({"shape": {"radius": float("nan")}}, r"drawing\.shape: radius must be positive"),
    ({"count": 1.5}, r"drawing\.count must be int"),
    ({"count": True}, r"drawing\.count must be int"),
    ({"filled": 1}, r"drawing\.filled must be bool"),
    ({"name": None}, r"drawing\.name must be str"),
])
def test_fault_is_named_with_its_place(changes, message):
    with pytest.raises(UserError, match=message):
        read(**changes)


@pytest.mark.parametrize("data", [None, [], "text", 3])
def test_what_is_no_object_is_refused(data):
    with pytest.raises(UserError, match="drawing must be an object"):
        from_plain(Drawing, data, "drawing")


def test_missing_key_is_named():
    data = to_plain(DRAWING)
    del data["filled"]
    with pytest.raises(UserError, match="drawing lacks filled"):
        from_plain(Drawing, data, "drawing")


def test_missing_key_that_has_a_default_takes_it():
    assert from_plain(Tube, {"width": 3.0}, "tube") == Tube(3.0, 2.0)
    assert from_plain(Tube, {"width": 3.0, "length": 1.0}, "tube") == Tube(3.0, 1.0)
