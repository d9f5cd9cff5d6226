"""How a tensor is cut into blocks, and how many entries of a block move."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def block_size(param: Tensor, blocks: int) -> int:
    """Number of entries in each of the ``blocks`` equal pieces of ``param`` along its first dimension.

    Raises:
        ValueError: ``blocks`` does not divide the first dimension.
    """
    first = param.shape[0] if param.dim() else 1
    if first % blocks:
        raise ValueError(
            f"blocks={blocks} does not divide the first dimension of a parameter of shape "
            f"{tuple(param.shape)}: choose a divisor of {first}, or blocks=1"
        )
    return param.numel() // blocks


def selected_count(fraction: float, n: int) -> int:
    """How many of the ``n`` entries of a block move: k = max(1, ⌊fraction · n⌋), and 0 of none.

    The product is taken of the number that was meant, not of its binary neighbour: 0.29 of 100 is 29 although
    ``0.29 * 100 == 28.999…``, and 1/3 of 30 is 10. For that, k is the largest integer with ``k / n <= fraction``.
    """
    k = round(fraction * n)
    if n and k / n > fraction:
        k -= 1
    return min(max(1, k), n)


def as_blocks(tensor: Tensor, blocks: int) -> Tensor:
    """``tensor`` as (blocks, entries of a block), row-major whatever its strides; a view where there is one."""
    return tensor.reshape(blocks, -1)
