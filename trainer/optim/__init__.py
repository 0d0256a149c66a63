"""Optimizers, schedules, and the update that they make."""
