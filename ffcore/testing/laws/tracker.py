"""Laws of trackers."""

from __future__ import annotations

import contextlib
import copy
import io
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ffcore.testing.answers import NUMBERS, RECIPE, RUN, report, write_picture
from ffcore.testing.case import Case
from ffcore.testing.law import law, require


@law("tracker", 1)
def stays_in_its_folder(case: Case, live: Any) -> None:
    """It writes only into its folder, not elsewhere in the run's directory or into the working
    directory."""
    del case
    with _run_directory() as (directory, folder):
        elsewhere = directory / "elsewhere"
        elsewhere.mkdir()
        before = _files(directory, but=folder)
        with contextlib.chdir(elsewhere):
            report(live, folder)
        strange = sorted(_files(directory, but=folder) ^ before)
        require(not strange, f"outside its folder it wrote {', '.join(strange)}")


@law("tracker", 2)
def leaves_what_it_is_given_alone(case: Case, live: Any) -> None:
    """It changes neither the recipe nor the numbers."""
    del case
    recipe, numbers = copy.deepcopy(RECIPE), dict(NUMBERS)
    with _run_directory() as (_, folder):
        live.open(folder, RUN, recipe, 0)
        live.track(1, numbers)
        live.close(finished=True)
    require(recipe == RECIPE, f"the recipe became {recipe}")
    require(numbers == NUMBERS, f"the numbers became {numbers}")


@law("tracker", 3)
def says_nothing_on_stdout(case: Case, live: Any) -> None:
    """It prints nothing to stdout, which is for the results of a run."""
    del case
    with _run_directory() as (_, folder), contextlib.redirect_stdout(io.StringIO()) as said:
        report(live, folder)
    require(not said.getvalue(), f"it printed {said.getvalue()[:60]!r}")


@law("tracker", 4)
def goes_on_with_what_it_kept(case: Case, live: Any) -> None:
    """When an interrupted run continues, no file of the run is removed or truncated."""
    with _run_directory() as (_, folder):
        report(live, folder, steps=range(1, 6), finished=False)
        before = _sizes(folder)
        report(case.build(), folder, steps=range(5, 6))
        now = _sizes(folder)
    lost = [name for name, size in before.items() if now.get(name, -1) < size]
    require(not lost, f"removed or truncated: {', '.join(sorted(lost))}")


@law("tracker", 5)
def takes_whatever_is_measured(case: Case, live: Any) -> None:
    """It accepts names that differ between reports and contain slashes or letters of any
    alphabet, and numbers that are huge, infinite or NaN."""
    del case
    with _run_directory() as (_, folder):
        live.open(folder, RUN, copy.deepcopy(RECIPE), 0)
        live.track(1, {"loss": 0.5, "seconds/online network": 1e-9})
        live.track(2, {"λ": 1e300, "gradient norm": math.inf, "gap_correction": math.nan})
        live.track(3, {})
        live.close(finished=True)


@law("tracker", 6)
def closes_at_any_time(case: Case, live: Any) -> None:
    """It can be closed directly after `open`: a run may fail before its first report."""
    del case
    with _run_directory() as (_, folder):
        live.open(folder, RUN, copy.deepcopy(RECIPE), 0)
        live.close(finished=False)


@contextmanager
def _run_directory() -> Iterator[tuple[Path, Path]]:
    """Yield a run's directory with a picture in it, and the folder of its trackers."""
    with TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name) / "tracking"
        folder.mkdir()
        write_picture(folder)
        yield Path(name), folder


def _files(directory: Path, but: Path) -> set[str]:
    found = (path for path in directory.rglob("*") if path != but and but not in path.parents)
    return {str(path.relative_to(directory)) for path in found}


def _sizes(folder: Path) -> dict[str, int]:
    """Return the sizes of all files except links, which may change."""
    files = (each for each in folder.rglob("*") if each.is_file() and not each.is_symlink())
    return {str(each.relative_to(folder)): each.stat().st_size for each in files}
