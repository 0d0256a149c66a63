"""What is done with a batch."""
