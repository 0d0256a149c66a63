"""Gradient synchronization over processes: DDP, FSDP2, and their protocol."""
