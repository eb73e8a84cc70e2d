"""Images as files below a URL."""

from __future__ import annotations

from labelstore.errors import SourceError
from labelstore.images.formats import is_image_name
from labelstore.images.sources.classes import classes_of_keys
from labelstore.images.sources.folder import no_image
from labelstore.images.sources.listing import remote_sizes
from labelstore.images.sources.passed_over import PassedOver
from labelstore.images.sources.source_files import RemoteFiles

__all__ = ["RemoteFolderSource"]


class RemoteFolderSource:
    """The images below a URL of a bucket: as ``FolderSource``, with names for paths.

    Raises:
        SourceError: there is no image. NotFoundError: there is nothing.
    """

    numbers = None

    def __init__(self, url: str, sizes: dict[str, int] | None = None) -> None:
        self.path = url
        sizes = remote_sizes(url) if sizes is None else sizes
        images: dict[str, int] = {}
        self.passed_over = PassedOver()
        for name, size in sizes.items():
            if is_image_name(name):
                images[name] = size
            else:
                self.passed_over.add(name)
        if not images:
            raise SourceError(no_image(url, self.passed_over))
        self._files = RemoteFiles(url, images)
        self.keys = tuple(sorted(images))
        self.classes, self.mixed, _, self._names = classes_of_keys(self.keys)

    def __len__(self) -> int:
        return len(self.keys)

    def __repr__(self) -> str:
        return f"RemoteFolderSource({self.path!r})"

    @property
    def ignored(self) -> int:
        """How many objects were passed over."""
        return self.passed_over.count

    def path_of(self, index: int) -> str:
        """URL of image number ``index``."""
        return self._files.place(index)

    def class_name(self, index: int) -> str | None:
        """Class folder of image number ``index``; None where ``classes`` is None."""
        return None if self._names is None else self._names[index]

    def read(self, index: int) -> bytes:
        """The encoded file of image number ``index``; SourceError when it cannot be read."""
        return self._files.whole(index)
