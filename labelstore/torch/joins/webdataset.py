"""WebDataset's tar shards, joined by key.

views = WebDatasetViews(store, views_per_image=4)
data = webdataset.WebDataset("shards/{000..099}.tar", shardshuffle=100).shuffle(1000).map(views)
loader = DataLoader(data, batch_size=64, collate_fn=collate_views, num_workers=8)
for epoch in range(300):
    views.set_epoch(epoch)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Unpack

from labelstore.errors import UsageError
from labelstore.images.formats import IMAGE_SUFFIXES
from labelstore.torch.joins.view_join import JoinOptions, StreamJoin, Unknown

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    from labelstore.store.label_reader import LabelReader
    from labelstore.torch.joins.view_join import Sample

__all__ = ["WebDatasetViews"]


class WebDatasetViews(StreamJoin):
    """A function for ``webdataset``'s ``.map``: a sample -> pixels and labels of its views.

    The sample is joined by its ``__key__``: that of a store which was made from such shards, or
    from the folder that the shards were packed from (the key with the image's suffix). Leave images
    encoded, or decode them with ``.decode("pil")``. For images without labels and those that a
    budget leaves out it gives None, which webdataset passes over.
    """

    def __init__(
        self,
        store: LabelReader | str | os.PathLike[str],
        views_per_image: int = 1,
        *,
        field: str | None = None,
        unknown: Unknown = "raise",
        **options: Unpack[JoinOptions],
    ) -> None:
        """Plan epochs over a store.

        Args:
            store, views_per_image, options: as for ``ViewJoin``.
            field: the image's field of a sample, such as ``"jpg"``; the one that is named like an
                image when None.
            unknown: as for ``StreamJoin``.

        Raises:
            UsageError, MismatchError, IncompleteError: as ``ViewJoin``.
        """
        super().__init__(store, views_per_image, unknown=unknown, **options)
        self.field = field

    def __call__(self, sample: Mapping[str, Any]) -> Sample | None:
        """Pixels (m, 3, height, width) and m labels, or None.

        Raises:
            NotFoundError: the store has no such image. UsageError: the sample has no image. Others
            as ``join``.
        """
        key = str(sample["__key__"]).removeprefix("./")
        field = self._field(sample, key)
        keys = [f"{key}.{suffix}" for suffix in _spellings(field)]
        image = self.shown_image(*keys, key)
        return None if image is None else self.join([image], [sample[field]])[0]

    def _field(self, sample: Mapping[str, Any], key: str) -> str:
        endings = {name: f".{name.lower().rpartition('.')[2]}" for name in sample}
        named = [name for name, ending in endings.items() if ending in IMAGE_SUFFIXES]
        named = [name for name in named if "." not in name] or named
        fields = named if self.field is None else [self.field]
        if len(fields) != 1 or fields[0] not in sample:
            raise UsageError(
                f"the sample {key!r} has the fields {', '.join(map(str, sample))}, expected one "
                f"image{'' if self.field is None else f' called {self.field!r}'}: say which it is "
                "with field=."
            )
        return fields[0]


def _spellings(field: str) -> list[str]:
    """Suffixes that a file of a folder may have had which webdataset's writers pack as a field."""
    jpeg = ["jpg", "jpeg"] if field.lower() in ("jpg", "jpeg") else []
    names = dict.fromkeys([field, field.upper(), *jpeg, *map(str.upper, jpeg)])
    return list(names)
