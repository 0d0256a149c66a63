"""Save where a fit stands, and go on there."""
