"""The history of a run: its table, records of its fits, reports."""
