import torch

from mofo.models.memory import peak_memory


def test_peak_memory_covers_what_was_held():
    before = peak_memory(torch.device("cpu"))
    block = torch.ones(1 << 26)
    assert peak_memory(torch.device("cpu")) >= max(before, block.nbytes)
