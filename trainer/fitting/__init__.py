"""From arguments to a fit: setup, callbacks, several processes."""
