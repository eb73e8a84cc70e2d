"""The picture of a report in README: the top of the page that the demo's labels have.

    python -m docs.make_report_picture

Needs the extra ``demo``, Selenium, Debian's ``chromium`` and ``chromium-driver``, and a minute;
writes docs/pictures/report.png. It ends before the first photo: they are not ours to show here.
"""

from __future__ import annotations

import io
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

from labelstore.operations.demo import place_photos, place_teacher
from tests.support.browser import open_browser, picture_of, set_scheme, set_width

PICTURE = Path(__file__).parent / "pictures" / "report.png"
NETWORK = "tf_efficientnet_lite0"
WIDTH = 1200
"""Pixels, so wide that the contents stand beside the page."""
LAST = "#thresholds .tools"
"""The last that is shown."""


def make_page(folder: Path) -> None:
    """``report.html``, of 32 views of each of the demo's photos; its paths are short."""
    place_photos(folder / "photos")
    place_teacher(NETWORK, folder / f"{NETWORK}.safetensors")
    teacher = ["--teacher", f"timm:{NETWORK}", "--checkpoint", f"{NETWORK}.safetensors"]
    for command in (
        ["generate", "photos", *teacher, "--views", "32", "-q", "-o", "teacher.zarr"],
        ["inspect", "teacher.zarr", "--report", "report.html", "--photos", "photos"],
    ):
        subprocess.run([sys.executable, "-m", "labelstore", *command], check=True, cwd=folder)


def draw(folder: Path) -> None:
    """The page as far as ``LAST``, in few colours."""
    with open_browser(folder / "profile") as browser:
        set_scheme(browser, "light")
        set_width(browser, WIDTH)
        browser.get((folder / "report.html").as_uri())
        bottom = browser.execute_async_script(
            "const [last, done] = arguments;"
            "requestAnimationFrame(() => setTimeout(() =>"
            "done(document.querySelector(last).getBoundingClientRect().bottom + scrollY), 200))",
            LAST,
        )
        body = browser.find_element("css selector", "body")
        page = Image.open(io.BytesIO(picture_of(browser, body))).convert("RGB")
    page.crop((0, 0, WIDTH, round(bottom) + 12)).quantize(128).save(PICTURE, optimize=True)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        make_page(Path(name))
        draw(Path(name))
