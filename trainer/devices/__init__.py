"""Devices: the only package that knows their types; everything is asked of torch."""
