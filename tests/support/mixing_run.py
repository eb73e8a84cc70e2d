"""A run over made-up labels of mixed views: what is written, without photos or a teacher."""

from __future__ import annotations

import dataclasses

from labelstore.producer.crops.photos import PartnerFile
from labelstore.producer.labeller import LabelledBlock
from labelstore.producer.run import StoreRun
from labelstore.store.writer import StoreWriter
from labelstore.views.law import ViewLaw
from labelstore.views.philox import hash_keys
from tests.support.stores import planned


class Nobody:
    """Hears of the work."""

    def resumed(self, images):
        pass

    update = waited = lambda self, *_: None


class Mixing:
    """A labeller whose blocks' views are mixed with photos of the other block.

    Args:
        data: of each block. exchanged: image whose file is another one than it was.
        blocks: how many are labelled before it fails.
    """

    def __init__(self, data, exchanged, blocks):
        self.data, self.exchanged, self.left = data, exchanged, blocks

    def blocks(self, todo, progress):
        for block, _ in todo:
            if not self.left:
                raise InterruptedError
            self.left -= 1
            mixed = {image: PartnerFile(image + 1, True) for image in ([4, 3], [0])[block]}
            data = self.data(block)
            if self.exchanged in range(3 * block, 3 * block + 3):
                data.digests[self.exchanged - 3 * block] = 99
            yield LabelledBlock(block, 0, data, 1, mixed_files=mixed)


def mixing_run(path, exchanged=None, blocks=2):
    """Make a store of two blocks of three images, or go on with it; ``Mixing`` has the rest."""
    manifest, keys, targets, data, _ = planned(6, 3, 2, 12, 4, block_images=3)
    law = ViewLaw(seed=1, stages=("mixup-1",)).among(hash_keys(keys))
    manifest = dataclasses.replace(manifest, law=law)
    with StoreWriter(path, manifest, keys, targets) as writer:
        run = StoreRun([writer], Nobody())
        if writer.pending_blocks():
            run.through(Mixing(data, exchanged, blocks), None)
        else:
            run.close_records()
