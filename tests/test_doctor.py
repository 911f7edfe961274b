"""What is found out about a machine: known answers here, and that what is broken is seen."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ffcore import doctor as environment
from ffcore.doctor import Finding, examine
from ffcore.flow.derivative import Derivative

Distribute = Callable[..., None]


def found(topic: str, name: str) -> Finding:
    (finding,) = (each for each in examine() if (each.topic, each.name) == (topic, name))
    return finding


def failing() -> list[str]:
    return [f"{each.topic} {each.name}" for each in examine() if each.fails]


def test_nothing_that_a_run_needs_fails_here() -> None:
    assert failing() == []


def test_what_attention_can_do_is_tried_and_not_guessed() -> None:
    """On a CPU: the fused kernel has no forward mode, the math kernel has all, cuDNN is not."""
    if torch.cuda.is_available():
        pytest.skip("the answers are a CPU's")
    tried = {each.name: each for each in examine() if each.topic == "attention"}
    assert tried["flash"].found == "forward, backward"
    assert tried["math"].found == "forward, backward, forward mode"
    assert (tried["cuDNN"].state, tried["cuDNN"].found) == (
        "absent",
        "not available for float32 on cpu",
    )


class Upside(Derivative):
    """A derivative of the wrong sign."""

    def __call__(self, *inputs: Any, **options: Any) -> Tensor:
        return -super().__call__(*inputs, **options)


def test_a_derivative_that_is_wrong_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "Derivative", Upside)
    names = ("dual numbers", "jvp", "finite differences")
    assert failing() == [f"derivative {name}" for name in names]


def test_a_strangers_broken_plugin_is_told_and_stops_nothing(distribute: Distribute) -> None:
    distribute("odd-dist", {"odd": "odd_plugin"}, odd_plugin="raise OSError('no moon tonight')")
    plugin = found("plugins", "odd")
    assert plugin.state == "fails"
    assert plugin.found.startswith("broken: OSError: no moon tonight")
    assert plugin.advice == "from odd-dist 1.2; recipes that do not use it still work"
    assert "1 broken" in found("plugins", "all").found
    assert failing() == []


def test_a_compiler_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert found("compile", "C++ compiler").state == "works"
    monkeypatch.setenv("CXX", "no-such-compiler")
    compiler = found("compile", "C++ compiler")
    assert (compiler.state, compiler.found) == ("fails", "no-such-compiler is not installed")
    assert "g++" in compiler.advice


def test_a_compiler_that_fails_is_told_in_its_own_words(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    script = tmp_path / "cxx"
    script.write_text("#!/bin/sh\necho 'omp.h: No such file' >&2\nexit 1\n")
    script.chmod(0o755)
    monkeypatch.setenv("CXX", str(script))
    assert found("compile", "C++ compiler").found == "omp.h: No such file"


def test_a_library_that_is_not_there_is_told_with_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(
        environment.LIBRARIES, "wandb", ("no_such_module", "tracker wandb", "'ffcore[tracking]'")
    )
    library = found("libraries", "wandb")
    assert (library.state, library.advice) == ("absent", "pip install 'ffcore[tracking]'")
    assert not library.fails


def test_a_directory_that_cannot_be_written_to_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/proc")  # not even by root
    assert failing() == ["files this directory"]
    assert "--directory" in found("files", "this directory").advice


def test_a_directory_that_is_gone_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert failing() == ["files all"]


def test_nothing_is_left_behind(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    before = torch.random.get_rng_state(), torch.get_num_threads(), torch.is_grad_enabled()
    list(examine())
    after = torch.random.get_rng_state(), torch.get_num_threads(), torch.is_grad_enabled()
    assert list(tmp_path.iterdir()) == []
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]
    assert not torch.distributed.is_initialized()


@pytest.mark.slow
def test_thoroughly_a_function_is_compiled() -> None:
    compiled = [each for each in examine(thorough=True) if each.name == "torch.compile"]
    assert [each.state for each in compiled] == ["works"]
