"""All parts, in the order in which they are listed. A new part is a file beside this one and a name in the tuple.

Those of other packages follow (`offered.py`).
"""

from __future__ import annotations

from mofo.methods.adamw import AdamW
from mofo.methods.adapters import OFT, DoRA, LoRA
from mofo.methods.blend import Blend
from mofo.methods.budget import Budget
from mofo.methods.ewc import EWC
from mofo.methods.gem import GEM
from mofo.methods.hft import HFT
from mofo.methods.lion import Lion, MoFOLion
from mofo.methods.mofo import MoFO
from mofo.methods.offered import offered_parts
from mofo.methods.part import OptimizerPart, Part
from mofo.methods.pull import L1, L2
from mofo.methods.replay import Replay
from mofo.methods.self_distill import SelfDistill
from mofo.methods.sgd import SGD
from mofo.methods.soft_masking import CoFiTune, SoftMasking
from mofo.methods.token_weights import DFT, Anchor, TokenMask

OWN: tuple[type[Part], ...] = (
    AdamW, MoFO, Lion, MoFOLion, SGD,
    SelfDistill, Replay, GEM, Anchor, L2, L1, EWC,
    LoRA, DoRA, OFT, HFT, CoFiTune, SoftMasking,
    TokenMask, DFT, Blend, Budget,
)  # fmt: skip

PARTS: tuple[type[Part], ...] = tuple(
    sorted((*OWN, *offered_parts(OWN)), key=lambda part: not issubclass(part, OptimizerPart))
)
"""Optimizers first."""
