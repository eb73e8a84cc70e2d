"""What Parquet files say of themselves, read without believing it."""
