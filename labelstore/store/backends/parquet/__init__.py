"""Parquet stores, here and behind URLs."""
