"""Setting up a fit: arguments, data, callbacks, resume."""
