"""``labelstore inspect --report``: where the page goes, and what is refused before any work."""

import json

import pytest
from click.testing import CliRunner
from PIL import Image

from labelstore.cli.main import main
from labelstore.operations.demo import place_photos
from tests.support.stores import written


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return written(tmp_path_factory.mktemp("page") / "made.zarr")[0]


def inspect(store, *arguments, code=0):
    done = CliRunner().invoke(main, ["inspect", str(store.path), *map(str, arguments)])
    assert done.exit_code == code, done.output
    return done


def data_of(path):
    text = path.read_text(encoding="utf-8")
    _, _, rest = text.partition('<script type="application/json" id="data">')
    return json.loads(rest.partition("</script>")[0])


def test_the_page_has_the_numbers_of_json(store, tmp_path):
    path = tmp_path / "report.html"
    done = inspect(store, "--report", path, "--json", "--low", 0.2)
    told = json.loads(done.stdout)
    assert f"the page was written to {path} (" in done.stderr
    assert "--photos SOURCE shows them" in done.stderr
    data = data_of(path)
    classes = data["report"].pop("classes")
    rows = told.pop("classes")
    assert data["report"] == told
    assert classes == {name: [row[name] for row in rows] for name in rows[0]}


def test_a_page_is_replaced_and_nothing_else_is(store, tmp_path):
    path = tmp_path / "report.html"
    inspect(store, "--report", path)
    first = path.read_bytes()
    inspect(store, "--report", path, "--low", 0.2)
    assert path.read_bytes() != first
    path.write_text("my own page")
    done = inspect(store, "--report", path, code=2)
    assert "is no page of labelstore's" in done.stderr
    assert path.read_text() == "my own page"
    inspect(store, "--report", path, "--overwrite")
    assert data_of(path)["report"]["store"]["id"] == store.id
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.html"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--photos", "x"], "--photos was given without --report"),
        (["--overwrite"], "--overwrite was given without --report"),
        (["--report", "page.html", "--max-pixels", "9"], "without --photos"),
        (["--report", "page.png"], "does not end in one of .html, .htm"),
        (["--report", "no/such/page.html"], "does not exist"),
        (["--report", "page.html", "--photos", "no-such"], "no-such"),
    ],
)
def test_what_cannot_be_done_is_refused_at_once(store, tmp_path, monkeypatch, arguments, told):
    monkeypatch.chdir(tmp_path)
    done = inspect(store, *arguments, code=1 if "no-such" in arguments else 2)
    assert told in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_photos_of_another_data_set_are_refused(store, tmp_path):
    place_photos(tmp_path / "photos")
    path = tmp_path / "report.html"
    done = inspect(store, "--report", path, "--photos", tmp_path / "photos", code=1)
    assert "has none of the 20 labelled images" in done.stderr
    assert not path.exists()


def test_photos_that_are_not_shown_are_told(store, tmp_path):
    photos = tmp_path / "photos"
    (photos / "c").mkdir(parents=True)
    for image, key in enumerate(store.keys[:4]):
        width, height = (int(side) for side in store.sizes(image))
        Image.new("RGB", (width + (image == 0), height)).save(photos / key)
    path = tmp_path / "report.html"
    done = inspect(store, "--report", path, "--photos", photos)
    assert "1 photo not as labelled" in done.stderr
    assert "16 photos missing" in done.stderr
    shown = [image["image"] for image in data_of(path)["images"] if image["picture"]]
    assert shown == [1, 2, 3]
