"""The specification in plain torch, one tensor at a time: `update.py` is Algorithm 1 of the paper."""
