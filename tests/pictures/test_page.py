"""A page is one file that loads nothing and that no text breaks out of."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser

import pytest

from labelstore.errors import UsageError
from labelstore.pictures import page

HOSTILE = (
    "</script><script>alert(1)</script>",
    "<!--<script>",
    "]]>\u2028\u2029",
    "\x1b[31m\u202egpj.exe\ud800",
    '"><img src=x onerror=alert(1)>&amp;',
    "{{scripts}}",
)


class Parts(HTMLParser):
    """Scripts, titles and elements that a parser sees."""

    def __init__(self):
        super().__init__()
        self.scripts, self.tags, self.title = [], [], ""
        self._within = None

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self._within = tag
        if tag == "script":
            self.scripts.append((dict(attributes), ""))

    def handle_endtag(self, tag):
        self._within = None

    def handle_data(self, data):
        if self._within == "script":
            self.scripts[-1] = (self.scripts[-1][0], self.scripts[-1][1] + data)
        if self._within == "title":
            self.title += data


def parsed(document):
    parts = Parts()
    parts.feed(document)
    parts.close()
    return parts


@pytest.fixture(scope="module")
def document():
    return page.render("report", "".join(HOSTILE), {"keys": HOSTILE, "of": {HOSTILE[0]: 1.5}})


def test_data_come_back_as_they_were_and_break_nothing(document):
    plain = parsed(page.render("report", "plain", {}))
    hostile = parsed(document)
    assert [tag for tag, _ in hostile.tags] == [tag for tag, _ in plain.tags]
    (data,) = [text for kind, text in hostile.scripts if kind.get("type") == "application/json"]
    assert json.loads(data) == {"keys": list(HOSTILE), "of": {HOSTILE[0]: 1.5}}
    assert not re.search("[<>&\u2028\u2029]", data)
    assert "<script>" in hostile.title
    assert "\x1b" not in hostile.title
    assert "\u202e" not in hostile.title
    document.encode()


def test_scripts_that_run_are_those_that_the_policy_names(document):
    parts = parsed(document)
    (policy,) = [a["content"] for tag, a in parts.tags if a.get("http-equiv")]
    assert policy.startswith("default-src 'none'; ")
    assert "img-src data:;" in policy
    running = [text for kind, text in parts.scripts if "type" not in kind]
    assert len(running) == 4
    for text in running:
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy


def test_it_refers_to_nothing_outside(document):
    for tag, attributes in parsed(document).tags:
        for name in ("src", "href", "action", "data", "srcset", "poster"):
            assert attributes.get(name, "#").startswith("#"), (tag, attributes)
    style = document[document.index("<style>") : document.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style


def test_licences_stand_in_it(document):
    assert "Mike Bostock" in document
    assert "Observable, Inc." in document
    assert document.count("THE SOFTWARE IS PROVIDED") >= 2


def test_numbers_that_json_has_not_are_refused():
    with pytest.raises(ValueError, match="JSON"):
        page.render("report", "x", {"mean": float("nan")})


def test_only_pages_are_replaced(tmp_path):
    path = tmp_path / "report.html"
    page.write(path, page.render("report", "one", {}))
    page.write(path, page.render("report", "two", {}))
    assert "<title>two</title>" in path.read_text(encoding="utf-8")
    path.write_text("<p>my thesis</p>")
    with pytest.raises(UsageError, match="--overwrite"):
        page.write(path, page.render("report", "three", {}))
    assert path.read_text() == "<p>my thesis</p>"
    page.write(path, page.render("report", "three", {}), overwrite=True)
    assert "<title>three</title>" in path.read_text(encoding="utf-8")
    with pytest.raises(UsageError, match="folder"):
        page.write(tmp_path, "")
    with pytest.raises(UsageError, match="does not exist"):
        page.write(tmp_path / "no" / "such.html", "")
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.html"]
