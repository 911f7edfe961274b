"""The page in a browser: as wide as a phone and as a desk, in the light and in the dark."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import attrs
import pytest
from PIL import Image

from ffcore.report import page, read_records

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium on this machine: the page is not looked at in a browser"
)
WIDTHS = (360, 768, 1600)
FRAMES = """\
<!doctype html><meta charset="utf-8"><body style="margin: 0">{frames}
<script>
addEventListener("load", () => {{
  const frames = [...document.querySelectorAll("iframe")];
  document.body.textContent = JSON.stringify(frames.map((frame) => ({{
    width: frame.clientWidth,
    needed: frame.contentDocument.documentElement.scrollWidth,
    paper: frame.contentWindow.getComputedStyle(frame.contentDocument.body).backgroundColor,
    ink: frame.contentWindow.getComputedStyle(frame.contentDocument.body).color,
    pictures: [...frame.contentDocument.images].filter((each) => !each.naturalWidth).length,
  }})));
}});
</script>
"""


@attrs.frozen
class Seen:
    """What a browser made of a page."""

    frames: list[dict[str, int | str]]
    """Of each width."""
    console: list[str]
    requests: list[str]
    """What the page asked of the network."""


def chromium(folder: Path, dark: bool, *arguments: str) -> subprocess.CompletedProcess[str]:
    assert CHROMIUM is not None
    settings = [
        "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        "--allow-file-access-from-files", "--enable-logging=stderr", "--virtual-time-budget=5000",
        f"--user-data-dir={folder / 'profile'}",
        f"--blink-settings=preferredColorScheme={0 if dark else 1}",
    ]  # fmt: skip
    return subprocess.run(
        [CHROMIUM, *settings, *arguments], capture_output=True, text=True, check=True, timeout=120
    )


def see(folder: Path, dark: bool = False) -> Seen:
    """Open page.html of a folder in every width."""
    frames = "".join(
        f'<iframe src="page.html" style="width: {width}px; height: 800px; border: 0"></iframe>'
        for width in WIDTHS
    )
    (folder / "frames.html").write_text(FRAMES.format(frames=frames))
    log = folder / "net.json"
    done = chromium(
        folder, dark, f"--log-net-log={log}", "--dump-dom", (folder / "frames.html").as_uri()
    )
    body = re.search(r"<body[^>]*>(.*)</body>", done.stdout, re.DOTALL)
    assert body is not None, done.stderr
    events = [each.get("params") or {} for each in json.loads(log.read_text())["events"]]
    asked = [each for each in events if each.get("initiator", "not an origin") != "not an origin"]
    return Seen(
        frames=json.loads(body.group(1)),
        console=re.findall(r"CONSOLE.*", done.stderr),
        requests=[str(each.get("url")) for each in asked],
    )


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("names", [("whole",), ("whole", "other", "unfinished")])
def test_a_page_fits_every_width_and_asks_for_nothing(
    runs: Path, tmp_path: Path, names: tuple[str, ...], dark: bool
) -> None:
    records = read_records([runs / name for name in names])
    (tmp_path / "page.html").write_text(page(records))
    seen = see(tmp_path, dark)
    assert [each["width"] for each in seen.frames] == list(WIDTHS)
    assert [each["needed"] for each in seen.frames] == list(WIDTHS)
    assert [each["pictures"] for each in seen.frames] == [0, 0, 0]
    assert seen.console == []
    assert seen.requests == []
    for each in seen.frames:
        paper, ink = (
            sum(map(int, re.findall(r"\d+", str(each[name]))[:3])) for name in ("paper", "ink")
        )
        assert (paper < 150 and ink > 600) if dark else (paper > 600 and ink < 150)


def test_a_page_can_be_pictured(runs: Path, tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text(page(read_records([runs / "whole"])))
    where = (tmp_path / "page.html").as_uri()
    picture = tmp_path / "page.png"
    chromium(tmp_path, True, f"--screenshot={picture}", "--window-size=1200,900", where)
    with Image.open(picture) as image:
        assert image.size == (1200, 900)
        colours = image.convert("RGB").getcolors(1 << 20)
    assert colours is not None
    assert len(colours) > 100
    assert max(colours)[1] == (0x14, 0x16, 0x1A)  # the page's paper


def test_a_page_that_is_wide_broken_and_talkative_would_be_seen(tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text(
        "<!doctype html><body><p style='width: 3000px'>wide</p><img src='gone.png'>"
        "<script>console.error('broken')</script><img src='http://nowhere.invalid/x.png'>"
    )
    seen = see(tmp_path)
    assert all(int(each["needed"]) >= 3000 for each in seen.frames)
    assert [each["pictures"] for each in seen.frames] == [2, 2, 2]
    assert any("broken" in line for line in seen.console)
    assert "http://nowhere.invalid/x.png" in seen.requests
