"""Steps: what happens to a batch of training or evaluation."""
