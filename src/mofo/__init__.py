"""MoFO: Adam that moves only the largest-momentum entries, so that a fine-tuned model forgets less."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mofo.optim import CPUOffload, MoFO, backends, param_groups

__all__ = ["CPUOffload", "MoFO", "__version__", "backends", "param_groups"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import the optimizer when it is first asked for, so that `mofo --help` need not wait for torch."""
    if name in __all__:
        import mofo.optim

        return getattr(mofo.optim, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
