"""Who may write a store on an object store, where there are no locks: leases.

A writer's lease is an object that it writes again every few seconds. One that stands still for
``LEASE_SECONDS`` is that of a writer that has died, and is taken over. Time is measured by the one
who watches: no two clocks are compared.

Servers that write on conditions (``If-None-Match``, ``If-Match``) let one of two have a lease.
Where a server knows none, which is tried, each writes the lease and looks after a while whose it
is: the last one has it.
"""

from __future__ import annotations

import contextlib
import io
import json
import threading
import time
import uuid
from typing import TYPE_CHECKING

from labelstore.errors import BusyError, LabelStoreError, StoreError
from labelstore.storage.remote.objects import HIDDEN

if TYPE_CHECKING:
    from collections.abc import Callable

    from labelstore.storage.remote.objects import RemoteObjects
    from labelstore.storage.remote.requests import Tag

__all__ = ["LEASE_SECONDS", "Lease", "dead_leases"]

LEASE_SECONDS = 60.0
"""How long a lease stands still before its writer is taken for dead."""

RENEWALS = 6
"""How often a lease is written anew in that time."""

SETTLING_SECONDS = 3.0
"""How long two writers without conditions wait before they look whose lease it is."""


class _Watch:
    """Looks at a store's leases again and again: which of them are being written anew."""

    def __init__(self, objects: RemoteObjects) -> None:
        self.seen: dict[str, tuple[Tag, float]] = {}
        """Tag of each lease that is there, and when it was first seen with it."""
        self._objects = objects

    def look(self) -> tuple[set[str], dict[str, Tag]]:
        """Names of the leases that have moved since the last look, and tags of those that have
        stood still for long enough to be those of dead writers; of others it is not known yet."""
        alive, dead, seen = set(), {}, {}
        for name in self._objects.below(HIDDEN):
            with contextlib.suppress(FileNotFoundError):
                tag, now = self._objects.tag(name), _clock()
                known, since = self.seen.get(name, (tag, now))
                seen[name] = tag, since if tag == known else now
                if tag != known:
                    alive.add(name)
                elif now - since > LEASE_SECONDS:
                    dead[name] = tag
        self.seen = seen
        return alive, dead


def dead_leases(
    objects: RemoteObjects,
    chosen: Callable[[str], bool] = lambda _name: True,
    go_on: Callable[[], None] = lambda: None,
) -> dict[str, Tag]:
    """A store's leases with their tags, watched until all that are chosen stood still for so long
    that their writers are dead.

    Args:
        chosen: told a lease's name. go_on: called between two looks; what it raises ends them.

    Raises:
        BusyError: one of them is being written anew.
    """
    watch = _Watch(objects)
    while True:
        alive, dead = watch.look()
        if any(chosen(name) for name in alive):
            raise _busy(objects)
        if not any(chosen(name) for name in watch.seen.keys() - dead):
            return {name: tag for name, tag in dead.items() if chosen(name)}
        go_on()
        time.sleep(LEASE_SECONDS / RENEWALS / 4)


class Lease:
    """The right of one process of ``world`` to write the store behind ``objects``.

    A context manager; ``check`` says whether it still holds, and is asked before each change.

    Raises, on entering:
        BusyError: another one writes the store, or does as this one of several.
    """

    def __init__(self, objects: RemoteObjects, rank: int, world: int) -> None:
        self._objects = objects
        self._world = world
        self._name = _name_of(rank, world)
        self._watch = _Watch(objects)
        self._permit = objects.permit
        self._token = uuid.uuid4().hex
        self._count = 0
        self._tag: Tag = {}
        self._renewed = 0.0
        self._lost = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="labelstore-lease", daemon=True)

    def __enter__(self) -> Lease:
        self._take()
        self._renewed = _clock()
        self._thread.start()
        try:
            self._wait_for_others()
        except BaseException:
            self.__exit__()
            raise
        self._permit, self._objects.permit = self._objects.permit, self.check
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._objects.permit = self._permit
        with contextlib.suppress(LabelStoreError, OSError):
            if not self._lost and self._is_mine():
                self._objects.delete(self._name)

    def check(self) -> None:
        """StoreError where another writer may have begun: this one was stopped, or cut off."""
        if self._lost or _clock() - self._renewed > LEASE_SECONDS:
            raise StoreError(
                f"{self._objects.where}: this writer was stopped, or cut off from the server, for "
                "so long that another one may be at the store: run the same command again; what "
                "was committed is kept."
            )

    def processes(self) -> set[int]:
        """Numbers of the processes of this launch that are at the store, as far as is known."""
        _, dead = self._watch.look()
        names = {_name_of(rank, self._world): rank for rank in range(self._world)}
        return {names[name] for name in names.keys() & self._watch.seen.keys() - dead.keys()}

    def _take(self) -> None:
        self._objects.conditional = True
        try:
            while not self._put():
                pass
            # Some servers take a condition and do not heed it.
            self._objects.conditional = not self._objects.put_new(self._name, b"{}")
        except io.UnsupportedOperation:
            self._objects.conditional = False
        if not self._objects.conditional:
            self._objects.put(self._name, self._data())
            time.sleep(SETTLING_SECONDS)
            if not self._is_mine():
                raise _busy(self._objects)
        self._tag = self._objects.tag(self._name)

    def _put(self) -> bool:
        """Write the lease where there is none, or a dead one's; False where another did it now."""
        tag = self._dead(lambda name: name == self._name).get(self._name)
        if tag is None:
            return self._objects.put_new(self._name, self._data())
        return self._objects.replace(self._name, self._data(), tag)

    def _wait_for_others(self) -> None:
        """Until those who stand in the way are seen to be dead; BusyError where one lives."""

        def in_the_way(name: str) -> bool:
            alone = self._world == 1 or name.endswith("-1")
            return name != self._name and (alone or not name.endswith(f"-{self._world}"))

        for name in self._dead(in_the_way):
            self._objects.delete(name)

    def _dead(self, chosen: Callable[[str], bool]) -> dict[str, Tag]:
        check = self.check if self._thread.is_alive() else lambda: None
        return dead_leases(self._objects, chosen, check)

    def _renew(self) -> None:
        while not self._stop.wait(LEASE_SECONDS / RENEWALS):
            self._count += 1
            with contextlib.suppress(LabelStoreError, OSError):
                asked = _clock()
                mine = self._objects.conditional or self._is_mine()
                renewed = mine and self._objects.replace(self._name, self._data(), self._tag)
                # The answer to the last renewal may have been lost, and its tag with it.
                if not renewed and not self._is_mine():
                    self._lost = True
                    return
                self._tag = self._objects.tag(self._name)
                if renewed:
                    self._renewed = asked

    def _is_mine(self) -> bool:
        try:
            return bool(json.loads(self._objects.get(self._name))["writer"] == self._token)
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return False

    def _data(self) -> bytes:
        return json.dumps({"writer": self._token, "renewed": self._count}).encode()


def _busy(objects: RemoteObjects) -> BusyError:
    return BusyError(
        f"{objects.where} is being written by another process: wait for it to end, or stop it."
    )


def _name_of(rank: int, world: int) -> str:
    """What the lease of one of several processes is called."""
    return f"{HIDDEN}{rank}-{world}"


def _clock() -> float:
    """Seconds that go on while this process, or its machine, is stopped."""
    boot = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if boot is None else time.clock_gettime(boot)
