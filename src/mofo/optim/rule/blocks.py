"""How a tensor is cut into blocks, and how many entries of a block are selected."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def block_size(param: Tensor, blocks: int) -> int:
    """Return n, the number of entries in each of `blocks` equal pieces of a parameter along its first dimension.

    Raises:
        ValueError: `blocks` does not divide the first dimension.
    """
    if blocks == 1:
        return param.numel()
    first = param.shape[0] if param.dim() else 1
    if first % blocks:
        raise ValueError(
            f"blocks={blocks} does not divide the first dimension of a parameter of shape "
            f"{tuple(param.shape)}: choose a divisor of {first}, or blocks=1"
        )
    return param.numel() // blocks


def selected_count(fraction: float, n: int) -> int:
    """Return k = max(1, ⌊fraction · n⌋), the number of selected entries in a block of `n`; 0 if the block is empty.

    The floor is of the number that was meant, not of its binary neighbour: 0.29 of 100 is 29 although
    `0.29 * 100 == 28.999…`, and 1/3 of 30 is 10. Therefore k is the largest integer with `k / n <= fraction`.
    """
    k = round(fraction * n)
    if n and k / n > fraction:
        k -= 1
    return min(max(1, k), n)


def as_blocks(tensor: Tensor, blocks: int) -> Tensor:
    """Return a tensor as (blocks, n), row-major whatever its strides; a view where one exists."""
    return tensor.reshape(blocks, -1)
