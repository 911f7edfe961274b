"""Makes the components beside the tests importable."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def shapes() -> None:
    """Here plugins are wrong on purpose, and the laws are to find it: nothing else is checked."""
