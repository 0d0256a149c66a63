"""The loop and its steps."""
