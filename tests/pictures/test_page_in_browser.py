"""The page of ``labelstore inspect --report`` in a real browser."""

import json
import shutil

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import labelstore
from labelstore.cli.main import main
from labelstore.operations.demo import place_photos
from labelstore.operations.inspection.gallery.page_data import page_data
from labelstore.operations.inspection.inspect import report
from labelstore.pictures import page
from labelstore.views.law import ViewLaw
from tests.support.browser import (
    CONTRAST,
    drawn,
    element,
    ink,
    needs_browser,
    open_browser,
    requests_of,
    set_scheme,
    set_width,
    texts,
    visit,
    watched,
)
from tests.support.stores import written

pytestmark = needs_browser

VIEWS, K, CLASSES = 12, 6, 30
HOSTILE = (
    "c/<script>window.broken = 1</script>.jpg",
    "c/<img src=x onerror=window.broken=2>.jpg",
    "c/\x1b[31mred\x1b[0m.jpg",
    "c/\u202egpj.exe.jpg",
    "c/<!--.jpg",
)
SHOWN = {
    "c/\x1b[31mred\x1b[0m.jpg": r"c/\x1b[31mred\x1b[0m.jpg",
    "c/\u202egpj.exe.jpg": r"c/\u202egpj.exe.jpg",
}
"""How keys with signs that nobody sees are shown; the others are shown as they are."""

SLIDER = "threshold-{}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Photos, five of them with hostile names, and a store of made labels for them."""
    folder = tmp_path_factory.mktemp("page")
    place_photos(folder / "all")
    files = sorted((folder / "all").glob("*/*"))
    keys = [file.relative_to(folder / "all").as_posix() for file in files[len(HOSTILE) :]]
    keys = sorted([*HOSTILE, *keys])
    sizes = []
    for key, file in zip(keys, files, strict=True):
        place = folder / "photos" / key
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, place)
        with Image.open(file) as photo:
            sizes.append(photo.size)
    rng = np.random.default_rng(5)
    shape = (len(keys), VIEWS, CLASSES)
    logits = 4 * rng.normal(size=(len(keys), 1, CLASSES)) + rng.normal(size=shape)
    # Views that say little, and views that say much.
    logits *= rng.choice([0.1, 0.4, 1.0], size=(len(keys), VIEWS, 1))
    exact = np.exp(logits - logits.max(-1, keepdims=True))
    exact /= exact.sum(-1, keepdims=True)
    order = np.argsort(-exact, axis=-1)[..., :K]
    targets = order[:, 0, 0].copy()
    targets[::4] = (targets[::4] + 1) % CLASSES
    labelstore.write(
        folder / "teacher.zarr",
        order,
        np.take_along_axis(exact, order, -1).astype(np.float32),
        CLASSES,
        keys=keys,
        targets=targets,
        law=ViewLaw(3),
        widths=np.array(sizes)[:, 0],
        heights=np.array(sizes)[:, 1],
        class_names=[f"<b>kind</b> {number}" for number in range(CLASSES)],
    )
    shutil.rmtree(folder / "all")
    arguments = ["inspect", folder / "teacher.zarr", "--report", folder / "teacher.html"]
    done = CliRunner().invoke(main, [*map(str, arguments), "--photos", str(folder / "photos")])
    assert done.exit_code == 0, done.output
    plain = labelstore.write(
        folder / "plain.zarr", np.zeros((4, 3, 1), int), np.full((4, 3, 1), 0.9), 1
    )
    (folder / "plain.html").write_text(
        page.render("report", "plain", page_data(plain, report(plain))), encoding="utf-8"
    )
    return folder


@pytest.fixture(scope="module")
def store(folder):
    return labelstore.open(folder / "teacher.zarr")


@pytest.fixture(scope="module")
def told(store):
    return report(store)


@pytest.fixture(scope="module")
def started(folder):
    with open_browser(folder / "profile") as browser:
        # Its own first page asks for much.
        visit(browser, folder / "plain.html")
        yield browser


@pytest.fixture
def browser(started, folder):
    """The page with photos, as it opens; nothing may go wrong until the test's end."""
    with watched(started, folder / "teacher.html"):
        yield started


def counts_of(values, low, middle, top):
    """What FerKD makes of confidences, slowly: too hard, calibrated, kept, too easy."""
    counts = [0, 0, 0, 0]
    for value in values.reshape(-1):
        if value <= np.float32(low):
            counts[0] += 1
        elif value > np.float32(top):
            counts[3] += 1
        else:
            counts[1 if value <= np.float32(middle) else 2] += 1
    return counts


def shown_counts(browser):
    """Counts and shares in the table of what FerKD does."""
    cells = texts(browser, ".parts tbody td.number")
    return [int(cell.replace(",", "")) for cell in cells[::2]], cells[1::2]


def values_of(browser):
    return [
        float(element(browser, f"#{SLIDER.format(name)}").get_attribute("aria-valuenow"))
        for name in ("low", "middle", "top")
    ]


def check_counts(browser, store):
    values = store.confidence()
    counts, shares = shown_counts(browser)
    assert counts == counts_of(values, *values_of(browser))
    assert shares == [f"{100 * count / values.size:.2f}%" for count in counts]
    return counts


def test_it_opens_without_an_error_or_a_request(browser, folder):
    assert requests_of(browser) == [(folder / "teacher.html").as_uri()]
    resources = "return performance.getEntriesByType('resource').map((entry) => entry.name)"
    assert [n for n in browser.execute_script(resources) if not n.startswith("data:")] == []
    sections = texts(browser, "main > section > h2")
    assert len(sections) == 13
    assert texts(browser, "nav li") == sections


def test_thresholds_move_by_keyboard_and_counts_are_exact(browser, store):
    from selenium.webdriver.common.keys import Keys

    assert values_of(browser) == [0.15, 0.3, 0.95]
    before = check_counts(browser, store)
    low = element(browser, "#threshold-low")
    assert low.get_attribute("role") == "slider"
    low.send_keys(Keys.ARROW_RIGHT * 3)
    assert values_of(browser)[0] == 0.165
    low.send_keys(Keys.PAGE_UP)
    assert values_of(browser)[0] == 0.215
    counts = check_counts(browser, store)
    assert counts[0] > before[0]
    text = low.get_attribute("aria-valuetext")
    assert text.startswith(f"0.215: {counts[0]} crop")
    low.send_keys(Keys.END)
    assert values_of(browser) == [0.3, 0.3, 0.95]
    check_counts(browser, store)
    top = element(browser, "#threshold-top")
    top.send_keys(Keys.END)
    assert check_counts(browser, store)[3] == 0
    top.send_keys(Keys.HOME)
    assert values_of(browser) == [0.3, 0.3, 0.3]
    assert check_counts(browser, store)[2] == 0
    assert "--low 0.3 --middle 0.3 --top 0.3" in texts(browser, "#thresholds code")
    element(browser, "#thresholds button").click()
    assert check_counts(browser, store) == before


def test_thresholds_move_by_mouse(browser, store):
    from selenium.webdriver import ActionChains

    middle = element(browser, "#threshold-middle .pill")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", middle)
    width = browser.execute_script(
        "return document.querySelector('#thresholds .chart').clientWidth - 58"
    )
    ActionChains(browser).click_and_hold(middle).move_by_offset(
        round(width / 4), 0
    ).release().perform()
    low, value, top = values_of(browser)
    assert (low, top) == (0.15, 0.95)
    assert 0.45 < value < 0.65
    assert round(value * 200) == pytest.approx(value * 200)
    check_counts(browser, store)


def test_examples_lie_on_either_side_of_each_threshold(browser):
    for heading, groups in zip(
        texts(browser, "#thresholds h3")[1:],
        browser.execute_script(
            "return [...document.querySelectorAll('#thresholds .sides')].map((sides) =>"
            "[...sides.children].map((side) =>"
            "[...side.querySelectorAll('strong')].map((e) => Number(e.textContent))))"
        ),
        strict=True,
    ):
        threshold = float(heading.rpartition(", ")[2])
        below, above = groups
        assert below
        assert above
        # They are shown with three digits.
        assert max(below) <= threshold + 0.0005
        assert min(above) >= threshold - 0.0005
    pictures = "return [...document.querySelectorAll('.crops img')].every((i) => i.naturalWidth)"
    assert browser.execute_script(pictures)


def test_examples_are_of_the_part_that_their_heading_names(browser, folder):
    """Where a part is empty, the next crops are of another."""
    path = folder / "sure.zarr"
    labels = (np.zeros((6, 4, 1), int), np.full((6, 4, 1), 0.5))
    sizes = {"widths": [9] * 6, "heights": [9] * 6}
    store = labelstore.write(path, *labels, 3, law=ViewLaw(1), **sizes)
    page_of_it = folder / "sure.html"
    data = page_data(store, report(store))
    page_of_it.write_text(page.render("report", "sure", data), encoding="utf-8")
    visit(browser, page_of_it)
    shown = browser.execute_script(
        "return [...document.querySelectorAll('#thresholds .sides > div')].map((side) =>"
        "[side.querySelector('h4').textContent, side.querySelectorAll('li').length])"
    )
    assert [words.partition(": ")[2] for words, _ in shown] == [
        *("discarded (too hard)", "calibrated", "calibrated", "kept"),
        *("kept", "discarded (too easy)"),
    ]
    assert [crops for _, crops in shown] == [0, 0, 0, 3, 3, 0]


def test_a_small_photo_is_drawn_as_large_as_others(browser, folder):
    """A photo of 32 pixels' boxes could not be told apart."""
    path = folder / "small.zarr"
    place = folder / "small" / "c"
    place.mkdir(parents=True)
    Image.new("RGB", (32, 16), "red").save(place / "0.png")
    sizes = {"widths": [32], "heights": [16]}
    labels = (np.zeros((1, 4, 1), int), np.full((1, 4, 1), 0.5))
    labelstore.write(path, *labels, 3, keys=["c/0.png"], law=ViewLaw(1), **sizes)
    arguments = ["inspect", path, "--report", folder / "small.html", "--photos", folder / "small"]
    done = CliRunner().invoke(main, list(map(str, arguments)))
    assert done.exit_code == 0, done.output
    visit(browser, folder / "small.html")
    picture = element(browser, ".boxed img")
    assert picture.get_attribute("naturalWidth") == "32"
    assert (picture.size["width"], picture.size["height"]) == (256, 128)
    assert element(browser, ".boxed svg").size == picture.size


def test_numbers_are_those_of_the_report(browser, told):
    assert element(browser, "#calibration-error").text == (
        f"{told['reliability']['expected_calibration_error']:.4f}"
    )
    tiles = texts(browser, "#summary .figures strong")
    assert tiles[:3] == [
        str(told["store"]["labelled_crops"]),
        f"{told['agreement']['top1']:.2%}",
        f"{told['agreement']['top_n']:.2%}",
    ]
    counts = texts(browser, "#table tbody td:nth-child(2)")
    assert counts == [str(row["count"]) for row in told["table"]]
    rows = texts(browser, "#ground-truth li .key")
    assert rows == [
        SHOWN.get(entry["key"], entry["key"])
        for entry in told["wrong_targets"]["entries"]
        if entry["candidate"] or entry["margin"] < 0
    ]
    assert 0 < len(rows) < told["store"]["images"]
    assert texts(browser, "#alerts li strong") == [
        alert["kind"].replace("_", " ") for alert in told["alerts"]
    ]


def test_the_table_of_classes_sorts_and_is_searched(browser, told):
    head = "#classes th:nth-child(3)"
    cells = "#classes tbody td:nth-child(3)"
    values = sorted(row["confidence"] for row in told["classes"] if row["confidence"] is not None)
    element(browser, f"{head} button").click()
    assert element(browser, head).get_attribute("aria-sort") == "descending"
    assert texts(browser, cells)[:5] == [f"{value:.3f}" for value in values[::-1][:5]]
    element(browser, f"{head} button").click()
    assert element(browser, head).get_attribute("aria-sort") == "ascending"
    assert texts(browser, cells)[:5] == [f"{value:.3f}" for value in values[:5]]
    assert len(browser.find_elements("css selector", "#classes th[aria-sort]")) == 1
    number = max(row["class"] for row in told["classes"])
    element(browser, "#classes input").send_keys(f"kind</b> {number} (")
    assert texts(browser, "#classes tbody td:first-child") == [f"<b>kind</b> {number} ({number})"]
    element(browser, "#classes input").send_keys(" no such class")
    assert texts(browser, "#classes tbody td") == []


def test_confusions_lead_to_their_photos(browser, told):
    links = browser.find_elements("css selector", "#confusion tbody a")
    expected = [entry for pair in told["confusion"][:10] for entry in pair["images"]]
    assert len(links) == len(expected)
    for link, entry in list(zip(links, expected, strict=True))[:4]:
        picture = link.find_element("css selector", "img")
        link.click()
        assert browser.execute_script("return location.hash") == f"#photo-{entry['image']}"
        target = element(browser, ":target")
        key = SHOWN.get(entry["key"], entry["key"])
        assert target.find_element("css selector", ".key").text == key
        shown = target.find_element("css selector", "img")
        assert shown.get_attribute("src") == picture.get_attribute("src")
        top = browser.execute_script("return arguments[0].getBoundingClientRect().top", target)
        assert -5 < top < 900


def test_boxes_and_labels_of_the_gallery_are_the_stores(browser, store):
    image = store.index_of(HOSTILE[0])
    rows = browser.execute_script(
        "const photo = document.getElementById(arguments[0]);"
        "return [...photo.querySelectorAll('rect:not(.under)')].map((r) =>"
        "['data-view', 'y', 'x', 'height', 'width'].map((name) => Number(r.getAttribute(name))))",
        f"photo-{image}",
    )
    assert len(rows) == 6
    for view, *box in rows:
        assert box == store.views(image, view).box.tolist()
    topk = store.read(image, rows[0][0])
    shown = texts(
        browser,
        f"#photo-{image} .ends > :first-child .views > :first-child .labels > :first-child li",
    )
    assert shown == [
        f"<b>kind</b> {number}{p:.1%}"
        for number, p in zip(topk.indices[:5], topk.probs[:5], strict=True)
        if p > 0
    ]


def test_hostile_names_are_text(browser):
    assert browser.execute_script("return window.broken") is None
    assert browser.execute_script("return document.querySelectorAll('main script, b').length") == 0
    text = browser.execute_script("return document.body.innerText")
    for key in HOSTILE:
        assert SHOWN.get(key, key) in text
    assert "\x1b" not in text
    assert "\u202e" not in text


@pytest.mark.parametrize("name", ["teacher", "plain"])
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


def test_everything_is_reached_by_keyboard(browser, folder):
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.keys import Keys

    wanted = (
        "[...document.querySelectorAll('a[href], button:not(:disabled), input, summary,"
        ' [tabindex="0"]\')].filter((e) => e.checkVisibility())'
    )
    count = browser.execute_script(
        "window.seen = new Set(); document.addEventListener('focusin', (event) =>"
        f"window.seen.add(event.target)); return {wanted}.length"
    )
    assert count > 50
    ActionChains(browser).send_keys(Keys.TAB * (count + 5)).perform()
    missed = browser.execute_script(
        f"return {wanted}.filter((e) => !window.seen.has(e)).map((e) => e.outerHTML.slice(0, 90))"
    )
    assert missed == []
    # What is focused is seen to be. Of what was reached some may be hidden or disabled by now.
    unseen = browser.execute_script(
        f"return {wanted}.filter((e) => {{ e.focus();"
        "const inner = e.querySelector('.pill') || e;"
        "return e.id !== 'main' && getComputedStyle(inner).outlineStyle === 'none' })"
        ".map((e) => [document.hasFocus(), e.outerHTML.slice(0, 90)])"
    )
    assert unseen == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast_is_aa(browser, scheme):
    set_scheme(browser, scheme)
    drawn(browser)
    seen, poor = browser.execute_script(CONTRAST)
    assert seen > 500
    assert poor == []
    # Marks of charts: 3 to 1 against the ground (WCAG 1.4.11).
    colours = browser.execute_script(
        "const probe = document.createElement('i'); document.body.append(probe);"
        "return arguments[0].map((name) => { probe.style.color = `var(--${name})`;"
        "return getComputedStyle(probe).color })",
        ["ground", *MARKS],
    )
    ground, *marks = (luminance(colour) for colour in colours)
    for name, mark in zip(MARKS, marks, strict=True):
        ratio = (max(ground, mark) + 0.05) / (min(ground, mark) + 0.05)
        assert ratio >= 3, name


MARKS = (
    *(f"c{step}" for step in range(10)),
    *("discarded-low", "calibrated", "kept", "discarded-high", "bar", "accent"),
)


def luminance(colour):
    values = [int(part) / 255 for part in colour.removeprefix("rgb(").rstrip(")").split(",")]
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in values]
    return float(np.dot([0.2126, 0.7152, 0.0722], linear))


@pytest.mark.parametrize("scheme", ["light", pytest.param("dark", marks=pytest.mark.slow)])
def test_no_plot_is_empty(browser, scheme):
    set_scheme(browser, scheme)
    drawn(browser)
    charts = browser.find_elements("css selector", "figure .chart")
    assert len(charts) == 8
    for chart in charts:
        svg = chart.find_element("css selector", "svg")
        name = svg.get_attribute("aria-label")
        assert name
        marks = svg.find_elements(
            "css selector",
            "[aria-label=rect] rect, [aria-label=dot] circle, [aria-label=line] path",
        )
        assert marks, name
        # Without its marks the same picture has less in it.
        full = ink(browser, chart)
        hide = "for (const mark of arguments[0]) mark.style.visibility = arguments[1]"
        browser.execute_script(hide, marks, "hidden")
        assert full > ink(browser, chart) + 200, name
        browser.execute_script(hide, marks, "visible")


def test_a_store_that_says_little_has_a_page_all_the_same(browser, folder):
    visit(browser, folder / "plain.html")
    text = browser.execute_script("return document.body.innerText")
    assert "The store has no ground truth" in text
    assert "boxes cannot be drawn" in text
    assert "NaN" not in text
    assert "undefined" not in text
    assert "null" not in text


def test_the_thresholds_that_fit_are_told(browser, folder):
    store, _, _ = written(folder / "fit.zarr", images=40, views=25)
    path = folder / "fit.html"
    for rule in (None, labelstore.FerKD(confidence="target")):
        data = page_data(store, report(store, rule))
        path.write_text(page.render("report", "fit", data), encoding="utf-8")
        visit(browser, path)
        fitted = labelstore.FerKD.fit(store)
        flags = f"--low {fitted.low} --middle {fitted.middle} --top {fitted.top}"
        # Of the probability of the ground truth there are none.
        assert texts(browser, "#fitted code") == ([flags] if rule is None else [])
    counts = fitted.count(store.confidence())
    path.write_text(page.render("report", "fit", page_data(store, report(store))), encoding="utf-8")
    visit(browser, path)
    (told,) = texts(browser, "#fitted")
    assert f"{100 * counts.calibrated / counts.views:.2f}% calibrated" in told.replace(" %", "%")


def test_thresholds_that_were_given_need_not_be_among_those_of_the_curve(browser, folder):
    """By the probability of the ground truth, too."""
    store, _, _ = written(folder / "target.zarr", k=5)
    rule = labelstore.FerKD(low=0.0123, middle=0.3, top=0.95, confidence="target")
    data = page_data(store, report(store, rule))
    path = folder / "target.html"
    path.write_text(page.render("report", "target", data), encoding="utf-8")
    visit(browser, path)
    assert values_of(browser)[0] == 0.0123
    topk = store.read(np.arange(store.num_images)[:, None], np.arange(store.num_views))
    values = topk.probability(store.targets[:, None])
    counts, _ = shown_counts(browser)
    assert counts == counts_of(values, 0.0123, 0.3, 0.95)
    assert data["report"]["thresholds"]["at_most"][10] == int((values <= np.float32(0.05)).sum())
    json.dumps(data, allow_nan=False)
