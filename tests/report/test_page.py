"""The page: whole in itself, with everything escaped that a run may hold."""

import html
import json
import re
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

from small_runs import small

from ffcore.report import page, read_records
from ffcore.run.stages import run

Copy = Callable[[str], Path]
VOID = {"meta", "link", "img", "col", "path"}


class Parsed(HTMLParser):
    """The tags of a page, its words, and whether every tag is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.open: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag, f"{tag} at {self.getpos()}"

    def handle_data(self, data: str) -> None:
        self.words += data

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def parsed(*directories: Path) -> Parsed:
    return Parsed(page(read_records(directories)))


def words(found: Parsed) -> str:
    return " ".join(found.words.split())


def test_a_page_asks_nothing_of_the_network_and_runs_nothing(runs: Path):
    found = parsed(runs / "whole", runs / "other", runs / "unfinished")
    assert {tag for tag, _ in found.tags} & {"script", "iframe", "object", "form"} == set()
    for tag, attributes in found.tags:
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            if name in ("src", "href", "srcset", "data"):
                assert (value or "").startswith("data:"), (tag, value)
    text = page(read_records([runs / "whole"]))
    assert "url(" not in text
    assert "@import" not in text
    (policy,) = [each for each in found.of("meta") if "http-equiv" in each]
    assert (policy["content"] or "").startswith("default-src 'none'")


def test_every_picture_says_what_it_shows(runs: Path):
    found = parsed(runs / "whole")
    alt = [each["alt"] or "" for each in found.of("img")]
    assert len(alt) == 4 + 1 + 1  # previews, teacher, samples
    assert all(alt)
    assert "after step 3" in alt[2]
    charts = [each for each in found.of("svg") if each.get("role") == "img"]
    assert len(charts) >= 4
    assert all(each["aria-label"] for each in charts)


def test_the_answer_stands_before_everything_else(runs: Path):
    told = words(parsed(runs / "whole"))
    kept = json.loads((runs / "whole" / "evaluation.json").read_text())["distances"]["raw"]
    assert "mlp student of a gaussian teacher, by freeflow, with no data" in told
    answer = told[told.index("One step against") : told.index("Teacher and student")]
    evaluation = json.loads((runs / "whole" / "evaluation.json").read_text())
    (verdict,) = evaluation["verdict"].values()
    assert verdict["sentence"].startswith("one step is worth ")
    assert f"O{verdict['sentence'][1:]}." in answer
    for value in (kept["student"], kept["floor"], *kept["euler"].values()):
        assert f"{value:.4g}" in answer
    assert "Missing parts" not in told


def test_each_measure_stands_with_its_interval_and_place(runs: Path):
    told = words(parsed(runs / "whole"))
    measures = json.loads((runs / "whole" / "evaluation.json").read_text())["measures"]["raw"]
    assert measures.keys() == {"frechet", "energy", "sharpness", "coverage"}
    for each in measures.values():
        assert each["title"] in told
        assert each["worth"]["1"]["text"] in told
        found = each["student"]["1"]
        assert f"{found['value']:.4g} ± {found['high'] - found['value']:.2g}" in told


def test_headings_go_down_one_level_at_a_time(runs: Path):
    found = parsed(runs / "whole", runs / "other")
    levels = [int(tag[1]) for tag, _ in found.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_runs_of_other_conditions_are_marked(runs: Path):
    told = words(parsed(runs / "whole", runs / "comparable", runs / "other"))
    assert "≠ Not comparable with whole: samples: 100 there, 101 here." in told
    assert "≠ other" in told
    assert "≠ comparable" not in told
    told = words(parsed(runs / "whole", runs / "comparable"))
    assert "≠" not in told


def test_what_differs_between_recipes_is_highlighted(runs: Path):
    found = parsed(runs / "whole", runs / "comparable")
    assert (
        "Differences key whole comparable training.seed 0 1 evaluation.euler [1, 2] [1, 4] All"
    ) in words(found)
    assert len([each for each in found.of("tr") if each.get("class") == "differs"]) == 2


def test_a_single_run_shows_its_recipe_as_it_runs(runs: Path):
    text = (runs / "whole" / "recipe.toml").read_text()
    assert f"<code>{html.escape(text, quote=False)}" in page(
        read_records([runs / "whole"])
    ).replace("&#34;", '"')


def test_what_is_missing_is_told(runs: Path):
    told = words(parsed(runs / "unfinished"))
    assert "Nothing was measured yet." in told
    assert "4 of 6 steps are recorded" in told
    told = words(parsed(runs / "bare"))
    assert "Nothing was measured." in told
    assert "the recipe switches it off" in told


def test_a_run_that_has_only_begun_is_reported(copy: Copy):
    directory = copy("unfinished")
    for name in ("metrics.jsonl", "checkpoints", "previews"):
        path = directory / name
        path.unlink() if path.is_file() else shutil.rmtree(path)
    assert "0 of 6 steps are recorded" in words(parsed(directory))


def test_changes_since_a_run_began_are_told(copy: Copy):
    directory = copy("whole")
    run(small("training.steps=8"), directory)
    assert "after step 6: training.steps: 6 before, 8 now" in words(parsed(directory))


def test_what_verify_found_is_shown(copy: Copy):
    directory = copy("whole")
    spread = {"relative": {"median": 0.12345, "rms": 9.0}, "absolute": {"rms": 9.0}}
    gap = {"errors": {"absolute": {"rms": 0.5}}}
    found = {
        "schema": 1,
        "trajectory": {"0.5": spread, "1.0": spread},
        "identity": {"1.0": {"relative": None}},
        "noising": {"student": {"0.25": gap, "0.5": {"errors": {"absolute": {"rms": 0.75}}}}},
        "classes": {"digits": {"student": 0.996, "teacher": 1.0}},
        "conditions": {"student": {"step": 6}},
    }
    (directory / "verify.json").write_text(json.dumps(found))
    shutil.copy(directory / "samples.png", directory / "verify.png")
    shown = parsed(directory)
    assert (
        "ffd verify student after step 6 trajectory error at δ = 1, median 0.1235 largest "
        "noising gap of the student's samples, at r = 0.5 0.75 class accuracy of the student, by "
        "digits 99.6% class accuracy of the teacher, by digits 100.0% Training"
    ) in words(shown)
    assert any("ffd verify" in (each["alt"] or "") for each in shown.of("img"))


def test_a_verification_of_another_form_is_shown_as_far_as_it_is_plain(copy: Copy):
    directory = copy("whole")
    found = {
        "schema": 1, "passed": True, "max_error": 0.12345, "deep": {"worst": 3},
        "long": list(range(99)), "note": "x" * 100, "noising": 3, "classes": None,
    }  # fmt: skip
    (directory / "verify.json").write_text(json.dumps(found))
    assert "ffd verify passed true max_error 0.12345 deep.worst 3 noising 3 Training" in words(
        parsed(directory)
    )


def test_everything_that_a_run_holds_is_escaped(copy: Copy, tmp_path: Path):
    evil = "</style></code></pre><script>alert(1)</script><img src=x onerror='alert(1)'>"
    directory = copy("whole")
    recipe = (directory / "recipe.toml").read_text()
    changed = recipe.replace('device = "auto"', f'device = "{evil}"')
    assert changed != recipe
    (directory / "recipe.toml").write_text(changed.replace('"mlp"', f'"{evil}"'))
    manifest = json.loads((directory / "provenance.json").read_text())
    manifest |= {"device": evil, "data_source_opened_by_training": evil, "torch": evil}
    manifest["changes"] = [{"after_step": 3, "changed": [evil], "run": None}]
    manifest["components"][0] |= {"type": evil, "distribution": evil}
    (directory / "provenance.json").write_text(json.dumps(manifest))
    lines = [json.loads(each) for each in (directory / "metrics.jsonl").read_text().splitlines()]
    told = "".join(json.dumps({**each, evil: 1.0, f"seconds/{evil}": 1}) + "\n" for each in lines)
    (directory / "metrics.jsonl").write_text(told)
    kept = (directory / "evaluation.json").read_text()
    (directory / "evaluation.json").write_text(kept.replace("raw", evil))
    (directory / "verify.json").write_text(json.dumps({evil: evil}))
    named = tmp_path / evil.replace("/", "").replace("<img", "<b><img")
    directory.rename(named)
    for directories in ([named], [named, copy("other")]):
        found = parsed(*directories)
        assert found.of("script") == []
        assert all((each["src"] or "").startswith("data:") for each in found.of("img"))
        assert found.words.count("<script>alert(1)</script>") >= 8
        assert not any(name == "onerror" for _, each in found.tags for name in each)


def test_a_page_says_when_and_by_what_it_was_written(runs: Path):
    at = datetime(2026, 11, 3, 7, 5, tzinfo=UTC)
    text = page(read_records([runs / "whole"]), written=at)
    assert re.search(r"Written by ffcore \d[\w.]* on 3 November 2026, 07:05 UTC", text)
    assert text == page(read_records([runs / "whole"]), written=at)
