"""Saving the training state, and resuming from it."""
