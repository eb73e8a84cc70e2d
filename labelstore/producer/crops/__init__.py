"""From files to batches of pixels: what is cut, of which photos, into which memory."""
