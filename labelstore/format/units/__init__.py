"""A draft, in no store yet: labels of a few images and views as one piece that is read alone."""
