"""Training that DeepSpeed spreads over the processes: ZeRO-1 and ZeRO-2."""
