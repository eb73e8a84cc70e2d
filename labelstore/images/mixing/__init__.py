"""Views mixed with those of other photos: the pixels, and where partners' photos come from."""
