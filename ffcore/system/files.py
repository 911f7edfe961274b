"""Files that a recipe names: by path, in a package, or on the Hugging Face Hub.

`weights/last.pt` is a path; `ffcore_digits:teacher.safetensors` is a file of an installed package;
`hf://org/repo/path/in/repo@revision` is a file of a hub repository, which is downloaded into the
hub's cache and read from there. A reference to weights may also name an index of shards, or a
folder in diffusers' layout. Checking for files needs neither torch nor a network. Runs write files
with `write_text`, in directories locked with `hold_directory`.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import json
import os
import textwrap
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import attrs

from ffcore.system.shards import USUAL, ShardError, is_index, network_file, read_index, weights_in

_HUB_FORM = "hf://org/repo/path/in/repo[@revision]"
_COLUMNS = 80


class MissingFile(Exception):
    """A file that a recipe names is missing. The message is for the user."""


@attrs.frozen
class File:
    """A file that a recipe names, and how to get it."""

    reference: str
    """Reference for `locate`."""
    key: str
    """The recipe key that names it, such as "teacher.weights"."""
    what: str
    origin: str | None = None
    """Where to get it."""
    licence: str | None = None
    named: str | None = None
    """How to name your own copy, if not by `--set KEY=PATH`."""


def locate(reference: str, *, download: bool = True, folder: bool = False) -> Path:
    """Return the file that `reference` names; a relative path starts at the working directory.

    With `folder`, it may also name a folder: on the hub, that of one network. A file on the hub is
    downloaded into the hub's cache; of a folder, the weights and `config.json` are. If `download`
    is off or HF_HUB_OFFLINE is set, they must already be there.

    Raises MissingFile if there is none.
    """
    scheme, is_address, _ = reference.partition("://")
    if is_address:
        if scheme != "hf":
            raise MissingFile(
                f"{reference}: ffcore does not download from {scheme}:// addresses. Download the "
                f"file and name its path, or name it as {_HUB_FORM}."
            )
        file = _HubFile.parse(reference)
        if folder and not Path(file.path).suffix:
            return file.locate_folder(download)
        return file.download() if download else file.find_cached()
    path = _path(reference)
    if not path.is_file() and not (folder and path.is_dir()):
        found = "a directory, not a file" if path.is_dir() else "no such file"
        raise MissingFile(f"{found}: {path.absolute()}")
    return path


def locate_all(reference: str, *, download: bool = True) -> tuple[Path, ...]:
    """Return every file that a reference to weights stands for, the first one first.

    An index stands for itself and its shards; a folder in diffusers' layout for the files of its
    networks. Anything else stands for itself.

    Raises MissingFile if one of them is missing, and ShardError for an index or folder that cannot
    be used.
    """
    path = locate(reference, download=download, folder=True)
    if not path.is_dir():
        return (path, *_shards(reference, path, download))
    found: list[Path] = []
    for file in weights_in(path).values():
        config = file.with_name("config.json")
        found += [config] if config.is_file() else []
        found += [file, *_shards(str(file), file, download)]
    return tuple(found)


def _shards(reference: str, index: Path, download: bool) -> list[Path]:
    """Return the shards that an index names, in its order; none for another file."""
    if not is_index(index):
        return []
    hub = reference.startswith("hf://")
    place, at, revision = reference.partition("@") if hub else (reference, "", "")
    folder = place.rpartition("/")[0]
    found = []
    for name in read_index(index):
        named = f"{folder}/{name}{at}{revision}" if hub else str(index.with_name(name))
        try:
            found.append(locate(named, download=download))
        except MissingFile as error:
            raise MissingFile(f"{index.name} names the shard {name}: {error}") from None
    return found


def require(files: Iterable[File]) -> None:
    """Raise one MissingFile that names every missing file. Uses no network.

    A file on the hub that is not in its cache counts as present if it can be downloaded later: if
    the hub's package is installed and not offline.
    """
    missing = [(file, why) for file in files if (why := _why_missing(file.reference))]
    if missing:
        what = "A needed file is" if len(missing) == 1 else f"{len(missing)} needed files are"
        entries = ("\n".join(_entry(file, why)) for file, why in missing)
        raise MissingFile(f"{what} missing.\n\n" + "\n\n".join(entries))


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def reference_digest(reference: str) -> str:
    """Return the SHA-256 that identifies the weights of a reference, in hexadecimal.

    For a file, it is that of its content. For an index or a folder, it is that of the names and
    contents of all its files.
    """
    files = locate_all(reference)
    if len(files) == 1:
        return file_digest(files[0])
    top = Path(os.path.commonpath([each.parent for each in files]))
    lines = sorted(f"{each.relative_to(top)} {file_digest(each)}\n" for each in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def parse_json(text: str | bytes) -> Any:
    """Return what JSON of a file holds. Raises ValueError for text that is not, or too nested."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("its values are nested too deeply") from None


def write_text(path: Path, text: str) -> None:
    """Write a text file completely or not at all, through `.NAME.partial` beside it."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text)
    partial.replace(path)


def _path(reference: str) -> Path:
    package, colon, name = reference.partition(":")
    if not (colon and package.isidentifier()):
        try:
            return Path(reference).expanduser()
        except RuntimeError as error:  # no such user
            raise MissingFile(f"{reference}: {error}") from None
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise MissingFile(f"{reference}: package {package!r} is not installed")
    return Path(next(iter(spec.submodule_search_locations))) / name


@attrs.frozen
class _HubFile:
    reference: str
    repository: str
    path: str
    revision: str | None

    @staticmethod
    def parse(reference: str) -> _HubFile:
        place, at, revision = reference.removeprefix("hf://").partition("@")
        organisation, repository, path = [*place.split("/", 2), "", ""][:3]
        if not (organisation and repository and path) or (at and not revision):
            raise MissingFile(f"{reference} is not of the form {_HUB_FORM}")
        return _HubFile(reference, f"{organisation}/{repository}", path, revision or None)

    def find_cached(self) -> Path:
        self._need_package()
        from huggingface_hub import try_to_load_from_cache

        try:
            found = try_to_load_from_cache(self.repository, self.path, revision=self.revision)
        except ValueError as error:  # not a valid name of a repository or file
            raise MissingFile(f"{self.reference}: {_first_line(error)}") from None
        if not isinstance(found, str):
            raise MissingFile(self._not_cached())
        return Path(found)

    def download(self) -> Path:
        self._need_package()
        from huggingface_hub import hf_hub_download

        try:
            return Path(hf_hub_download(self.repository, self.path, revision=self.revision))
        except Exception as error:
            # The package's errors have several base classes, which depend on its HTTP library.
            raise MissingFile(self._not_downloaded(error)) from error

    def locate_folder(self, download: bool) -> Path:
        """Return the local folder of a network, with its weights, or a file without a suffix."""
        self._need_package()
        if not download or _hub_is_offline():
            with suppress(MissingFile):
                return self.find_cached()
            for name in USUAL:
                with suppress(MissingFile):
                    return self._inside(name).find_cached().parent
            raise MissingFile(self._not_cached())
        names = self._files()
        if self.path in names:
            return self.download()
        inside = [name.removeprefix(f"{self.path}/") for name in names]
        inside = [name for name in inside if "/" not in name and f"{self.path}/{name}" in names]
        chosen = network_file(self.reference, inside)
        if chosen is None:
            raise MissingFile(
                f"{self.reference} is not a folder of weights: {self.repository} has neither "
                f"{USUAL[0]} nor its index in it"
            )
        found = self._inside(chosen).download()
        for name in ("config.json",) if "config.json" in inside else ():
            self._inside(name).download()
        for name in read_index(found) if is_index(found) else ():
            self._inside(name).download()
        return found.parent

    def _files(self) -> frozenset[str]:
        from huggingface_hub import list_repo_files

        try:
            return frozenset(list_repo_files(self.repository, revision=self.revision))
        except Exception as error:  # as in download
            raise MissingFile(self._not_downloaded(error)) from error

    def _inside(self, name: str) -> _HubFile:
        return attrs.evolve(self, path=f"{self.path}/{name}")

    def _need_package(self) -> None:
        if not _hub_is_installed():
            raise MissingFile(
                f"{self.reference} needs huggingface_hub, which is not installed: "
                "pip install 'ffcore[hub]'"
            )

    def _not_cached(self) -> str:
        from huggingface_hub import constants

        message = f"{self.reference} is not in the Hugging Face cache {constants.HF_HUB_CACHE}"
        if _hub_is_offline():
            message += (
                ", and HF_HUB_OFFLINE forbids downloading it. Unset HF_HUB_OFFLINE, or copy the "
                "file from a machine with a network and name its path."
            )
        return message

    def _not_downloaded(self, error: Exception) -> str:
        kinds = {each.__name__ for each in type(error).__mro__}
        if "LocalEntryNotFoundError" in kinds:
            offline = "" if _hub_is_offline() else ", and the hub cannot be reached"
            return self._not_cached() + offline
        causes = {  # by name: their module differs between versions; the narrower first
            "GatedRepoError": f"{self.repository} is gated: request access there, then log in",
            "RepositoryNotFoundError": f"there is no public repository {self.repository}; "
            "log in if it is private",
            "RevisionNotFoundError": f"{self.repository} has no revision {self.revision}",
            "EntryNotFoundError": f"{self.repository} has no file {self.path}",
        }
        why = next((said for kind, said in causes.items() if kind in kinds), _first_line(error))
        return f"{self.reference} could not be downloaded: {why}"


def _hub_is_installed() -> bool:
    return importlib.util.find_spec("huggingface_hub") is not None


def _hub_is_offline() -> bool:
    from huggingface_hub import constants

    return constants.HF_HUB_OFFLINE


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__


def _why_missing(reference: str) -> str | None:
    try:
        if reference.startswith("hf://"):
            _HubFile.parse(reference)
            if _hub_is_installed() and not _hub_is_offline():
                return None  # it will be downloaded when loaded
        locate_all(reference, download=False)
    except (MissingFile, ShardError) as error:
        return str(error)
    return None


def _entry(file: File, why: str) -> Iterator[str]:
    yield _wrap(f"{file.key}: {file.what}", "", "  ")
    rows = {
        "missing": why,
        "origin": file.origin,
        "licence": file.licence,
        "your copy": file.named or f"--set {file.key}=PATH, or that key in the recipe",
    }
    for label, text in rows.items():
        if text:
            yield _wrap(text, f"  {label:<11}", " " * 13)


def _wrap(text: str, first: str, then: str) -> str:
    """Wrap only between words, so that paths and addresses can be copied."""
    return textwrap.fill(
        text,
        _COLUMNS,
        initial_indent=first,
        subsequent_indent=then,
        break_long_words=False,
        break_on_hyphens=False,
    )


@contextmanager
def hold_directory(directory: Path) -> Iterator[None]:
    """Make a directory and lock it against other processes; remove it afterwards if empty.

    Raises BlockingIOError if another process holds it, another OSError if it cannot be used.
    """
    directory.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not _is(descriptor, directory):  # its last holder removed it
            raise BlockingIOError
        try:
            yield
        finally:
            with suppress(OSError):
                directory.rmdir()
    finally:
        os.close(descriptor)


def _is(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
