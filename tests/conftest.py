"""What all tests share: one hypothesis profile, and distributions made up on the spot."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from ffcore.plugins import installed

# One thread, in the tests' subprocesses too: on networks this small more gain nothing, and they
# stall each other on a busy machine. Set before torch is imported.
os.environ["OMP_NUM_THREADS"] = "1"

settings.register_profile(
    "ffcore",
    deadline=None,
    derandomize="CI" in os.environ,
    print_blob=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
settings.load_profile("ffcore")


@pytest.fixture(autouse=True, scope="session")
def state(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep the record of this user's runs out of the home of whoever tests."""
    os.environ["XDG_STATE_HOME"] = str(tmp_path_factory.mktemp("state"))


@pytest.fixture(autouse=True)
def shapes() -> Iterator[None]:
    """Check the shapes that the roles state, in every call; a folder of wrong plugins overrides."""
    from ffcore.testing.shapes import checked_shapes

    with checked_shapes():
        yield


Distribute = Callable[..., None]


@pytest.fixture
def distribute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Distribute]:
    """Put a distribution on the path: `distribute("d", {"d": "d_plugin"}, d_plugin="code")`."""

    def write(
        name: str, entries: dict[str, str], *, group: str = "ffcore.v1", **modules: str
    ) -> None:
        info = tmp_path / f"{name.replace('-', '_')}-1.2.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
        lines = [f"[{group}]", *(f"{entry} = {value}" for entry, value in entries.items())]
        (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
        for module, code in modules.items():
            (tmp_path / f"{module}.py").write_text(code)

    monkeypatch.syspath_prepend(tmp_path)
    installed.cache_clear()
    yield write
    installed.cache_clear()


@pytest.fixture
def only_fake_plugin(distribute: Distribute, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fake plugin is installed, and it is the only one that is active."""
    distribute("fake-dist", {"fake": "fake_plugin.plugin"})
    monkeypatch.setenv("FFCORE_DISABLE_PLUGINS", "ffcore")
