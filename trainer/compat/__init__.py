"""Support for scripts of torchkeras."""
