"""Makes the candidates known to `mofo compare` and its processes, with this folder in PYTHONPATH."""

import sys

if any("mofo" in word for word in sys.orig_argv):
    import candidates

    from mofo.methods import parts

    parts.PARTS = (*parts.PARTS, *candidates.CANDIDATES)
