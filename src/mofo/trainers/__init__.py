"""MoFO in the trainers that people use: callbacks and commands."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mofo.trainers.callback import MoFOCallback
    from mofo.trainers.forgetting import ForgettingCallback
    from mofo.trainers.fraction import FractionCallback
    from mofo.trainers.method import use_method

__all__ = ["ForgettingCallback", "FractionCallback", "MoFOCallback", "use_method"]


def __getattr__(name: str) -> Any:
    """Import a name when it is first asked for: that takes the seconds that transformers takes."""
    if name == "ForgettingCallback":
        from mofo.trainers.forgetting import ForgettingCallback

        return ForgettingCallback
    if name == "FractionCallback":
        from mofo.trainers.fraction import FractionCallback

        return FractionCallback
    if name == "MoFOCallback":
        from mofo.trainers.callback import MoFOCallback

        return MoFOCallback
    if name == "use_method":
        from mofo.trainers.method import use_method

        return use_method
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
