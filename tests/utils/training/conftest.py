import pytest

from tests.helpers.tracing import untraced


@pytest.fixture(scope="package", autouse=True)
def eager():
    """Tracing takes longer than anything here."""
    with untraced():
        yield
