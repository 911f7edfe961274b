"""Checking distributions and classes: what is tried, and what is said of what cannot be."""

import importlib
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from broken import StudentWithAParameterToSpare
from healthy import HEALTHY, Flat, PullPredictor, Straight, Tutor, table
from safetensors.torch import save_file
from torch import Tensor

from ffcore.draws import Draws
from ffcore.interfaces import Batch, Context, Features, Networks, Student
from ffcore.keys import key
from ffcore.plugins import PluginError, Registry, without_third_parties
from ffcore.system.files import File
from ffcore.testing import (
    SETTINGS,
    ExpectationError,
    Result,
    check_class,
    check_distribution,
    check_tables,
)
from ffcore.testing.case import ANYWHERE, EXACT
from ffcore.testing.plugin_laws import PLUGIN_LAWS, of_plugin
from ffcore.testing.small import SmallStudent, features_of
from ffcore_data.tables import Latents
from ffcore_digits.tables import DigitsAsData
from ffcore_vae.tables import SdVae

Distribute = Callable[..., None]

LIGHT = """\
from ffcore.plugins import Component, hookimpl

@hookimpl
def ffcore_components():
    yield Component("features", "flat", "{tables}:Table", "{summary}")
"""
TABLES = """\
import attrs
{imports}

@attrs.frozen
class Table:
    "Samples as they are."
    {key}

    def build(self, context):
        from ffcore_exact.features import Raw
        {build}
"""


def tables(imports: str = "", key: str = "", build: str = "return Raw()") -> str:
    return TABLES.format(imports=imports, key=key, build=build)


def fails(results: list[Result]) -> dict[str, str]:
    return {each.name: each.found for each in results if each.fails}


def unchecked(results: list[Result]) -> set[str]:
    return {each.component for each in results if each.status == "not checked"} - {
        each.component for each in results if each.status != "not checked"
    }


def test_every_component_of_ours_keeps_every_law() -> None:
    told: list[str] = []
    results = check_distribution("ffcore", progress=told.append)
    assert fails(results) == {}
    # Their files are made below, and in the tests of ffcore_inception.
    assert unchecked(results) == {
        "conditions/named",
        "decoder/sd-vae",
        "data/latents",
        "features/dinov2",
        "features/inception",
    }
    assert {f"{each.component}".replace("/", " ") for each in results} == set(told)


def test_the_decoder_of_latents_keeps_every_law(tmp_path: Path) -> None:
    pytest.importorskip("diffusers", reason="diffusers is not installed: pip install 'ffcore[vae]'")
    from ffcore_vae.decoder import import_autoencoder

    with torch.random.fork_rng(devices=[]):
        autoencoder = import_autoencoder()(
            block_out_channels=(8,), norm_num_groups=4, latent_channels=4
        )
    autoencoder.save_pretrained(tmp_path)
    results = check_tables("decoder/sd-vae", "decoder", [SdVae(weights=str(tmp_path))])
    assert fails(results) == {}
    assert unchecked(results) == set()


def test_stored_latents_keep_every_law(tmp_path: Path) -> None:
    stored = {"latents": torch.randn(9, 4, 8, 8), "labels": torch.arange(9) % 3}
    save_file(stored, tmp_path / "a.safetensors")
    results = check_tables("data/latents", "data", [Latents(folder=str(tmp_path))])
    assert fails(results) == {}
    assert unchecked(results) == set()


# Plugins


def plugin(distribute: Distribute, name: str, tables: str, **change: str) -> list[Result]:
    """Install a distribution of one component and check it; module names are its own."""
    module = f"{name}_plugin"
    filled = {"tables": f"{name}_tables", "summary": "What it is"} | change
    code = {module: LIGHT.format(**filled), f"{name}_tables": tables}
    distribute(f"{name}-dist", {name: module}, **code)
    return check_distribution(f"{name}_Dist")


def test_a_sound_plugin_is_found_by_its_distribution_or_its_own_name(
    distribute: Distribute,
) -> None:
    results = plugin(distribute, "sound", tables())
    assert fails(results) == {}
    assert {each.law for each in results[:5]} == PLUGIN_LAWS.keys()
    assert [each.number for each in results[:5]] == [f"plugin {n}" for n in (1, 2, 3, 5, 4)]
    assert {each.component for each in results} == {"plugin/sound", "features/flat"}
    assert check_distribution("sound") == results


@pytest.mark.parametrize(
    ("name", "change", "law", "says"),
    [
        ("absent", {"plugin": "raise OSError('no')"}, "is-active", "broken: OSError: no"),
        ("heavy", {"imports": "import numpy"}, "is-light", "heavy_tables imports numpy"),
        ("gone", {"imports": "raise OSError('no')"}, "is-light", "OSError: no"),
        ("mute", {"summary": " "}, "is-summarised", "features flat"),
        ("keyed", {"key": "width: int"}, "is-buildable", "method `examples`"),
        (
            "none",
            {"key": "examples = classmethod(lambda table: [])"},
            "is-buildable",
            "yields nothing",
        ),
        (
            "picky",
            {"build": "raise ValueError('no')"},
            "is-buildable",
            "every setting is refused: .* no",
        ),
        ("wild", {"build": "raise KeyError('no')"}, "is-buildable", "raised KeyError"),
        (
            "needy",
            {"key": "needs = frozenset({'x'})"},
            "is-buildable",
            "not offer what the table needs",
        ),
    ],
)
def test_a_broken_plugin_breaks_its_law(
    distribute: Distribute, name: str, change: dict[str, str], law: str, says: str
) -> None:
    code = {part: change[part] for part in ("imports", "key", "build") if part in change}
    if "plugin" in change:
        distribute(f"{name}-dist", {name: f"{name}_plugin"}, **{f"{name}_plugin": change["plugin"]})
        results = check_distribution(f"{name}-dist")
    else:
        said = {"summary": change["summary"]} if "summary" in change else {}
        results = plugin(distribute, name, tables(**code), **said)
    found = {each.law: each.found for each in results if each.status == "broken"}
    assert law in found
    assert re.search(says, found[law]), found[law]
    assert found.keys() == ({law, "is-buildable"} if name == "gone" else {law})


def test_a_name_that_is_taken_is_a_broken_law_of_who_came_later(distribute: Distribute) -> None:
    code = {"greedy_plugin": LIGHT.format(tables="greedy_tables", summary="x")}
    code["greedy_plugin"] = code["greedy_plugin"].replace('"flat"', '"identity"')
    code["greedy_plugin"] = code["greedy_plugin"].replace('"features"', '"decoder"')
    distribute("greedy-dist", {"greedy": "greedy_plugin"}, **code, greedy_tables=tables())
    registry = Registry.load()

    def found(name: str) -> list[Result]:
        (plugin,) = [each for each in registry.plugins if each.name == name]
        return [each for each in of_plugin(plugin, "", registry) if each.fails]

    (broken,) = found("greedy")
    assert (broken.law, broken.number) == ("names-nothing-twice", "plugin 5")
    assert "plugin exact (ffcore " in broken.found
    assert "also has decoder 'identity'" in broken.found
    assert found("exact") == []


def test_what_is_disabled_is_not_called_broken(distribute: Distribute) -> None:
    with without_third_parties():
        distribute("shy-dist", {"shy": "shy_plugin"}, shy_plugin="raise OSError('no')")
        with pytest.raises(
            PluginError, match="cannot be checked because it is disabled: --no-plugins"
        ):
            check_distribution("shy-dist")


def test_a_class_that_is_no_table_is_not_called_a_teacher(
    module: Callable[[str, str], None],
) -> None:
    module("no_table", "class Bare:\n    pass\n")
    with pytest.raises(PluginError, match=r"^component type 'no_table:Bare' cannot be used"):
        check_class("no_table:Bare")


def test_an_objective_of_hidden_randomness_is_not_said_to_read_data() -> None:
    class Moody(PullPredictor):
        def gap(self, networks: Networks, batch: Batch, samples: Tensor) -> Tensor:
            return super().gap(networks, batch, samples) + torch.rand(())

    found = check_tables("x/y", "predictor", [table("predictor", Moody)], (EXACT,))
    status = {each.law: each.status for each in found}
    assert status["is-deterministic"] == "broken"
    assert status["is-data-free-unless-it-says"] == "not checked"


def test_an_unknown_distribution_is_told_with_those_that_are_there() -> None:
    with pytest.raises(PluginError, match=r"no plugin of 'nobody' .*distributions: .*ffcore"):
        check_distribution("nobody")


def test_expected_failures_reach_a_distribution(distribute: Distribute) -> None:
    expected = {"features/flat/explains-its-keys": "soon"}
    assert fails(plugin(distribute, "plain", tables(key="width: int = 1")))
    (excused,) = [
        each
        for each in check_distribution("plain-dist", expected=expected)
        if each.status == "broken as expected"
    ]
    assert excused.name in expected
    with pytest.raises(ExpectationError, match="features/flat/no-such-law"):
        check_distribution("plain-dist", expected={"features/flat/no-such-law": "why"})


def test_a_student_is_tried_with_the_teachers_that_offer_what_it_needs() -> None:
    results = check_distribution("sit")
    assert {each.component for each in results} == {
        "plugin/sit",
        "teacher/sit",
        "student/sit",
        "network/sit",
    }
    assert unchecked(results) == set()


# Classes


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Write a module down, importable under a name of its own."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(name: str, code: str) -> None:
        (tmp_path / f"{name}.py").write_text(code)
        importlib.invalidate_caches()

    return write


def test_a_class_is_checked_without_a_plugin(module: Callable[[str, str], None]) -> None:
    module("plain_class", tables())
    results = check_class("plain_class:Table")
    assert fails(results) == {}
    assert {each.component for each in results} == {"features/Table"}
    assert check_class("plain_class:Table", "features") == results


def test_the_wrong_role_is_told(module: Callable[[str, str], None]) -> None:
    module("other_class", tables())
    found = fails(check_class("other_class:Table", "decoder"))
    assert "Raw, not a Decoder" in found["decoder/Table/is-of-its-role"]


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("ffcore_mlp.tables:MlpStudent", "student"),
        ("ffcore_mlp.tables:MlpNetwork", "network"),
        ("ffcore_exact.tables:GaussianTeacher", "teacher"),
        ("ffcore_exact.tables:Identity", "decoder"),
        ("conditioned:Poses", "conditions"),
        ("ffcore_freeflow.tables:FreeFlow", "predictor"),
        ("ffcore_freeflow.tables:Adaptive", "balancer"),
    ],
)
def test_what_a_class_builds_says_its_role(
    name: str, role: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(
        "ffcore.testing.check.check_tables",
        lambda label, role, tables, settings: asked.append(role) or [],
    )
    check_class(name)
    assert asked == [role]


def test_a_teacher_that_needs_conditions_is_checked_with_those_that_are_named() -> None:
    (found,) = fails(check_class("conditioned:Needy", "teacher")).values()
    assert "the table needs conditions: name a table of them, as in --conditions" in found
    results = check_class("conditioned:Needy", conditions="conditioned:Poses")
    assert fails(results) == {}
    assert {each.component for each in results} == {"teacher/Needy"}
    (found,) = fails(check_class("conditioned:Boaster", conditions="conditioned:Poses")).values()
    assert "needs conditions, but the teacher brings its own" in found


PLUGIN_OF_CONDITIONS = """
from ffcore.plugins import Component, hookimpl

@hookimpl
def ffcore_components():
    yield Component("conditions", "poses", "conditioned:Poses", "Three vectors")
    yield Component("teacher", "posed", "conditioned:Needy", "A teacher of vectors")
    yield Component("student", "posed", "conditioned:Small", "A student of anything")
"""


def test_a_plugin_checks_its_teacher_with_its_conditions_and_its_student_with_both(
    distribute: Distribute,
) -> None:
    distribute("posed-dist", {"posed": "posed_plugin"}, posed_plugin=PLUGIN_OF_CONDITIONS)
    results = check_distribution("posed-dist")
    assert fails(results).keys() == {"plugin/posed/is-light"}  # conditioned.py imports torch
    holds = {each.component for each in results if each.status == "holds"}
    assert holds == {"plugin/posed", "conditions/poses", "teacher/posed", "student/posed"}


def test_a_role_that_cannot_be_told_is_asked_for(module: Callable[[str, str], None]) -> None:
    module("nameless_class", tables(build="return object()"))
    with pytest.raises(ValueError, match=r"cannot tell its role .*possible: teacher, student"):
        check_class("nameless_class:Table")


def test_an_unknown_class_is_a_plugin_error() -> None:
    with pytest.raises(PluginError, match="NoSuchTable"):
        check_class("ffcore_mlp.tables:NoSuchTable", "student")


def test_a_class_that_needs_examples_says_so(module: Callable[[str, str], None]) -> None:
    module("keyed_class", tables(key="width: int"))
    (found,) = fails(check_class("keyed_class:Table")).values()
    assert "cannot be made from defaults alone" in found


# Tables and cases


def test_two_plugins_of_a_distribution_are_told_apart(distribute: Distribute) -> None:
    code = {
        f"{name}_plugin": LIGHT.format(tables=f"{name}_tables", summary="x").replace("flat", name)
        for name in ("slim", "fat")
    }
    code |= {"slim_tables": tables(), "fat_tables": tables(imports="import numpy")}
    distribute("pair-dist", {"slim": "slim_plugin", "fat": "fat_plugin"}, **code)
    found = fails(check_distribution("pair-dist"))
    assert found == {"plugin/fat/is-light": "fat_tables imports numpy"}


def test_a_teacher_that_cannot_be_built_is_its_own_fault_alone(distribute: Distribute) -> None:
    code = LIGHT.format(tables="split_tables", summary="x")
    code += '    yield Component("teacher", "lost", "split_tables:Table", "x")\n'
    code += '    yield Component("student", "plain", "ffcore_mlp.tables:MlpStudent", "x")\n'
    built = "if context.teacher is None: raise OSError('lost')\n        return Raw()"
    distribute(
        "split-dist", {"split": "split_plugin"}, split_plugin=code, split_tables=tables(build=built)
    )
    found = fails(check_distribution("split-dist"))
    assert found == {"teacher/lost/is-buildable": "raised OSError: lost, at split_tables.py:11"}


def test_what_lacks_its_file_is_not_asked_and_says_which(tmp_path: Path) -> None:
    missing = str(tmp_path / "nowhere.safetensors")
    lacking = table("features", Flat, files=(File(missing, "x", "weights"),))
    results = check_tables("features/x", "features", [lacking])
    assert {each.status for each in results} == {"not checked"}
    assert all(missing in each.found for each in results)
    present = table("features", Flat)
    assert {each.status for each in check_tables("x/y", "features", [lacking, present])} == {
        "holds",
        "not checked",
    }


@attrs.frozen
class Sometimes:
    """A student that is broken at one width, and refuses another."""

    width: int = key(1, help="a number")
    offers = frozenset({ANYWHERE})

    def build(self, context: Context) -> Student:
        assert context.teacher is not None
        if len(context.teacher.sample_shape) == self.width:
            raise ValueError("no")
        kind = StudentWithAParameterToSpare if self.width == 2 else SmallStudent
        source, classes = context.teacher.conditions, context.classes
        count = features_of(source.draw(Draws(0, 0, 0, 1))).shape[1]
        labels = 0 if classes is None else classes + 1
        return kind(context.teacher.sample_shape, labels, features=count)


def test_a_fault_says_in_which_setting_and_of_which_example() -> None:
    results = check_tables("student/x", "student", [Sometimes(width=1), Sometimes(width=2)])
    (found,) = fails(results).values()
    assert found.endswith("(setting: exact vectors, example: Sometimes(width=2))")
    results = check_tables("student/x", "student", [Sometimes(width=1)])
    assert fails(results) == {}


def test_a_refusal_in_some_settings_is_none_and_in_all_is_told() -> None:
    refusing = [each for each in SETTINGS if len(each.teacher().sample_shape) == 1]
    (found,) = fails(check_tables("student/x", "student", [Sometimes()], refusing)).values()
    line = r"no \(at .*test_check.py:\d+\)"
    assert re.match(
        f"every setting is refused: exact vectors: {line}; exact vectors with a copy: {line}", found
    )


def test_a_decoder_may_refuse_samples_and_not_every_one() -> None:
    class Latents(Straight):
        def forward(self, samples: Tensor) -> Tensor:
            if samples.ndim != 4 or samples.shape[1] != 4:
                raise ValueError(f"no latents: {tuple(samples.shape)}")
            return samples[:, :3]

    assert fails(check_tables("decoder/x", "decoder", [table("decoder", Latents)])) == {}
    found = fails(check_tables("decoder/x", "decoder", [table("decoder", Latents)], [EXACT]))
    assert "no latents: (6, 2)" in found["decoder/x/is-buildable"]


def test_what_one_component_does_to_the_process_is_not_found_in_the_next() -> None:
    class Rude(Flat):
        def forward(self, samples: Tensor) -> Tensor:
            torch.set_default_dtype(torch.float64)
            torch.set_grad_enabled(False)
            torch.manual_seed(0)
            return super().forward(samples)

    before = torch.get_rng_state()
    assert fails(check_tables("features/rude", "features", [table("features", Rude)]))
    assert torch.get_default_dtype() == torch.float32
    assert torch.is_grad_enabled()
    assert torch.equal(torch.get_rng_state(), before)
    assert fails(check_tables("features/flat", "features", [table("features", Flat)])) == {}


def test_a_law_without_anything_to_ask_says_why() -> None:
    results = check_tables("student/x", "student", [HEALTHY["student"]])
    assert {each.status for each in results} == {"holds"}
    black = table("teacher", BlackTutor, offers=frozenset())
    found = {e.law: e.found for e in check_tables("x/y", "teacher", [black]) if e.found}
    assert found == {
        "copies-itself-to-train": "it cannot be copied",
        "gives-its-copy-an-input-for-guidance": "it cannot be copied",
        "keeps-what-its-table-says": "its table has neither sample_shape nor guidable",
        "points-from-noise-to-data": found["points-from-noise-to-data"],
    }
    assert found["points-from-noise-to-data"].endswith("it seems untrained")


class BlackTutor(Tutor):
    def trainable_copy(self, *, takes_guidance: bool = False) -> Any:
        del takes_guidance


def test_ctrl_c_is_no_fault_of_a_component() -> None:
    class Stopped(Features):
        name = "stopped"

        def forward(self, samples: Tensor) -> Tensor:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        check_tables("features/x", "features", [table("features", Stopped)])


# The room


def test_the_kit_is_imported_without_torch_pytest_or_hypothesis() -> None:
    code = (
        "import sys, ffcore.testing as kit\n"
        "assert set(kit.__all__) == set(kit._HOMES)\n"
        "print(sorted({'torch', 'numpy', 'pytest', 'hypothesis'} & set(sys.modules)))\n"
        "kit.check_distribution\n"
        "print(sorted({'pytest', 'hypothesis'} & set(sys.modules)))\n"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n[]\n"


def test_every_name_of_the_kit_is_there_and_no_other() -> None:
    import ffcore.testing as kit

    assert all(getattr(kit, name) is not None for name in kit.__all__)
    with pytest.raises(AttributeError, match="no_such"):
        kit.no_such  # noqa: B018


@pytest.mark.parametrize("group", ["pytest11", "hypothesis"])
def test_nobodys_test_run_imports_ffcore_for_having_it_installed(group: str) -> None:
    found = importlib.metadata.entry_points(group=group)
    assert [each for each in found if each.value.startswith("ffcore")] == []


def test_without_its_extra_a_component_is_not_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    results = check_tables("data/digits", "data", [*DigitsAsData.examples()])
    assert {each.status for each in results} == {"not checked"}
    assert all("pip install 'ffcore[digits]'" in each.found for each in results)
