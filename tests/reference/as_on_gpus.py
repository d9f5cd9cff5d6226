"""Runs a script as accelerate does on GPUs: ``python as_on_gpus.py SCRIPT ARGUMENTS``.

Without GPUs accelerate trains with DDP whatever its file says: it takes FSDP and DeepSpeed only to processes that it
calls MULTI_GPU. All else works with gloo and the CPU. ACCELERATE_TORCH_DEVICE names the device; without
ACCELERATE_BYPASS_DEVICE_MAP it would be numbered as GPUs are.
"""

import os
import runpy
import sys

from accelerate.state import DistributedType, PartialState

os.environ |= {"ACCELERATE_TORCH_DEVICE": "cpu", "ACCELERATE_BYPASS_DEVICE_MAP": "true", "DS_ACCELERATOR": "cpu"}
PartialState._prepare_backend = lambda *_, **__: ("gloo", DistributedType.MULTI_GPU)
sys.argv.pop(0)
runpy.run_path(sys.argv[0], run_name="__main__")
sys.stdout.flush()
sys.stderr.flush()
os._exit(0)  # when Python ends as usual, a thread of gloo's now and then aborts it ("terminate called without …")
