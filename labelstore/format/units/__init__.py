"""The code of units: labels of a few images and views as one piece that is read alone."""
