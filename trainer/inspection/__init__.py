"""Summaries, FLOPs, exports and evaluation plots of a net."""
