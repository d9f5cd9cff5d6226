"""The files beside the weights: what two models do not have in common of them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from mofo.deltas.format import DeltaFile, SmallFile
from mofo.errors import UserError

SHARED = 1 << 16
"""Bytes from which on a file is kept as what differs from the other model's. Smaller ones are kept whole, so that a
base whose configuration was written by another version of a library still serves."""


def compare(file: Path, other: Path | None) -> tuple[SmallFile, bytes]:
    """Return how a file is kept, and the bytes to keep.

    Args:
        file: The file.
        other: The other model's file of that name; None if it has none.
    """
    content = file.read_bytes()
    prefix = suffix = 0
    if other is not None and len(content) >= SHARED:
        reference = other.read_bytes()
        prefix = _in_common(content, reference)
        shorter = min(len(content), len(reference)) - prefix
        suffix = _in_common(content[::-1][:shorter], reference[::-1][:shorter])
    middle = content[prefix : len(content) - suffix]
    digest = hashlib.sha256(content).hexdigest()
    return SmallFile(sha256=digest, prefix=prefix, suffix=suffix, size=len(middle)), middle


def restore(delta: DeltaFile, name: str, other: Path, *, tuned: bool) -> bytes:
    """Return the content of a file.

    Args:
        delta: The delta.
        name: Name of the file.
        other: Folder with the other model's files.
        tuned: Whether the file is the tuned model's; otherwise it is the base's.

    Raises:
        UserError: The other model's file is another than the one that the delta was made with.
        ValueError: The delta is damaged.
    """
    kept = (delta.manifest.tuned if tuned else delta.manifest.base).files[name]
    middle = delta.small_file(name, tuned=tuned)
    reference = other / name
    needed = kept.prefix + kept.suffix
    around = reference.read_bytes() if needed and reference.is_file() else b""
    content = around[: kept.prefix] + middle + around[len(around) - kept.suffix :]
    if hashlib.sha256(content).hexdigest() != kept.sha256:
        if not needed:
            raise ValueError(f"{name} is another")
        raise UserError(f"{reference} is not the file that {delta.path} was made with: get the model again.")
    return content


def _in_common(one: bytes, other: bytes) -> int:
    """Return how many bytes two contents have in common from their beginning on."""
    shorter = min(len(one), len(other))
    same = np.frombuffer(one, np.uint8, shorter) == np.frombuffer(other, np.uint8, shorter)
    return shorter if same.all() else int(same.argmin())
