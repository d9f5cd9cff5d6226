"""The specification in plain torch, for one tensor: what every other back end equals to the bit.

`update.py` is Algorithm 1 of the paper; read it first. `types.py` has what it takes, `blocks.py` and `scores.py` how
entries are selected, `rounding.py` and `hashing.py` the arithmetic that is the same on every device.
"""
