"""Data: rows, their tokens, and the order in which they are trained on."""
