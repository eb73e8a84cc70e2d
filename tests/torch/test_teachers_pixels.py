"""What a student is shown is what the teacher was shown, to the bit, whatever the photos are."""

from __future__ import annotations

import io
import shutil

import numpy as np
import pytest
from PIL import Image, ImageOps
from torchvision.datasets import ImageFolder

from labelstore.images.sources.folder import FolderSource
from labelstore.producer.labeller import Labeller
from labelstore.teachers.load import load_teacher
from labelstore.torch import HuggingFaceViews, SoftLabelDataset, StreamingViews, WebDatasetViews
from labelstore.torch.dataset import Show
from tests.support.augmented import labelled
from tests.support.stores import few_photos

VIEWS = 4
NETWORK = """
import torch

def build():
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 24 * 20, 9))
    preprocessing = {"input_size": (24, 20), "mean": (0.5,) * 3, "std": (0.2,) * 3}
    return network, {**preprocessing, "interpolation": "bicubic"}
"""


@pytest.fixture(scope="module")
def odd_photos(tmp_path_factory):
    """Every kind that Pillow makes RGB of in a way of its own, names with dots, and a copy."""
    folder = tmp_path_factory.mktemp("odd")
    sources = sorted(few_photos(folder, 3).iterdir())
    one, two, three = (Image.open(file).convert("RGB").resize((90, 70)) for file in sources)
    root = folder / "photos"
    turned, mirrored = Image.Exif(), Image.Exif()
    turned[0x0112], mirrored[0x0112] = 6, 2
    paletted, seen_through = two.quantize(16), three.convert("RGBA")
    seen_through.putalpha(100)
    frames = {"save_all": True, "append_images": [three]}
    photos = {
        "a/exif 6.jpg": (one, {"exif": turned}),
        "a/mirrored.png": (one, {"exif": mirrored}),
        "a/turned.tif": (two, {"exif": turned}),
        "a/cmyk.JPG": (two.convert("CMYK"), {}),
        "a/palette.x.y.png": (paletted, {"transparency": 3}),
        "a/grey with alpha.png": (three.convert("LA"), {}),
        "a/alpha.webp": (seen_through, {"lossless": True}),
        "b/two colours.png": (one.convert("1"), {}),
        "b/ünï cödé.jpeg": (three, {"progressive": True}),
        "b/moving.webp": (two, {**frames, "lossless": True}),
        "b/moving.gif": (one.quantize(32), {**frames, "append_images": [two.quantize(32)]}),
        "b/thin.png": (one.crop((0, 30, 90, 31)), {}),
        "b/tall.png": (one.crop((5, 0, 6, 70)), {}),
        "b/dot.png": (one.crop((5, 5, 6, 6)), {}),
        "b/same.jpg": (one, {}),
    }
    for key, (photo, options) in photos.items():
        (root / key).parent.mkdir(parents=True, exist_ok=True)
        photo.save(root / key, **options)
    shutil.copy(root / "b/same.jpg", root / "a/same.jpg")
    return root


@pytest.mark.parametrize("stages", [(), ("ta-wide", "mix-0.8-1-r1")], ids=["plain", "mixed"])
@pytest.mark.filterwarnings("ignore:the data set lacks 1 of")  # torchvision sees no GIF
def test_all_loaders_show_what_the_teacher_saw(odd_photos, tmp_path, monkeypatch, stages):
    (tmp_path / "linear_teacher.py").write_text(NETWORK)
    monkeypatch.syspath_prepend(tmp_path)
    teacher = load_teacher("python:linear_teacher:build", device="cpu")
    seen, begin = {}, Labeller._begin

    def noted(self, batch):
        if batch.readable:
            (pixels,) = batch.pixels.values()
            places = [(run.image, view) for run in batch.readable for view in run.views]
            seen.update(zip(places, pixels.numpy().copy(), strict=True))
        return begin(self, batch)

    monkeypatch.setattr(Labeller, "_begin", noted)
    store = labelled(odd_photos, teacher, tmp_path / "s.zarr", stages, views=VIEWS)
    assert store.labelled().all()
    assert len(seen) == store.num_images * VIEWS
    source = FolderSource(odd_photos)
    encoded = {key: (odd_photos / key).read_bytes() for key in store.keys}
    options = {"normalize": None, "check_pixels": "raise", "partners": source}
    items = [(data, 0) for data in encoded.values()]
    sets = [
        SoftLabelDataset(source, store, **options),
        SoftLabelDataset(ImageFolder(str(odd_photos)), store, **options),
        SoftLabelDataset(items, store, keys=list(encoded), **options),
    ]
    joins = [WebDatasetViews, StreamingViews, HuggingFaceViews]
    web, streaming, hub = (join(store, VIEWS, **options) for join in joins)
    hub.key_column = "key"
    for image, (key, data) in enumerate(encoded.items()):
        folder, name = key.split("/")
        stem, field = name.split(".", 1)
        upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
        shown = [
            of_set[Show(image, tuple(range(VIEWS)))] for of_set in sets if of_set.has_photo[image]
        ]
        shown.append(web({"__key__": f"{folder}/{stem}", field: data}))
        shown.append(streaming([{"key": key, "image": data}]))
        for photo in ({"bytes": data, "path": None}, upright):
            rows = hub({"key": [key], "image": [photo]})
            shown.append((rows["pixels"][0], rows["labels"][0]))
        assert len(shown) >= 6
        for pixels, labels in shown:
            for view, of_view in zip(labels.view.tolist(), pixels, strict=True):
                np.testing.assert_array_equal(of_view.permute(1, 2, 0), seen[image, view], key)
