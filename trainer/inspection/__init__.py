"""Look at a net and at what it predicts."""
