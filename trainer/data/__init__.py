"""What users pass, as batches."""
