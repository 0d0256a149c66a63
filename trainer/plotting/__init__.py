"""Pictures, of numbers alone."""
