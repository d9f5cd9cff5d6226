"""Faster paths in plain torch, for every device."""
