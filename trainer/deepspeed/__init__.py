"""ZeRO-1 and ZeRO-2 by DeepSpeed."""
