"""What tests of several commands begin with."""

import pytest

from ffcore.recipe import load_recipe
from ffcore.run.stages import run


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The directory of a finished run on digits."""
    place = tmp_path_factory.mktemp("runs") / "run"
    tiny = ["training.steps=2", "training.batch=8", "evaluation.enabled=false"]
    run(load_recipe("digits.toml", tiny), place)
    return str(place)
