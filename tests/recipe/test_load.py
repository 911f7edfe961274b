import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
from fake_plugin import tables
from hypothesis import given
from hypothesis import strategies as st

from ffcore.plugins import Registry
from ffcore.recipe import Recipe, RecipeError, digest, load_recipe, provenance, to_toml
from ffcore.recipe.diagnostics import Problems
from ffcore.recipe.structure import make_converter

Load = Callable[..., Recipe]
Errors = Callable[..., list[str]]


def test_a_small_recipe_is_resolved_with_every_default(load: Load) -> None:
    recipe = load()
    assert recipe.teacher == tables.Point()
    assert recipe.student == tables.Line(depth=2)
    assert recipe.corrector is None
    assert recipe.balancer == tables.Adaptive()
    assert recipe.evaluation.features == (tables.Raw(),)
    assert (recipe.training.steps, recipe.training.batch) == (10, 256)


def test_all_errors_are_told_at_once_each_with_file_line_and_table(errors: Errors) -> None:
    text = """\
[teacher]
type = "point"
dim = 0
means = [[1.0], [true]]
[student]
type = "line"
dpeth = 2
[predictor]
type = "identity"
backend = "jpv"
delta = { low = 0.9, high = 0.1 }
[optimzer]
[[evaluation.features]]
layer = 1
[training]
clip = "yes"
"""
    assert errors(text, "balancer.alpha=-1") == [
        "x.toml:12: unknown key 'optimzer'; did you mean 'optimizer'? (keys: conditions, teacher, "
        "student, predictor, corrector, data, balancer, decoder, guidance, optimizer, training, "
        "parallel, evaluation, trackers)",
        "x.toml:3: [teacher] dim: must be at least 1, found 0",
        "x.toml:4: [teacher] means[1][0]: must be a finite number, found true",
        "x.toml:7: [student] unknown key 'dpeth'; did you mean 'depth'? "
        "(keys: width, depth, law, bias)",
        "x.toml:11: [predictor] delta: low 0.9 is not below high 0.1",
        "x.toml:10: [predictor] backend: must be 'jvp' or 'finite-difference', found 'jpv'; "
        "did you mean 'jvp'?",
        "--set balancer.alpha=-1: [balancer] alpha: must be above 0, found -1.0",
        "x.toml:16: [training] clip: must be a finite number or 'none', found 'yes'",
        "x.toml:13: [evaluation.features[0]] missing key 'type' (possible: deep, raw)",
    ]


@given(
    table=st.sampled_from(["", "teacher.", "student.", "predictor.delta.", "guidance."]),
    name=st.text("abcdefghij_", min_size=1, max_size=12).filter(
        lambda n: n not in {"bias", "dim", "high"}
    ),
    value=st.sampled_from(["1", "true", '"x"', "{}", "[]"]),
)
def test_an_unknown_key_anywhere_is_exactly_one_error_that_names_it(
    errors: Errors, table: str, name: str, value: str, text: str
) -> None:
    (message,) = errors(text, f"{table}{name}={value}")
    assert f"unknown key {name!r}" in message


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("student.type=lin", "[student] unknown student 'lin'; did you mean 'line'?"),
        ("student.type=3", "[student] type: must be a string, found 3"),
        ("student=3", "student: must be a table, found 3"),
        ("student=none", "student: must be a table, found 'none'"),
        ("predictor=none", "a recipe needs [predictor], [corrector] or both, found neither"),
        ("student.law.low=2", "[student.law] low: must be at least 0 and at most 1, found 2.0"),
        ("student.law=0.5", "[student] law: must be a table or 'none', found 0.5"),
        ("guidance.interval=[0.9, 0.1]", "interval: must be (low, high) with low at most high"),
        ("guidance.interval=[0.1]", "interval: must be an array of 2, found an array of 1"),
        ("guidance.interval=x", "interval: must be an array, found 'x'"),
        ("guidance.channels=0", "channels: must be at least 1, found 0"),
        ("guidance.channels=al", "channels: must be 'all' or an integer, found 'al'"),
        ("training.ema_decay=1.0", "ema_decay: must be at least 0 and below 1, found 1.0"),
        ("training.steps=3.0", "steps: must be an integer or 'none', found 3.0"),
        ("training.steps=1979-05-27", "steps: must be an integer or 'none', found datetime.date"),
        ("training.clip=inf", "clip: must be a finite number or 'none', found inf"),
        ("evaluation.euler=[1, 0]", "euler: must be at least 1, found 0"),
        ("evaluation.features={}", "features: must be an array, found a table"),
        ("extends='y.toml'", "unknown key 'extends'"),
        ("steps", "--set steps: expected KEY=VALUE, as in training.steps=100"),
    ],
)
def test_an_impossible_value_is_one_message(
    errors: Errors, override: str, message: str, text: str
) -> None:
    (line,) = errors(text, override)
    assert message in line
    assert line.startswith(("--set " + override, "x.toml: "))


EXACT: dict[type, str] = {int: "integer", str: "string", bool: "true or false"}


@given(st.integers() | st.floats() | st.booleans() | st.text(max_size=5))
def test_a_scalar_is_accepted_exactly_if_its_type_is_the_declared_one(
    registry: Registry, value: object
) -> None:
    converter = make_converter(registry)
    for kind, words in EXACT.items():
        if type(value) is kind:
            assert converter.structure(value, kind) is value
        else:
            with pytest.raises(Problems, match=words):
                converter.structure(value, kind)


@given(st.integers() | st.floats() | st.booleans() | st.text(max_size=5))
def test_a_number_is_an_integer_or_a_finite_float(registry: Registry, value: Any) -> None:
    converter = make_converter(registry)
    if type(value) in (int, float) and abs(value) < 1e300:
        number = converter.structure(value, float)
        assert type(number) is float
        assert number == pytest.approx(value)
    elif type(value) is not float or abs(value) == float("inf") or value != value:
        with pytest.raises(Problems, match="finite number"):
            converter.structure(value, float)


def test_an_integer_beyond_all_floats_is_no_number(registry: Registry) -> None:
    with pytest.raises(Problems, match="finite number"):
        make_converter(registry).structure(10**400, float)


def test_a_type_that_recipes_cannot_hold_is_the_plugins_fault(registry: Registry) -> None:
    with pytest.raises(Problems) as caught:
        make_converter(registry).structure({}, dict[str, int])
    assert caught.value.problems[0].about == "plugin"


def test_errors_say_whether_the_recipe_or_a_plugin_is_to_blame(load: Load, text: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load(text, "student.type=lin", "training.steps=0")
    blame = {diagnostic.key: diagnostic.about for diagnostic in caught.value.diagnostics}
    assert blame == {"student.type": "plugin", "training.steps": "recipe"}


def test_needs_that_nobody_offers_are_an_error_naming_both_sides(errors: Errors, text: str) -> None:
    assert errors(text + '[corrector]\ntype = "online"\n', "teacher.dim=1") == [
        "x.toml:13: corrector 'online' needs 'trainable copy', but teacher 'point' offers nothing; "
        "student 'line' offers nothing. Use corrector.network of type 'small'"
    ]


def test_needs_may_depend_on_the_keys_of_the_table(load: Load, text: str) -> None:
    corrector = '[corrector]\ntype = "online"\nnetwork.type = "small"\n'
    recipe = load(text + corrector, "teacher.dim=1")
    assert recipe.corrector == tables.Online(network=tables.Small())
    assert load(text + '[corrector]\ntype = "online"\n').corrector == tables.Online()


FIT = ("predictor={type='fit'}", "student={type='curve'}")
STORED, ANYWHERE = "data={type='stored', folder='x'}", "student.starts_at=anywhere"
FITS = {
    "data": "a [data] table of type 'made' or 'stored'",
    "student": "student.starts_at = 'anywhere'",
}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            FIT,
            "predictor 'fit' needs 'data', 'student starts anywhere', but teacher 'point' offers "
            "'trainable copy'; student 'curve' offers nothing. Use "
            f"{FITS['data']} and {FITS['student']}",
        ),
        (
            (*FIT, STORED),
            "predictor 'fit' needs 'student starts anywhere', but teacher 'point' offers "
            "'trainable copy'; student 'curve' offers nothing; data 'stored' offers 'data'. "
            f"Use {FITS['student']}",
        ),
        (
            (*FIT, ANYWHERE),
            "predictor 'fit' needs 'data', but teacher 'point' offers 'trainable copy'; student "
            f"'curve' offers 'student starts anywhere'. Use {FITS['data']}",
        ),
        (
            (FIT[0], STORED),  # a student that has no such key
            "predictor 'fit' needs 'student starts anywhere', but teacher 'point' offers "
            "'trainable copy'; student 'line' offers nothing; data 'stored' offers 'data'",
        ),
        (
            (STORED, "corrector={type='online'}"),
            "[data] 'data' is not needed by predictor 'identity' and corrector 'online': leave "
            "out data 'stored'",
        ),
        (("data={type='stored'}",), "[data] missing key 'folder': where"),
        ((*FIT, STORED, ANYWHERE), ""),
        ((STORED, "data=none"), ""),
    ],
)
def test_data_and_starts_are_there_where_they_are_needed_and_what_would_fit_is_told(
    errors: Errors, load: Load, overrides: tuple[str, ...], message: str, text: str
) -> None:
    if not message:
        assert (load(text, *overrides).data is None) == ("data=none" in overrides)
        return
    (line,) = errors(text, *overrides)
    assert line.endswith(message)


def test_a_recipe_extends_another_relative_to_its_own_file(load: Load, text: str) -> None:
    Path("shelf").mkdir()
    Path("shelf/base.toml").write_text(text)
    Path("shelf/middle.toml").write_text('extends = "base.toml"\nstudent.width = 3\n')
    recipe = load('extends = "shelf/middle.toml"\n[student]\ndepth = 5\n')
    assert recipe.student == tables.Line(width=3, depth=5)


def test_an_error_is_told_in_the_file_that_wrote_the_key(errors: Errors, load: Load) -> None:
    load()
    Path("base.toml").write_text(Path("x.toml").read_text() + "batch = 0\n")
    assert errors('extends = "base.toml"\n[training]\nsteps = 0\n') == [
        "x.toml:3: [training] steps: must be at least 1, found 0",
        "base.toml:13: [training] batch: must be at least 1, found 0",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('extends = "x.toml"', "x.toml: extends itself"),
        ('extends = "gone.toml"', "x.toml:1: extends 'gone.toml': no such file"),
        ("\nextends = 3", "x.toml:2: extends: must be a string, found 3"),
        ('extends = "."', ".: cannot be read: Is a directory"),
    ],
)
def test_a_base_that_cannot_be_had_is_one_message(errors: Errors, text: str, message: str) -> None:
    (line,) = errors(text)
    assert line.startswith(message)


def test_a_circle_of_recipes_is_an_error_that_shows_it(errors: Errors, load: Load) -> None:
    load()
    Path("y.toml").write_text('extends = "x.toml"')
    (line,) = errors('extends = "y.toml"')
    assert line.index("x.toml extends") < line.index("y.toml extends")


def test_a_changed_type_leaves_no_key_of_the_old_component(load: Load, text: str) -> None:
    recipe = load(text, "balancer.alpha=2", "balancer.type=even", "balancer.split=0.25")
    assert recipe.balancer == tables.Even(split=0.25)


def test_none_takes_an_inherited_table_or_value_away(load: Load, text: str) -> None:
    online = 'clip = 3\n[corrector]\ntype = "online"\n'
    recipe = load(text + online, "corrector=none", "training.clip=none")
    assert (recipe.corrector, recipe.training.clip) == (None, None)


OVERRIDES = st.lists(
    st.sampled_from(
        [
            "teacher.dim=5",
            "teacher.label=none",
            "teacher.label='b \\n\"c'",
            "teacher.means=[[1, 2], [0.5]]",
            "student.law={low=0.25}",
            "student.bias=false",
            "predictor.reach=3",
            "corrector={type='online', network={type='small', width=2}}",
            "balancer={type='even', split=1}",
            "evaluation.features=[{type='deep', layer=0}, {type='raw'}]",
            "evaluation.euler=[]",
            "training.clip=none",
            "training.ema_decay=0",
            "guidance={scale=1e-7, interval=[0, 0.7], channels=3}",
        ]
    )
)


@given(OVERRIDES)
def test_a_resolved_recipe_loads_again_as_an_equal_one(
    load: Load, registry: Registry, text: str, overrides: list[str]
) -> None:
    recipe = load(text, *overrides)
    resolved = to_toml(recipe, registry=registry)
    again = load(resolved)
    assert again == recipe
    assert to_toml(again, registry=registry) == resolved
    assert digest(again, registry=registry) == digest(recipe, registry=registry)


def test_a_resolved_recipe_spells_out_every_key(load: Load, registry: Registry) -> None:
    recipe = load()
    resolved = to_toml(recipe, registry=registry)
    for table in (recipe.teacher, recipe.student, recipe.training, recipe.evaluation):
        for field in attrs.fields(type(table)):
            assert re.search(rf"^{field.name} = |\.{field.name}\]$", resolved, re.MULTILINE)


def test_the_digest_sees_values_and_not_their_order_or_file(
    load: Load, registry: Registry, text: str
) -> None:
    plain = digest(load(text), registry=registry)
    reordered = "\n".join(reversed(text.split("\n\n"))) + "# a comment\n"
    assert reordered != text
    assert digest(load(reordered, "training.batch=256"), registry=registry) == plain
    assert digest(load(text, "training.seed=1"), registry=registry) != plain


def test_provenance_names_the_distribution_of_every_component(
    load: Load, registry: Registry, text: str
) -> None:
    recipe = load(text, "training.seed=7", "student={type='fake_plugin.tables:Even'}")
    found = json.loads(json.dumps(provenance(recipe, registry=registry)))
    assert found["seed"] == 7
    assert found["torch"].startswith("2.")
    origins = {c["role"]: (c["type"], c["distribution"], c["version"]) for c in found["components"]}
    assert origins["teacher"] == ("point", "fake-dist", "1.2")
    assert origins["student"] == ("fake_plugin.tables:Even", None, None)


def test_a_recipe_that_is_not_there_is_one_message(registry: Registry) -> None:
    with pytest.raises(RecipeError, match=r"gone\.toml: no such file"):
        load_recipe("gone.toml", registry=registry)


def test_a_nested_table_written_in_part_keeps_the_rest_of_its_keys_default() -> None:
    whole = load_recipe("mixture.toml").corrector.r
    assert (whole.distribution, whole.location, whole.scale) == ("logit-normal", 0.8, 1.0)
    part = load_recipe("mixture.toml", ["corrector.r.scale=2.0"]).corrector.r
    assert (part.distribution, part.location, part.scale) == ("logit-normal", 0.8, 2.0)
    with pytest.raises(RecipeError, match="unknown key 'scala'; did you mean 'scale'"):
        load_recipe("mixture.toml", ["corrector.r.scala=2.0"])


def test_a_guidance_interval_is_within_the_times_and_in_order() -> None:
    for interval, possible in {"[5.0, 6.0]": "at most 1", "[0.7, 0.2]": "low at most high"}.items():
        for table in ("guidance.interval", "corrector.guidance_interval"):
            with pytest.raises(RecipeError, match=possible):
                load_recipe("digits.toml", [f"{table}={interval}"])


UNIT = "{input_size=32, width=16, depth=1, heads=2, classes=5}"


@pytest.mark.parametrize(
    ("recipe", "override", "message"),
    [
        (
            "sit_xl_256.toml",
            "guidance.channels=9",
            "[guidance] channels: must be at most 4, the channels of the teacher's samples",
        ),
        (
            "gaussian.toml",
            "guidance.scale=2",
            "[guidance] scale: must be 1, since this teacher has",
        ),
        ("mixture.toml", "guidance.scale=2", ""),
        (
            "sit_xl_256.toml",
            "teacher={type='repa', sizes=" + UNIT[:-1] + ", null_label=false}}",
            "[guidance] range: must be 'none', since this teacher has no null",
        ),
        (
            "digits.toml",
            "corrector.guidance_interval=[0.3, 0.6]",
            "[corrector] guidance_interval: must be 'none', because the run is unguided",
        ),
        (
            "mixture.toml",
            "training.batch=1",
            "[balancer] correction: must be 0 or 1, because a training.batch of 1 cannot be split",
        ),
        ("gaussian.toml", "training.batch=1", ""),
        (
            "mixture.toml",
            "evaluation.features=[{type='raw'}, {type='raw'}]",
            "[evaluation] features: must be named once each",
        ),
        (
            "mixture.toml",
            "trackers=[{type='tensorboard'}, {type='wandb'}, {type='tensorboard'}]",
            "trackers: must be named once each",
        ),
        ("digits_guided.toml", "student={type='mlp'}", "[student] student mlp has no input for γ"),
        ("sit_xl_256.toml", "student={type='mlp'}", "[student] student mlp is for vectors"),
        (
            "sit_xl_256.toml",
            "corrector.online={type='mlp'}",
            "[corrector.online] network mlp is for vectors",
        ),
        (
            "sit_xl_256.toml",
            f"corrector.online={{type='sit', sizes={UNIT}}}",
            "[corrector.online] sizes.classes is 5, but the teacher has 1000",
        ),
        (
            "sit_xl_256.toml",
            f"student.sizes={UNIT}",
            "[student] sizes.classes is 5, but the teacher has 1000",
        ),
        ("sit_xl_256.toml", "student.model=B/2", ""),
        (
            "sit_xl_256.toml",
            "student.sizes={input_size=8, width=16, depth=1, heads=2}",
            "[student] sizes are for samples (4, 8, 8), but the teacher's are (4, 32, 32)",
        ),
        ("gaussian.toml", "decoder={type='sd-vae'}", "[decoder] sd-vae decodes latents, but the"),
        ("digits.toml", "guidance={scale=2, channels=9}", ""),  # the weights say how many there are
    ],
)
def test_what_contradicts_another_table_is_told_where_it_stands(
    recipe: str, override: str, message: str
) -> None:
    if not message:
        load_recipe(recipe, [override])
        return
    with pytest.raises(RecipeError) as caught:
        load_recipe(recipe, [override])
    assert message in str(caught.value)
    assert caught.value.diagnostics[0].key
    assert caught.value.about == "recipe"


def test_a_stranger_who_claims_a_default_breaks_no_recipe_that_names_none(
    distribute: Callable[..., None],
) -> None:
    hook = "from ffcore.plugins import Component, hookimpl\n@hookimpl\ndef ffcore_components():\n"
    yields = "    yield Component({!r}, {!r}, 'greedy:Table', 'mine')\n"
    claims = [("balancer", "adaptive"), ("decoder", "identity"), ("features", "raw")]
    code = hook + "".join(yields.format(*each) for each in claims)
    distribute("greedy-dist", {"greedy": "greedy"}, greedy=code)
    registry = Registry.load()
    recipe = load_recipe("gaussian.toml", registry=registry)
    assert registry.type_name("balancer", recipe.balancer) == "ffcore:adaptive"
    with pytest.raises(RecipeError, match="is provided by"):
        load_recipe("gaussian.toml", ["balancer.type=adaptive"], registry=registry)
