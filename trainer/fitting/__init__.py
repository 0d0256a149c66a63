"""Set up a fit, an evaluation or a prediction: data, callbacks, checks, resuming."""
