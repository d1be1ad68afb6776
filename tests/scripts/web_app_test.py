"""scripts/web_app.py without gradio; the page itself is tested in tests/web."""

import sys

import pytest

from scripts import web_app
from tests.helpers.workplace import fails


def test_without_gradio_the_command_that_installs_it_is_named(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    fails(capsys, lambda: web_app.main([]), message="pip install -r requirements-web.txt")


@pytest.mark.parametrize("flags", [
    ("--port", "70000"), ("--max_mib", "0"), ("--max_megapixels", "-1"), ("--device", "tpu"), ("--memory_gib", "0")])
def test_a_wrong_flag_is_one_line(capsys, flags):
    fails(capsys, lambda: web_app.main([*flags]), message=flags[0])
