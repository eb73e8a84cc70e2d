"""Locks of properties, of modules that are there at a fork and of those that come later."""

import functools
import sys
import types

import pytest

from labelstore.store.slabs import property_locks


class Later:
    @functools.cached_property
    def value(self):
        return 1


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="properties have no locks any more")
def test_a_module_that_is_imported_after_a_fork_is_noted_before_the_next(monkeypatch):
    property_locks.note()
    name = "labelstore.imported_later"
    module = types.ModuleType(name)
    monkeypatch.setattr(Later, "__module__", name)
    module.Later = Later
    module.__spec__ = types.SimpleNamespace(_initializing=True)
    monkeypatch.setitem(sys.modules, name, module)
    held = vars(Later)["value"]
    lock = held.lock
    property_locks.note()
    property_locks.renew()
    assert held.lock is lock
    # No module came since, but this one is whole now.
    module.__spec__._initializing = False
    property_locks.note()
    property_locks.renew()
    assert held.lock is not lock
    assert Later().value == 1
