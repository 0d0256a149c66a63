"""Steps: process one batch of training or evaluation."""
