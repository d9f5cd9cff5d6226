"""The change from a base to a tuned model as a file of its own: made, applied and undone to the bit."""

from mofo.deltas.apply import apply_deltas, undo_deltas
from mofo.deltas.diff import make_delta

__all__ = ["apply_deltas", "make_delta", "undo_deltas"]
