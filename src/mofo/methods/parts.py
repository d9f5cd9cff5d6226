"""All parts, in the order in which they are listed. A new part is a file beside this one and a name in the tuple."""

from __future__ import annotations

from mofo.methods.adamw import AdamW
from mofo.methods.mofo import MoFO
from mofo.methods.part import Part

PARTS: tuple[type[Part], ...] = (AdamW, MoFO)
