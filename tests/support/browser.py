"""A real browser: Debian's Chromium, driven by Selenium."""

from __future__ import annotations

import base64
import contextlib
import importlib.util
import io
import json
import shutil

import numpy as np
import pytest
from PIL import Image

__all__ = [
    "CONTRAST",
    "drawn",
    "element",
    "ink",
    "needs_browser",
    "open_browser",
    "picture_of",
    "requests_of",
    "set_scheme",
    "set_width",
    "texts",
    "visit",
    "watched",
]

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


@contextlib.contextmanager
def watched(browser, path):
    """A page as it opens, light and wide; at the end nothing has gone wrong or been asked for."""
    browser.get_log("browser")
    browser.get_log("performance")
    set_width(browser, 1280)
    set_scheme(browser, "light")
    visit(browser, path)
    yield
    assert [entry["message"] for entry in browser.get_log("browser")] == []
    assert [url for url in requests_of(browser) if not url.startswith("file:")] == []


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


def visit(browser, path):
    browser.get("about:blank")
    browser.get(path.as_uri())
    drawn(browser)


def drawn(browser):
    """Let observers run and charts be drawn."""
    browser.execute_async_script(
        "const done = arguments[0];"
        "requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done, 60)));"
    )


def element(browser, selector):
    return browser.find_element("css selector", selector)


def texts(browser, selector):
    return browser.execute_script(
        "return [...document.querySelectorAll(arguments[0])].map((e) => e.textContent)", selector
    )


def ink(browser, chart):
    """How many pixels of a picture differ from its ground."""
    # In the window: for a picture beyond it, as ``picture_of`` takes, a page is laid out anew.
    x, y, width, height = browser.execute_script(
        "arguments[0].scrollIntoView({block: 'center', behavior: 'instant'});"
        "const box = arguments[0].getBoundingClientRect();"
        "return [box.left, box.top, box.width, box.height].map(Math.floor)",
        chart,
    )
    drawn(browser)
    window = Image.open(io.BytesIO(browser.get_screenshot_as_png())).convert("RGB")
    picture = np.asarray(window.crop((x, y, x + width, y + height)), int)
    return int((np.abs(picture - picture[-1, -1]).sum(-1) > 60).sum())


CONTRAST = """
const channel = (value) => {
  value /= 255;
  return value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
};
const parse = (text) => {
  const parts = text.match(/[\\d.]+/g).map(Number);
  return text.startsWith("rgb") ? [...parts.slice(0, 3), parts.length > 3 ? parts[3] : 1] : null;
};
const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
const over = (a, b) => [0, 1, 2].map((i) => a[i] * a[3] + b[i] * (1 - a[3]));
const ground = (element) => {
  const layers = [];
  for (let e = element; e; e = e.parentElement) {
    const colour = parse(getComputedStyle(e).backgroundColor);
    if (colour[3] > 0) layers.push(colour);
    if (colour[3] === 1) break;
  }
  return layers.reverse().reduce((below, layer) => over(layer, below), [255, 255, 255]);
};
const found = [];
let seen = 0;
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const node = walker.currentNode;
  const element = node.parentElement;
  if (!node.textContent.trim() || element.closest("script, style, noscript, :disabled")) continue;
  if (!element.checkVisibility()) continue;
  const style = getComputedStyle(element);
  const colour = parse(element.closest("svg") ? style.fill : style.color);
  const below = ground(element);
  const [a, b] = [light(over(colour, below)), light(below)].sort((x, y) => y - x);
  const ratio = (a + 0.05) / (b + 0.05);
  const size = parseFloat(style.fontSize);
  const large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
  seen += 1;
  if (ratio < (large ? 3 : 4.5)) found.push([node.textContent.slice(0, 40), ratio]);
}
return [seen, found];
"""
"""Run in a page: how many texts it has, and those whose contrast is less than WCAG's AA."""
