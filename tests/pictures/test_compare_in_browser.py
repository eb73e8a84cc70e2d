"""The page of ``labelstore compare --report`` in a real browser."""

import json
import shutil

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import labelstore
from labelstore.cli.main import main
from labelstore.operations.demo import place_photos
from labelstore.operations.inspection.compare import compare
from labelstore.views.law import ViewLaw
from tests.support.browser import (
    CONTRAST,
    drawn,
    element,
    ink,
    needs_browser,
    open_browser,
    set_scheme,
    set_width,
    texts,
    visit,
    watched,
)

pytestmark = needs_browser

VIEWS, K, CLASSES = 8, 5, 12
HOSTILE = "c/<img src=x onerror=window.broken=2>.jpg"
NAMES = [f"<b>kind</b> {number}" for number in range(CLASSES)]


def labels(images, seed):
    """The largest classes of labels of several views that say alike, and their probabilities."""
    rng = np.random.default_rng(seed)
    logits = 3 * rng.normal(size=(images, 1, CLASSES)) + rng.normal(size=(images, VIEWS, CLASSES))
    exact = np.exp(logits - logits.max(-1, keepdims=True))
    exact /= exact.sum(-1, keepdims=True)
    order = np.argsort(-exact, axis=-1)[..., :K]
    return order, np.take_along_axis(exact, order, -1).astype(np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Photos, one of them with a hostile name; stores of two teachers, and one of other views."""
    folder = tmp_path_factory.mktemp("compare")
    place_photos(folder / "all")
    files = sorted((folder / "all").glob("*/*"))
    keys = sorted([HOSTILE, *(f.relative_to(folder / "all").as_posix() for f in files[1:])])
    sizes = []
    for key, file in zip(keys, files, strict=True):
        place = folder / "photos" / key
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, place)
        with Image.open(file) as photo:
            sizes.append(photo.size)
    widths, heights = np.array(sizes).T
    for name, seed, law in (("a", 1, 3), ("b", 2, 3), ("other", 2, 4)):
        indices, probs = labels(len(keys), seed)
        labelstore.write(
            folder / f"{name}.zarr",
            indices,
            probs,
            CLASSES,
            keys=keys,
            targets=labels(len(keys), 1)[0][:, 0, 0],
            law=ViewLaw(law),
            widths=widths,
            heights=heights,
            class_names=NAMES,
            temperature=1.0,
        )
    shutil.rmtree(folder / "all")
    single = {"law": ViewLaw(1), "widths": [9] * 3, "heights": [9] * 3}
    for name, value in (("one", 0.9), ("two", 0.8)):
        shape = (3, 2, 1)
        path = folder / f"{name}.zarr"
        labelstore.write(path, np.zeros(shape, int), np.full(shape, value), 1, **single)
    for page, a, b, more in (
        ("full", "a", "b", ["--photos", str(folder / "photos"), "--extremes", "20"]),
        ("images", "a", "other", ["--photos", str(folder / "photos")]),
        ("single", "one", "two", []),
        ("same", "a", "a", ["--photos", str(folder / "photos")]),
    ):
        arguments = [str(folder / f"{name}.zarr") for name in (a, b)]
        arguments += ["--report", str(folder / f"{page}.html"), *more]
        done = CliRunner().invoke(main, ["compare", *arguments])
        assert done.exit_code == 0, done.output
    return folder


@pytest.fixture(scope="module")
def told(folder):
    return compare(folder / "a.zarr", folder / "b.zarr", extremes=20)


@pytest.fixture(scope="module")
def started(folder):
    with open_browser(folder / "profile") as browser:
        # Its own first page asks for much.
        visit(browser, folder / "single.html")
        yield browser


@pytest.fixture
def browser(started, folder):
    """The page with photos, as it opens; nothing may go wrong until the test's end."""
    with watched(started, folder / "full.html"):
        yield started


def test_its_numbers_are_those_of_the_comparison(browser, told):
    tiles = texts(browser, "#summary .figures strong")
    assert tiles == [
        f"{told['agreement']['top1']['mean']:.2%}",
        f"{told['agreement']['top_n']['mean']:.2%}",
        *(f"{told[name]['mean']:.3f}" for name in ("total_variation", "kl_ab", "kl_ba")),
    ]
    cells = texts(browser, "#distances tbody td.number")
    names = ("kl_ab", "kl_ba", "total_variation")
    expected = [f"{told[name]['mean']:.4f}" for name in names]
    for place in range(4):
        expected += [f"{told[name]['quantiles'][place]['value']:.4f}" for name in names]
    assert cells == expected
    decisions = [cell.split(" ")[0] for cell in texts(browser, "#ferkd td.cell")]
    assert decisions == [str(part["count"]) for part in told["ferkd"]["decisions"]]
    right = texts(browser, "#truth tbody td.number")
    assert right[0] == f"{told['truth']['a']['top1']['mean']:.2%}"
    sections = texts(browser, "main > section > h2")
    assert texts(browser, "nav li") == sections
    assert len(sections) == 10


def test_the_heat_map_has_a_cell_for_each_range_with_crops(browser, told):
    cells = browser.find_elements("css selector", "#scatter [aria-label=rect] rect")
    counts = np.array(told["confidence"]["counts"])
    assert len(cells) == (counts > 0).sum()
    strongest = [float(cell.get_attribute("fill-opacity")) for cell in cells]
    assert max(strongest) == 1
    assert strongest.count(1) == (counts == counts.max()).sum()


def test_views_are_drawn_with_both_labels(browser, told):
    shown = browser.execute_script(
        "return [...document.querySelectorAll('#views li.drawn')].map((li) => ({"
        "key: li.querySelector('.key').textContent, width: li.querySelector('img').naturalWidth,"
        "alt: li.querySelector('img').alt,"
        "sides: [...li.querySelectorAll('.both > div')].map((side) =>"
        "[...side.querySelectorAll('li')].map((bar) => [bar.className, bar.textContent]))}))"
    )
    assert len(shown) == len(told["largest_views"]) == 20
    for entry, view in zip(shown, told["largest_views"], strict=True):
        assert entry["key"] == view["key"]
        assert entry["alt"] == f"view {view['view']} of {view['key']}"
        assert entry["width"] == 112
        for side, bars in zip("ab", entry["sides"], strict=True):
            assert [text for _, text in bars] == [
                f"{NAMES[top['class']]}{top['probability']:.1%}" for top in view[side]
            ]
            truth = [top["class"] == view["target"] for top in view[side]]
            assert [name == "truth" for name, _ in bars] == truth


def test_the_tables_sort_and_are_searched(browser, told):
    head = "#classes th:nth-child(5)"
    rows = [row for row in told["classes"] if row["total_variation"] is not None]
    values = sorted((row["total_variation"] for row in rows), reverse=True)
    cells = "#classes tbody td:nth-child(5)"
    assert element(browser, head).get_attribute("aria-sort") == "descending"
    assert texts(browser, cells)[: len(values)] == [f"{value:.3f}" for value in values]
    element(browser, f"{head} button").click()
    assert texts(browser, cells)[: len(values)] == [f"{value:.3f}" for value in values[::-1]]
    pair = told["pairs"][0]
    words = f"{NAMES[pair['a']]} ({pair['a']}) {NAMES[pair['b']]} ({pair['b']})"
    element(browser, "#pairs input").send_keys(words)
    first = texts(browser, "#pairs tbody tr:first-child td")
    assert first[2] == str(pair["crops"])


def test_names_are_text_and_never_markup(browser):
    assert browser.execute_script("return window.broken") is None
    assert browser.execute_script("return document.querySelectorAll('main script, b').length") == 0
    assert HOSTILE in browser.execute_script("return document.body.innerText")


@pytest.mark.parametrize("name", ["images", "single"])
def test_a_page_that_has_less_is_a_page_all_the_same(browser, folder, name):
    visit(browser, folder / f"{name}.html")
    text = browser.execute_script("return document.body.innerText")
    for word in ("NaN", "undefined", "null"):
        assert word not in text
    assert len(browser.find_elements("css selector", "#ferkd")) == (name != "images")
    if name == "images":
        assert "the means over each image's views are compared instead" in text
        assert len(browser.find_elements("css selector", "#images li.drawn")) == 10
        assert not browser.find_elements("css selector", "#views")
    data = json.loads(element(browser, "#data").get_attribute("textContent"))
    assert data["comparison"]["crops"] == (20 if name == "images" else 6)


def test_of_the_same_labels_none_differ_most(browser, folder):
    visit(browser, folder / "same.html")
    assert texts(browser, "#views .quiet") == ["No view differs."]
    assert texts(browser, "#images .quiet") == ["No photo differs."]
    assert not browser.find_elements("css selector", "ul.pairs")
    stores = [str(folder / "a.zarr")] * 2
    printed = CliRunner().invoke(main, ["compare", *stores]).stdout
    assert "mean confidence of A" in printed
    assert "Views that differ most" not in printed
    assert "Images that differ most" not in printed


@pytest.mark.parametrize("name", ["full", "images", "single"])
def test_a_phone_scrolls_down_alone(browser, folder, name):
    set_width(browser, 380)
    visit(browser, folder / f"{name}.html")
    assert browser.execute_script("return document.documentElement.scrollWidth") == 380
    outside = browser.execute_script(
        "return [...document.querySelectorAll('main *')].filter((e) =>"
        "!e.closest('.scroll, svg') && e.getBoundingClientRect().right > 381)"
        ".map((e) => e.outerHTML.slice(0, 80))"
    )
    assert outside == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast_is_aa_and_no_plot_is_empty(browser, scheme):
    set_scheme(browser, scheme)
    drawn(browser)
    seen, poor = browser.execute_script(CONTRAST)
    assert seen > 300
    assert poor == []
    charts = browser.find_elements("css selector", "figure .chart")
    assert len(charts) == 2
    for chart in charts:
        svg = chart.find_element("css selector", "svg")
        assert svg.get_attribute("aria-label")
        marks = svg.find_elements("css selector", "[aria-label=rect] rect")
        full = ink(browser, chart)
        hide = "for (const mark of arguments[0]) mark.style.visibility = arguments[1]"
        browser.execute_script(hide, marks, "hidden")
        assert full > ink(browser, chart) + 200
        browser.execute_script(hide, marks, "visible")
