"""The documents say what the program does: their code runs, their tables and links are right."""

import importlib.util
import re
import runpy
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from click.testing import CliRunner, Result

from ffcore import Condition, generate, interfaces, load_recipe
from ffcore.cli import main
from ffcore.cli.commands import COMMANDS
from ffcore.export import EXPORT_FILES, export
from ffcore.keys import component, key, kind_of, role_of
from ffcore.plugins import ROLES, Component, Registry
from ffcore.recipe import Recipe
from ffcore.run.directory import FILES
from ffcore.run.stages import run
from ffcore.search.store import EXAMPLES, PLOT, RESULT
from ffcore.system.shards import USUAL
from ffcore.testing.case import KINDS

Distribute = Callable[..., None]

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "plugins" / "README.md"]
)
README, IN_PYTHON = ROOT / "README.md", ROOT / "docs" / "python.md"
PLUGIN_GUIDE, SAMPLE_GUIDE = ROOT / "docs" / "write-a-plugin.md", ROOT / "docs" / "sample.md"


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@attrs.frozen
class Block:
    """A fenced block of a document."""

    language: str
    title: str
    text: str


def blocks(document: Path, language: str = "") -> list[Block]:
    fence = re.compile(r'^ *```(\w*)(?: title="([^"]*)")?\n(.*?)^ *```$', re.MULTILINE | re.DOTALL)
    found = [Block(*groups) for groups in fence.findall(document.read_text())]
    return [block for block in found if language in ("", block.language)]


def prose(text: str) -> str:
    """Return a document without its fenced blocks."""
    return re.sub(r"^ *```.*?^ *```$", "", text, flags=re.MULTILINE | re.DOTALL)


def commands(document: Path) -> list[str]:
    lines = (line for block in blocks(document, "sh") for line in block.text.splitlines())
    return [line.partition("  #")[0].strip() for line in lines if line.strip()]


def ffd(command: str) -> Result:
    return CliRunner().invoke(main, shlex.split(command)[1:], prog_name="ffd")


# The README


def test_the_readme_has_at_most_600_words() -> None:
    assert len(README.read_text().split()) <= 600


def test_the_readmes_recipe_is_valid_and_short(tmp_path: Path) -> None:
    (block,) = blocks(README, "toml")
    (tmp_path / "recipe.toml").write_text(block.text)
    recipe = load_recipe(tmp_path / "recipe.toml")
    assert recipe.predictor is not None
    assert recipe.corrector is not None
    assert len(block.text.splitlines()) <= 25


PROJECT = """
import torch

class Network(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(3, 2)

    def forward(self, x, time):
        return self.layer(torch.cat([x, time[:, None]], 1))
"""


def test_the_readmes_own_teacher_is_distilled_by_its_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (block,) = blocks(README, "python")
    (tmp_path / block.title).write_text(block.text)
    (tmp_path / "my_project.py").write_text(PROJECT)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    names: dict[str, Any] = {}
    exec(PROJECT, names)
    torch.save(names["Network"]().state_dict(), "mine.pt")
    (recipe,) = blocks(README, "toml")
    teacher = tomllib.loads(recipe.text)["teacher"]
    text = recipe.text.replace(teacher["type"], "mine:Mine", 1).replace(
        'type = "sit"', 'type = "mlp"'
    )
    lines = [line for line in text.splitlines() if not line.startswith("weights")]
    (tmp_path / "recipe.toml").write_text("\n".join(lines))
    found = ffd("ffd run recipe.toml --set training.steps=2 --set evaluation.enabled=false")
    assert found.exit_code == 0, found.output
    assert Path("runs/recipe/student.safetensors").exists()
    for name in ("mine", "my_project"):
        del sys.modules[name]


# In Python


@pytest.fixture(scope="module")
def in_python(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The names that the page's Python leaves behind, beside the export that it reads.

    Those of the guide to sampling, which reads the same export, are in "sample guide".
    """
    folder, names, sampling = tmp_path_factory.mktemp("python"), dict[str, Any](), dict[str, Any]()
    short = ["training.steps=2", "evaluation.enabled=false"]
    run(load_recipe("digits.toml", short), folder / "run")
    export(folder / "run", folder / "digits-one-step")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        _execute(IN_PYTHON, names)
        _execute(SAMPLE_GUIDE, sampling)
    return names | {"sample guide": sampling}


def _execute(document: Path, names: dict[str, Any]) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for block in blocks(document, "python"):
            exec(compile(block.text, document.name, "exec"), names)


def _error(student: Any) -> float:
    """How far one step of `student` is from the exact map z ↦ μ + s z of the page's teacher."""
    z = torch.randn(1000, 2, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found = generate(student, z, Condition(size=1000))
    return float((found - (torch.tensor([1.0, -2.0]) + 0.5 * z)).square().mean().sqrt())


def test_the_pages_function_is_distilled_to_its_exact_flow_map(in_python: dict[str, Any]) -> None:
    assert _error(in_python["distillation"].ema) < 0.1
    assert in_python["samples"].shape == (1000, 2)


def test_the_pages_own_loop_learns_the_exact_flow_map(in_python: dict[str, Any]) -> None:
    assert _error(in_python["student"]) < 0.2


def test_the_pages_export_gives_images(in_python: dict[str, Any]) -> None:
    assert in_python["images"].shape == (16, 1, 8, 8)
    assert in_python["images"].abs().max() <= 1


def test_the_sample_guides_python_samples_student_and_teacher(in_python: dict[str, Any]) -> None:
    found = in_python["sample guide"]
    assert found["images"].equal(in_python["images"])
    assert found["sevens"].shape == (4, 1, 8, 8)
    assert found["same_noise"].shape == found["images"].shape


def test_an_untrained_student_is_far_from_that_map(in_python: dict[str, Any]) -> None:
    assert _error(type(in_python["student"])(dimension=2, classes=0, width=64, depth=2)) > 1


def _own_components() -> list[tuple[str, Component]]:
    return [
        (plugin.name, component)
        for plugin in Registry.load().plugins
        if plugin.distribution == "ffcore"
        for component in plugin.components
    ]


def test_the_list_of_the_shelf_is_whole() -> None:
    listed = re.findall(r"^- `(\w+)`: ", (ROOT / "plugins" / "README.md").read_text(), re.MULTILINE)
    assert listed == sorted(path.parent.name for path in (ROOT / "plugins").glob("*/plugin.py"))


# Writing a plugin


@pytest.fixture
def guide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """The titled blocks of the guide, by title; written down and importable."""
    titled = {block.title: block.text for block in blocks(PLUGIN_GUIDE) if block.title}
    for title, text in titled.items():
        (tmp_path / title).parent.mkdir(exist_ok=True)
        (tmp_path / title).write_text(text)
    (tmp_path / "ffcore_coin" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    with torch.random.fork_rng(devices=[]):
        yield titled
    for name in [name for name in sys.modules if name.split(".")[0] == "ffcore_coin"]:
        del sys.modules[name]


def test_the_guides_pieces_are_as_short_as_it_says(guide: dict[str, str]) -> None:
    def lines(title: str) -> int:
        code = guide[title].partition("class ")[2].splitlines()
        return sum(bool(line.strip()) for line in code)

    assert lines("ffcore_coin/teacher.py") <= 20
    assert lines("ffcore_coin/objective.py") <= 30


def test_the_guides_teacher_passes_its_check(guide: dict[str, str]) -> None:
    runpy.run_path("check.py")


@pytest.mark.parametrize("wrong", ["sign", "time", "no velocity"])
def test_the_guides_check_catches_a_wrong_teacher(
    guide: dict[str, str], monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    from ffcore_coin.teacher import Coin

    right = Coin.forward

    def forward(self: Any, x_t: torch.Tensor, t: torch.Tensor, condition: Any) -> torch.Tensor:
        if wrong == "sign":
            return -right(self, x_t, t, condition)
        if wrong == "time":
            return right(self, x_t, 1 - t, condition)
        return x_t

    monkeypatch.setattr(Coin, "forward", forward)
    with pytest.raises(AssertionError):
        runpy.run_path("check.py")


def test_the_guides_loop_comes_closer_to_the_teacher_than_one_euler_step(
    guide: dict[str, str],
) -> None:
    names = runpy.run_path("loop.py")
    z, condition, exact = names["z"], names["condition"], names["exact"]
    euler = z + names["teacher"](z, torch.ones(len(z)), condition)
    assert (names["one_step"] - exact).norm() < 0.5 * (euler - exact).norm()
    assert (names["one_step"].std(0) / exact.std(0) - 1).abs().max() < 0.2


def test_the_guides_corrector_alone_brings_the_spread_to_the_teachers(
    guide: dict[str, str],
) -> None:
    code = guide["loop.py"].replace("    predictor=FreeFlowPredictor(),\n", "")
    names: dict[str, Any] = {}
    exec(code, names)
    assert list(names["distillation"].objectives) == ["correction"]
    assert (names["one_step"].std(0) / names["exact"].std(0) - 1).abs().max() < 0.25


def test_the_guides_recipe_runs_without_anything_installed(guide: dict[str, str]) -> None:
    validate, run = commands(PLUGIN_GUIDE)[:2]
    found = ffd(validate)
    assert found.exit_code == 0, found.output
    found = ffd(run)
    assert found.exit_code == 0, found.output
    assert Path("runs/coin/evaluation.json").exists()


def test_the_guides_corrector_refuses_a_teacher_with_conditions(guide: dict[str, str]) -> None:
    changes = "--set teacher.type=mixture --set 'teacher.means=[[1.0, 0.0]]'"
    found = ffd(f"ffd validate coin.toml {changes}")
    assert found.exit_code == 2
    assert "needs 'no conditions'" in found.output


def test_the_guides_plugin_is_active_and_its_names_can_be_used(
    guide: dict[str, str], distribute: Distribute
) -> None:
    project = tomllib.loads(guide["pyproject.toml"])["project"]
    distribute(project["name"], project["entry-points"]["ffcore.v1"])
    listing, validate, check = commands(PLUGIN_GUIDE)[2:]
    found = ffd(listing)
    for line in (r"corrector +kernel +coin +\S", r"teacher +coin +coin +\S"):
        assert re.search(line, found.output)
    assert re.search(r"coin +ffcore-coin \S+ +active", found.output)
    found = ffd(validate)
    assert found.exit_code == 0, found.output
    assert "teacher coin" in found.output
    assert "corrector kernel" in found.output
    found = ffd(check)
    assert found.exit_code == 0, found.output


def test_the_guides_light_files_import_no_torch(guide: dict[str, str]) -> None:
    code = "import ffcore_coin.plugin, ffcore_coin.tables, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


# Recipes


def _generator(name: str = "generate_recipes") -> Any:
    spec = importlib.util.spec_from_file_location("g", ROOT / "docs" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_list_of_keys_is_what_the_code_says() -> None:
    generator = _generator()
    written = generator.PATH.read_text()
    assert written == generator.document(), "run: python docs/generate_recipes.py"


def undocumented(table: type) -> list[str]:
    """The keys without help, of a table and of the tables in it."""
    missing = []
    for field in attrs.fields(attrs.resolve_types(table)):
        if not field.metadata.get("help", "").strip():
            missing.append(f"{table.__name__}.{field.name}")
        if role_of(kind_of(field)) is None:
            for inner in _generator()._tables_in(kind_of(field)):
                missing += undocumented(inner)
    return missing


def test_every_key_of_every_table_has_help() -> None:
    registry = Registry.load()
    tables = [registry.table(each.role, each.name) for _, each in _own_components()]
    assert [name for table in [Recipe, *tables] for name in undocumented(table)] == []


def test_a_key_without_help_would_be_seen() -> None:
    @attrs.frozen(kw_only=True)
    class Inner:
        a: int = 1

    @attrs.frozen(kw_only=True)
    class Outer:
        inner: Any = attrs.field(default=None, metadata={"help": "", "kind": Inner | None})
        told: int = key(1, help="told")
        part: Any = component("teacher", None, help="a part")

    assert undocumented(Outer) == ["Outer.inner", "Inner.a"]


def test_every_role_and_every_component_says_what_it_is() -> None:
    assert all(meaning.strip() for meaning in ROLES.values())
    assert [each.name for _, each in _own_components() if not each.summary.strip()] == []


def test_every_recipe_says_first_what_it_reaches_and_what_it_costs() -> None:
    for path in (ROOT / "recipes").glob("*.toml"):
        first = path.read_text().partition("\n\n")[0]
        assert "# Reaches: " in first, path.name
        assert "# Costs: " in first, path.name


def test_every_class_of_the_interfaces_is_a_roles_or_a_value() -> None:
    there = {
        each
        for name, each in vars(interfaces).items()
        if isinstance(each, type) and each.__module__ == interfaces.__name__ and name[0] != "_"
    }
    documented = {*_generator("generate_roles").VALUES, *KINDS.values()}
    assert there - documented == set()


def test_the_pages_of_the_roles_are_what_the_code_says() -> None:
    generator = _generator("generate_roles")
    written = {path.name: path.read_text() for path in generator.FOLDER.glob("*")}
    assert written == generator.documents(), "run: python docs/generate_roles.py"


# Architecture


def test_the_floor_plan_in_the_picture_is_the_one_that_is_held() -> None:
    floors = runpy.run_path(str(ROOT / "tests" / "test_floor_plan.py"))["FLOORS"]
    built = {path.stem for path in (ROOT / "ffcore").iterdir()}
    held = [rooms & built - {"__main__"} for rooms in floors]
    picture = next(
        block.text
        for block in blocks(ROOT / "docs" / "architecture.md")
        if block.text.startswith("cli")
    )
    drawn = [set(line.partition("  ")[0].split()) for line in picture.splitlines()]
    assert drawn == [rooms for rooms in held if rooms]


def test_the_run_directory_in_the_table_is_the_one_that_is_written() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    table = text.partition("## Run directory")[2].partition("\n\nThe same")[0]
    cells = (line.split("|")[1] for line in table.splitlines() if line.startswith("| `"))
    assert sorted(name for cell in cells for name in re.findall(r"`(.*?)`", cell)) == sorted(FILES)


# Every document


def anchors(text: str) -> set[str]:
    """The anchors of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", prose(text), re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.replace(" ", "-") for heading in plain}


def broken_links(text: str, folder: Path) -> list[str]:
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(text)):
        path, _, anchor = link.partition("#")
        if "://" in link:
            continue
        target = folder / path
        if not target.exists() or (anchor and anchor not in anchors(_text(path, text, target))):
            broken.append(link)
    return broken


def _text(path: str, own: str, target: Path) -> str:
    return target.read_text() if path else own


@pytest.mark.parametrize("document", DOCUMENTS, ids=_name)
def test_every_link_leads_somewhere(document: Path) -> None:
    assert broken_links(document.read_text(), document.parent) == []


def test_a_broken_link_would_be_seen() -> None:
    text = "# A b\n[x](README.md) [y](nowhere.txt) [z](#a-b) [v](#c) [w](README.md#no)"
    assert broken_links(text, ROOT) == ["nowhere.txt", "#c", "README.md#no"]


FILE = re.compile(r"\.?[\w./-]+\.(py|toml|md|png|jsonl?|safetensors)|\.?\w[\w/-]*/")


def missing_files(document: Path) -> list[str]:
    """The files that a document names and that are nowhere: not here, nor made by a command."""
    written = {*FILES, *EXPORT_FILES, RESULT, PLOT, EXAMPLES}
    written |= {block.title for block in blocks(document)}
    # What `ffd sample` leaves.
    written |= {"000000.png", "digits.png.json", "samples.json"}
    # Stands for a file of the reader's.
    written |= {"recipe.toml", "base.toml", "tracking/"}
    # What diffusers and transformers write.
    written |= {*USUAL, "transformer/", "unet/", "unet_ema/"}
    present = {path.name for path in _files()}
    spans = re.findall(r"`([^`\s]+)`", prose(document.read_text()))
    named = [span for span in spans if FILE.fullmatch(span)]
    return [
        name
        for name in named
        if name not in written
        and not name.startswith("runs/")
        and not (ROOT / name).exists()
        and not ("/" not in name and name in present)
    ]


def _files() -> Iterator[Path]:
    for folder in ("ffcore", "plugins", "recipes", "tests", "docs", "examples"):
        yield from (ROOT / folder).rglob("*.*")


PUBLIC = {"interfaces", "keys", "plugins", "search", "testing"}
"""The modules that `ffcore/__init__.py` calls public, beside its own names."""
GUIDES = [
    *DOCUMENTS,
    *sorted((ROOT / "ffcore" / "plugins" / "scaffold" / "templates").iterdir()),
    *sorted((ROOT / "tests" / "third_party").rglob("*.py")),
]


def private_imports(text: str) -> list[str]:
    found = re.findall(r"^ *(?:from|import) (ffcore\.[\w.]+)", text, re.MULTILINE)
    return [each for each in found if each.split(".")[1] not in PUBLIC]


@pytest.mark.parametrize("guide", GUIDES, ids=_name)
def test_what_others_are_shown_imports_what_is_public(guide: Path) -> None:
    assert private_imports(guide.read_text()) == []


def test_what_is_public_is_said_where_it_is() -> None:
    said = (ROOT / "ffcore" / "__init__.py").read_text().split('"""')[1]
    assert set(re.findall(r"`ffcore\.(\w+)`", said)) == PUBLIC


def test_an_import_of_what_may_move_would_be_seen() -> None:
    text = "from ffcore.flow.path import interpolate\nfrom ffcore.keys import key\nimport ffcore\n"
    assert private_imports(text) == ["ffcore.flow.path"]


@pytest.mark.parametrize("document", DOCUMENTS, ids=_name)
def test_every_file_that_is_named_exists(document: Path) -> None:
    assert missing_files(document) == []


def test_a_file_that_does_not_exist_would_be_seen(tmp_path: Path) -> None:
    document = tmp_path / "x.md"
    document.write_text(
        "`ffcore/flow/path.py` `path.py` `ffcore/paths.py` `nowhere/` `docs/` `recipe.toml`"
    )
    assert missing_files(document) == ["ffcore/paths.py", "nowhere/"]


@pytest.mark.parametrize("document", DOCUMENTS, ids=_name)
def test_every_command_that_is_named_exists(document: Path) -> None:
    text = document.read_text()
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:^|`)make ([\w-]+)", text, re.MULTILINE)) <= targets
    assert set(re.findall(r"(?:^|`)ffd ([a-z][\w-]*)", text, re.MULTILINE)) <= set(COMMANDS)


@pytest.mark.parametrize("document", DOCUMENTS, ids=_name)
def test_a_formula_ends_on_the_line_on_which_it_begins(document: Path) -> None:
    plain = re.sub(r"`[^`\n]*`", "", prose(document.read_text()))
    assert [line for line in plain.splitlines() if line.count("$") % 2] == []


def test_the_readme_of_the_shelf_stays_out_of_the_wheel() -> None:
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
    assert "plugins/README.md" in build["targets"]["wheel"]["exclude"]
