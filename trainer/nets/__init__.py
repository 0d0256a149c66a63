"""Nets: how they are called, precision, modes and state dicts."""
