"""Optimizers, schedules and weight updates."""
