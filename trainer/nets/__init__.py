"""A net by itself: how it is called, in which precision, its modes and its state."""
