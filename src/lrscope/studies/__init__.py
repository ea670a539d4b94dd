"""Restarts, warmup and distillation, each looked at whole by one call."""
