"""The interface of torchkeras, for scripts written for it."""
