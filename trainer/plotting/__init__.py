"""Plots of histories and evaluations."""
