"""Children that are killed at a step on the file system, and going on with what they left."""

import os

import labelstore
from labelstore.errors import LabelStoreError
from labelstore.testing.faults import trip
from tests.support.stores import files_of, make_planned


def in_child(action):
    """The number of a child that does it and ends."""
    child = os.fork()
    if not child:
        try:
            action()
        finally:
            os._exit(0)
    return child


def die_at(step, fault, action, *arguments, **options):
    """Do it in a child that dies at a step; False when it finished."""

    def tripping():
        with trip(step, fault):
            action(*arguments, **options)

    return os.WIFSIGNALED(os.waitpid(in_child(tripping), 0)[1])


def check_resumes(path, expected, **settings):
    """What a dead writer of ``make_planned`` left is readable block by block or refused; then it
    is finished. Its blocks are two, of three images."""
    if path.exists():
        try:
            store = labelstore.open(path)
        except LabelStoreError:
            pass
        else:
            for block in set(range(2)) - set(store.missing_blocks()):
                store.read(range(3 * block, 3 * block + 3), 1)
    make_planned(path, **settings)
    assert files_of(path) == expected
