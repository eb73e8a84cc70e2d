"""A real browser: Debian's Chromium, driven by Selenium."""

from __future__ import annotations

import base64
import contextlib
import importlib.util
import json
import shutil

import pytest

__all__ = ["needs_browser", "open_browser", "picture_of", "requests_of", "set_scheme", "set_width"]

_CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
_DRIVER = shutil.which("chromedriver")

needs_browser = pytest.mark.skipif(
    not (_CHROMIUM and _DRIVER and importlib.util.find_spec("selenium")),
    reason="no browser: apt-get install chromium chromium-driver, and pip install selenium",
)

_SWITCHES = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    "--hide-scrollbars",
)


@contextlib.contextmanager
def open_browser(profile):
    """A browser with a fresh profile in a folder; it is closed at the end."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = _CHROMIUM
    for switch in (*_SWITCHES, f"--user-data-dir={profile}"):
        options.add_argument(switch)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    browser = webdriver.Chrome(options=options, service=Service(_DRIVER))
    try:
        yield browser
    finally:
        browser.quit()


def requests_of(browser):
    """The URLs that were asked for since the log was last read, but for those of data."""
    urls = []
    for entry in browser.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            urls.append(message["params"]["request"]["url"])
    return [url for url in urls if not url.startswith("data:")]


def picture_of(browser, element):
    """A PNG of an element, whole, wherever it stands on its page."""
    x, y, width, height = browser.execute_script(
        "const box = arguments[0].getBoundingClientRect();"
        "return [box.left + scrollX, box.top + scrollY, box.width, box.height]",
        element,
    )
    clip = {"x": x, "y": y, "width": width, "height": height, "scale": 1}
    asked = {"captureBeyondViewport": True, "clip": clip}
    return base64.b64decode(browser.execute_cdp_cmd("Page.captureScreenshot", asked)["data"])


def set_scheme(browser, scheme):
    """``light`` or ``dark``."""
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})


def set_width(browser, width, height=900):
    """Pixels of the window, of a phone where it is narrow."""
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
