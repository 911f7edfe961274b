"""Files that a recipe names: by path, resource or repository; all that are missing, at once."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import constants

from ffcore.system.files import (
    File,
    MissingFile,
    file_digest,
    hold_directory,
    locate,
    locate_all,
    reference_digest,
    require,
)

HUB = "hf://some-org/some-repo/weights/last.pt"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def parallelize(cache: Path, revision: str = "main", content: str = "weights") -> Path:
    """Put a file into a cache as huggingface_hub does, and return where it lies."""
    repository = cache / "models--some-org--some-repo"
    file = repository / "snapshots" / COMMIT / "weights" / "last.pt"
    for path, text in ((file, content), (repository / "refs" / revision, COMMIT)):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return file


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and no network: whoever downloads fails the test."""

    def download(*args: object, **kwargs: object) -> None:
        raise AssertionError("a download was tried")

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    return tmp_path / "hub"


@pytest.fixture
def offline(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """As `cache`, with HF_HUB_OFFLINE set; the package's own download stands."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(
        huggingface_hub, "hf_hub_download", huggingface_hub.file_download.hf_hub_download
    )
    return cache


def message(call: Callable[[], object]) -> str:
    with pytest.raises(MissingFile) as caught:
        call()
    return str(caught.value)


# Paths and resources.


def test_a_path_is_taken_as_it_is_and_starts_where_the_process_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.pt").touch()
    monkeypatch.chdir(tmp_path)
    assert locate("a.pt") == Path("a.pt")
    assert locate(str(tmp_path / "a.pt")) == tmp_path / "a.pt"


def test_a_tilde_is_the_home_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.pt").touch()
    monkeypatch.setenv("HOME", str(tmp_path))
    assert locate("~/a.pt") == tmp_path / "a.pt"


def test_a_package_s_file_is_found_without_importing_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "some_weights"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "a.safetensors").touch()
    monkeypatch.syspath_prepend(tmp_path)
    assert locate("some_weights:a.safetensors") == package / "a.safetensors"


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("nowhere.pt", f"no such file: {Path.cwd() / 'nowhere.pt'}"),
        (".", f"a directory, not a file: {Path.cwd()}"),
        (
            "no_such_package:a.pt",
            "no_such_package:a.pt: package 'no_such_package' is not installed",
        ),
        ("ffcore_sit:nowhere.pt", "no such file: "),
        ("~nobody-of-this-name/a.pt", "~nobody-of-this-name/a.pt: "),
        ("https://example.org/a.pt", "ffcore does not download from https:// addresses"),
        ("hf://org/repo", "not of the form hf://org/repo/path"),
        ("hf://org//a.pt", "not of the form hf://org/repo/path"),
        ("hf://org/repo/a.pt@", "not of the form hf://org/repo/path"),
        ("hf://org/repo@main/a.pt", "not of the form hf://org/repo/path"),
    ],
)
def test_what_is_not_there_is_named(reference: str, expected: str) -> None:
    assert expected in message(lambda: locate(reference))


# The hub.


@pytest.mark.parametrize("download", [True, False])
@pytest.mark.parametrize("revision", ["main", "v1", "refs/pr/1"])
def test_a_cached_file_is_found_offline(offline: Path, download: bool, revision: str) -> None:
    file = parallelize(offline, revision)
    at = "" if revision == "main" else f"@{revision}"
    assert locate(f"{HUB}{at}", download=download) == file


def test_a_cached_file_is_found_by_its_commit(offline: Path) -> None:
    file = parallelize(offline)
    assert locate(f"{HUB}@{COMMIT}") == file


@pytest.mark.parametrize("download", [True, False])
def test_another_revision_than_the_cached_one_is_missing(offline: Path, download: bool) -> None:
    parallelize(offline)
    assert "v2 is not in the" in message(lambda: locate(f"{HUB}@v2", download=download))


@pytest.mark.parametrize("download", [True, False])
def test_offline_a_file_outside_the_cache_is_named_with_the_cache_and_what_to_do(
    offline: Path, download: bool
) -> None:
    found = message(lambda: locate(HUB, download=download))
    assert f"{HUB} is not in the Hugging Face cache {offline}" in found
    assert "Unset HF_HUB_OFFLINE" in found


def test_only_the_cache_is_looked_at_where_no_download_is_asked_for(cache: Path) -> None:
    found = message(lambda: locate(HUB, download=False))
    assert f"{HUB} is not in the Hugging Face cache {cache}" in found
    assert "HF_HUB_OFFLINE" not in found
    with pytest.raises(MissingFile, match="a download was tried"):
        locate(HUB)  # the fixture sees a download


def test_a_file_is_downloaded_by_repository_path_and_revision(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def download(repository: str, path: str, *, revision: str | None) -> str:
        asked.append((repository, path, revision))
        return "there"

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    assert locate(HUB) == Path("there")
    assert locate(f"{HUB}@v1") == Path("there")
    assert asked == [
        ("some-org/some-repo", "weights/last.pt", None),
        ("some-org/some-repo", "weights/last.pt", "v1"),
    ]


class Hub:
    """A repository with these files, as huggingface_hub offers it; it counts downloads."""

    def __init__(self, cache: Path, files: dict[str, str]) -> None:
        self.files, self.asked = files, list[str]()
        self.folder = cache / "models--some-org--some-repo" / "snapshots" / COMMIT
        reference = self.folder.parents[1] / "refs" / "main"
        reference.parent.mkdir(parents=True)
        reference.write_text(COMMIT)

    def list_repo_files(self, repository: str, *, revision: str | None) -> list[str]:
        assert (repository, revision) == ("some-org/some-repo", None)
        return [*self.files]

    def hf_hub_download(self, repository: str, path: str, *, revision: str | None) -> str:
        self.asked.append(path)
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(self.files[path])
        return str(file)


INDEX = '{"weight_map": {"a": "model-1-of-2.safetensors", "b": "model-2-of-2.safetensors"}}'
SHARDS = {"model-1-of-2.safetensors": "1", "model-2-of-2.safetensors": "2"}


def hub(cache: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str]) -> Hub:
    found = Hub(cache, files)
    for name in ("list_repo_files", "hf_hub_download"):
        monkeypatch.setattr(huggingface_hub, name, getattr(found, name))
    return found


def test_of_a_folder_on_the_hub_only_the_network_is_downloaded(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used = {"unet/config.json": "{}", "unet/diffusion_pytorch_model.safetensors": "1"}
    unused = dict.fromkeys(
        ("unet/diffusion_pytorch_model.fp16.safetensors", "unet/diffusion_pytorch_model.bin",
         "unet/more/model.safetensors", "unet_2/model.safetensors", "model.safetensors"), "2",
    )  # fmt: skip
    there = hub(cache, monkeypatch, unused | used)
    reference = "hf://some-org/some-repo/unet"
    found = locate_all(reference)
    assert {*there.asked} == {*used}
    assert [each.read_text() for each in found] == ["{}", "1"]
    assert locate_all(reference, download=False) == found
    assert "has neither" in message(lambda: locate_all("hf://some-org/some-repo/vae"))


def test_shards_on_the_hub_are_downloaded_through_their_index(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {"model.safetensors.index.json": INDEX, **SHARDS}
    there = hub(cache, monkeypatch, {f"t/{name}": each for name, each in files.items()})
    index = "hf://some-org/some-repo/t/model.safetensors.index.json"
    assert index in message(lambda: locate_all(index, download=False))
    found = locate_all(index)
    assert [each.name for each in found] == [*files]
    assert {*there.asked} == {f"t/{name}" for name in files}
    assert locate_all("hf://some-org/some-repo/t") == found
    assert reference_digest(index) == reference_digest(str(found[0]))
    found[2].unlink()
    missing = message(lambda: locate_all(index, download=False))
    assert missing.startswith("model.safetensors.index.json names the shard model-2-of-2")


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("GatedRepoError", "some-org/some-repo is gated: request access"),
        ("RepositoryNotFoundError", "no public repository some-org/some-repo"),
        ("RevisionNotFoundError", "some-org/some-repo has no revision v1"),
        ("EntryNotFoundError", "some-org/some-repo has no file weights/last.pt"),
        ("LocalEntryNotFoundError", "the hub cannot be reached"),
        ("ConnectionError", "could not be downloaded: first line of it"),
    ],
)
def test_a_download_that_fails_says_why(
    cache: Path, monkeypatch: pytest.MonkeyPatch, kind: str, expected: str
) -> None:
    def download(*args: object, **kwargs: object) -> None:
        real = getattr(huggingface_hub.utils, kind, ConnectionError)
        told = type("Told", (real,), {"__init__": lambda self: Exception.__init__(self)})
        told.__str__ = lambda self: "first line of it\nand many more"  # type: ignore[method-assign]
        raise told

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    found = message(lambda: locate(f"{HUB}@v1"))
    assert found.startswith(f"{HUB}@v1 ")
    assert expected in found
    assert "\n" not in found


@pytest.mark.parametrize("download", [True, False])
@pytest.mark.parametrize("name", ["org/re po/a.pt", "org/repo/../../a.pt"])
def test_a_name_that_no_repository_can_have_is_told(
    offline: Path, name: str, download: bool
) -> None:
    assert f"hf://{name}" in message(lambda: locate(f"hf://{name}", download=download))


@pytest.mark.parametrize("download", [True, False])
def test_without_the_hub_s_package_the_extra_is_named(
    cache: Path, monkeypatch: pytest.MonkeyPatch, download: bool
) -> None:
    parallelize(cache)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    found = message(lambda: locate(HUB, download=download))
    assert HUB in found
    assert "pip install 'ffcore[hub]'" in found


# All files of a recipe at once.


def entries(found: str) -> list[str]:
    return found.split("\n\n")[1:]


def test_files_that_are_there_are_no_matter(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "a.pt").touch()
    require([])
    require([File(str(tmp_path / "a.pt"), "teacher.weights", "the teacher")])


def test_all_missing_files_are_told_at_once_each_with_how_to_get_it(tmp_path: Path) -> None:
    (tmp_path / "there.pt").touch()
    path = tmp_path / "last.pt"
    found = message(
        lambda: require(
            [
                File(str(path), "teacher.weights", "SiT-XL/2", "the authors' page", "MIT"),
                File(str(tmp_path / "there.pt"), "student.weights", "the student"),
                File("no_such_package:a.pt", "evaluation.reference", "statistics"),
            ]
        )
    )
    assert found.startswith("2 needed files are missing.\n")
    teacher, reference = entries(found)
    assert teacher.startswith("teacher.weights: SiT-XL/2\n")
    words = " ".join(teacher.split())
    for part in (
        f"no such file: {path}",
        "origin the authors' page",
        "licence MIT",
        "--set teacher.weights=PATH",
    ):
        assert part in words
    assert reference.startswith("evaluation.reference: statistics\n")
    assert "package 'no_such_package' is not installed" in " ".join(reference.split())
    assert "origin" not in reference
    assert "licence" not in reference
    assert "student" not in found


def test_the_message_fits_80_columns_and_breaks_no_path() -> None:
    path = f"/{'long-' * 18}folder/last.pt"
    file = File(path, "teacher.weights", "a " * 100, "a page " * 20, "MIT")
    lines = message(lambda: require([file])).splitlines()
    assert any(path in line for line in lines)
    assert max(len(line) for line in lines if path not in line) <= 80
    assert lines[0] == "A needed file is missing."


def test_a_file_on_the_hub_counts_as_there_where_it_can_be_downloaded_later(cache: Path) -> None:
    require([File(HUB, "teacher.weights", "the teacher")])


def test_offline_a_file_on_the_hub_counts_as_there_only_if_it_is_cached(offline: Path) -> None:
    file = File(HUB, "teacher.weights", "the teacher")
    found = message(lambda: require([file]))
    assert HUB in found
    assert "HF_HUB_OFFLINE" in found
    parallelize(offline)
    require([file])


def test_without_the_hub_s_package_a_file_on_the_hub_is_missing(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parallelize(cache)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    found = message(lambda: require([File(HUB, "teacher.weights", "the teacher")]))
    assert "pip install 'ffcore[hub]'" in found


def test_a_malformed_name_is_missing_though_others_could_be_downloaded(cache: Path) -> None:
    found = message(lambda: require([File("hf://org/repo", "teacher.weights", "the teacher")]))
    assert "hf://org/repo/path/in/repo[@revision]" in found


def test_the_hub_s_own_settings_hold_and_nothing_imports_torch(tmp_path: Path) -> None:
    """In a process of its own: the hub's package reads its settings when it is imported."""
    file = parallelize(tmp_path / "hub")
    code = f"""
import sys
from ffcore.system.files import File, MissingFile, locate, require
files = [File({HUB!r}, "a", "b"), File("hf://some-org/some-repo/other.pt", "other", "another")]
print(locate({HUB!r}))
try:
    require(files)
except MissingFile as error:
    print(error)
print("torch" in sys.modules)
"""
    environment = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    environment.pop("HF_HUB_CACHE", None)
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    lines = done.stdout.splitlines()
    assert lines[0] == str(file)
    assert lines[1] == "A needed file is missing."
    assert lines[3] == "other: another"
    assert lines[-1] == "False"


# Digests.


def test_the_digest_is_the_sha256_of_the_content(tmp_path: Path) -> None:
    content = b"some weights" * 100_000
    for name, text in (("a", content), ("b", content), ("c", content + b"!")):
        (tmp_path / name).write_bytes(text)
    first, second, other = (file_digest(tmp_path / name) for name in "abc")
    assert first == second == hashlib.sha256(content).hexdigest() != other


def test_a_directory_is_held_by_one_and_goes_if_nothing_was_left_there(tmp_path: Path) -> None:
    place = tmp_path / "runs" / "one"
    with hold_directory(place):
        with pytest.raises(BlockingIOError), hold_directory(place):
            pass
        assert place.is_dir()
    assert not place.exists()
    with hold_directory(place):
        (place / "kept").touch()
    assert (place / "kept").exists()
