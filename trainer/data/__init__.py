"""Data of any kind, turned into batches."""
