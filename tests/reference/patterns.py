"""Gradients that are hard to select from."""

import torch

KINDS = ["normal", "heavy", "one_huge", "equal", "zero", "negative_zero", "sorted", "sparse", "few_values"]
KINDS += ["denormal", "periodic", "rows"]


def patterned(kind, n, generator):
    """A flat float64 tensor of n entries."""
    normal = torch.randn(n, generator=generator, dtype=torch.float64)
    return {
        "normal": normal,
        "heavy": normal * torch.randn(n, generator=generator, dtype=torch.float64).mul(4).exp(),
        "one_huge": torch.cat([normal[:-1], torch.full((min(n, 1),), 1e4, dtype=torch.float64)]),
        "equal": torch.full((n,), 0.5, dtype=torch.float64),
        "zero": torch.zeros(n, dtype=torch.float64),
        "negative_zero": -torch.zeros(n, dtype=torch.float64),
        "sorted": torch.linspace(-1, 1, n, dtype=torch.float64),
        "sparse": normal * (torch.rand(n, generator=generator) < 0.01),
        "few_values": normal.round(),
        "denormal": normal * 1e-40,
        "periodic": (torch.arange(n) % 8).double() - 3,
        "rows": normal * (torch.arange(n) // 512 % 7).double().exp(),
    }[kind]
