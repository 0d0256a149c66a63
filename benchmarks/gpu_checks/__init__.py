"""The checks of an accelerator; `gpu_check.py` runs them."""
