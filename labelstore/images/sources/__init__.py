"""Where photos lie: folders, tar shards, Parquet files, here and behind URLs."""
