"""Places on the Hugging Face hub: ``hf://datasets/OWNER/NAME[@REVISION]/PATH``.

A revision is a branch, a tag or a commit. Branches and tags move; a commit stays what it was.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from urllib.parse import quote, urlsplit

from labelstore.errors import UsageError

__all__ = ["HubPlace", "endpoint"]

_COMMIT = re.compile(r"[0-9a-f]{40}")


def endpoint() -> str:
    """The hub's address: HF_ENDPOINT, or that of huggingface.co."""
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")


@dataclass(frozen=True)
class HubPlace:
    """A folder in a data set's repository."""

    owner: str
    name: str
    revision: str | None
    """A branch, a tag or a commit; None for what the hub takes then, ``main``."""
    path: str
    """With ``/`` between its parts; ``""`` for the whole repository."""

    @classmethod
    def of(cls, url: str) -> HubPlace:
        """What a URL names.

        Raises:
            UsageError: it names no data set of the hub.
        """
        parts = urlsplit(url)
        # A # is a letter of a path here: nothing follows a URL of the hub.
        whole = parts.path + (f"#{parts.fragment}" if parts.fragment else "")
        names = [part for part in whole.split("/") if part]
        if parts.scheme != "hf" or parts.netloc != "datasets" or len(names) < 2:
            raise UsageError(
                f"{url} names no data set on the hub, expected hf://datasets/OWNER/REPO/PATH, with "
                "REPO@REVISION for another revision than main."
            )
        name, _, revision = names[1].partition("@")
        return cls(names[0], name, revision or None, "/".join(names[2:]))

    @property
    def repository(self) -> str:
        """``OWNER/NAME``, as the hub's own tools call it."""
        return f"{self.owner}/{self.name}"

    @property
    def is_pinned(self) -> bool:
        """Whether the revision is a commit, which never changes."""
        return self.revision is not None and _COMMIT.fullmatch(self.revision) is not None

    @property
    def url(self) -> str:
        """As it is written: ``hf://datasets/...``."""
        revision = "" if self.revision is None else f"@{self.revision}"
        path = f"/{self.path}" if self.path else ""
        return f"hf://datasets/{self.repository}{revision}{path}"

    @property
    def files(self) -> str:
        """The address below which the files of the folder are read."""
        return (
            f"{endpoint()}/datasets/{self.repository}/resolve/{self._revision}/{quote(self.path)}"
        )

    @property
    def api(self) -> str:
        """The address at which the hub tells of the revision, in JSON: ``sha`` is its commit."""
        return f"{endpoint()}/api/datasets/{self.repository}/revision/{self._revision}"

    @property
    def _revision(self) -> str:
        return quote(self.revision or "main", "")

    def at(self, revision: str | None) -> HubPlace:
        """The same folder at another revision."""
        return replace(self, revision=revision)
