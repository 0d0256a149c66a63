"""The training loop, its steps, and evaluation."""
