"""Zarr v3 stores, here and behind URLs."""
