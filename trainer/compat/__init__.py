"""What scripts of torchkeras use."""
