"""How a store's arrays lie on disk and behind URLs: Zarr, Parquet, and mapped .npy copies."""
