"""The display of progress in terminals, files and notebooks."""
