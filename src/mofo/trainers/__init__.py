"""MoFO in the trainers that people use: callbacks and commands."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mofo.trainers.callback import MoFOCallback

__all__ = ["MoFOCallback"]


def __getattr__(name: str) -> Any:
    """Import the callback when it is first asked for: its import takes the seconds that transformers takes."""
    if name in __all__:
        from mofo.trainers.callback import MoFOCallback

        return MoFOCallback
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
