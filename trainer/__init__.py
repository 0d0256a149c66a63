"""Keras-style training for any torch.nn.Module."""
