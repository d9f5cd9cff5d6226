"""How a dimension is cut into parts, and that nothing of it is imported where nothing is sharded."""

import subprocess
import sys

import pytest
import torch

from mofo.optim.distributed.layout import parts_of_dimension


@pytest.mark.parametrize("cuts", [(), ((2, 1),), ((3, 1),), ((2, 2), (2, 1)), ((2, 1), (2, 1)), ((4, 3), (3, 1))])
@pytest.mark.parametrize("size", [0, 1, 2, 5, 12, 13])
def test_parts_of_dimension_are_an_ascending_partition(size, cuts):
    parts = parts_of_dimension(size, cuts)
    assert sorted(torch.cat(parts).tolist()) == list(range(size))
    assert all(part.tolist() == sorted(part.tolist()) for part in parts)
    if len(cuts) == 1 and cuts[0][1] == 1 and size:
        chunks = torch.arange(size).chunk(cuts[0][0])
        assert [part.tolist() for part in parts[: len(chunks)]] == [chunk.tolist() for chunk in chunks]


def test_import_does_not_load_dtensor():
    code = "import sys, mofo; assert 'torch.distributed.tensor' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
