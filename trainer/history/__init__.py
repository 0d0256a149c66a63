"""The history of a run: columns, records, report."""
