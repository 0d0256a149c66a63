"""Save the training state, and resume fits from it."""
