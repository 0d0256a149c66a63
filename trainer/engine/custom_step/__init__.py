"""Steps by the user's function or method: `KerasModel(step=...)`, `train_step`, `test_step`."""
