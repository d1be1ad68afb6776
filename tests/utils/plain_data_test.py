"""Dataclasses as JSON and back."""

import json
from dataclasses import asdict, dataclass

import pytest

from utils.errors import UserError, require
from utils.plain_data import from_plain


@dataclass(frozen=True)
class Circle:
    radius: float

    def __post_init__(self):
        require(self.radius > 0, "radius must be positive", self.radius)


@dataclass(frozen=True)
class Box:
    width: float
    height: float = 2.0


@dataclass(frozen=True)
class Drawing:
    name: str
    count: int
    filled: bool
    shape: Circle | Box | None
    sizes: tuple[int, ...] = ()


DRAWING = Drawing("a", 3, True, Circle(0.1 + 0.2))


@pytest.mark.parametrize("shape", [Circle(1 / 3), Box(2 / 3, 1e22), None])
def test_json_returns_exactly_what_it_got(shape):
    drawing = Drawing("\u00e4\n", -5, False, shape, (1, 2))
    assert from_plain(Drawing, json.loads(json.dumps(asdict(drawing))), "drawing") == drawing


def test_integers_serve_as_floats_and_missing_keys_take_their_defaults():
    assert from_plain(Box, {"width": 3}, "box") == Box(3.0, 2.0)
    assert type(from_plain(Box, {"width": 3}, "box").width) is float


@pytest.mark.parametrize(("changes", "names"), [
    ({"colour": 1}, ("drawing", "'colour'")), ({"shape": {"radius": 1.0, "colour": 1}}, ("drawing.shape", "'colour'")),
    ({"shape": {"height": 1.0}}, ("drawing.shape", "width")), ({"shape": 3}, ("drawing.shape", "null", "3")),
    ({"shape": {"radius": "1"}}, ("drawing.shape.radius", "'1'")),
    ({"shape": {"radius": -1.0}}, ("drawing.shape", "radius", "-1")),
    ({"shape": {"radius": float("nan")}}, ("drawing.shape", "radius")), ({"count": 1.5}, ("drawing.count", "1.5")),
    ({"count": True}, ("drawing.count", "True")), ({"filled": 1}, ("drawing.filled", "1")),
    ({"name": None}, ("drawing.name", "None")), ({"sizes": 3}, ("drawing.sizes", "3")),
    ({"sizes": [1, "2"]}, ("drawing.sizes[1]", "'2'"))])
def test_the_faulty_key_and_its_value_are_named(changes, names):
    with pytest.raises(UserError) as caught:
        from_plain(Drawing, {**asdict(DRAWING), **changes}, "drawing")
    assert all(name in str(caught.value) for name in names)


@pytest.mark.parametrize(("data", "name"), [(None, "None"), ([], r"\[\]"), ({"name": "a"}, "count, filled, shape")])
def test_what_is_no_object_or_lacks_keys_is_refused(data, name):
    with pytest.raises(UserError, match=name):
        from_plain(Drawing, data, "drawing")
