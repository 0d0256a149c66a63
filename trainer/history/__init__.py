"""What is known of a run: figures, records, report."""
