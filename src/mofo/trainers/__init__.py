"""MoFO in the trainers that people use: callbacks and commands."""
