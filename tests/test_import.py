"""`import mofo` costs what `import torch` costs."""

import subprocess
import sys

HEAVY = ("transformers", "trl", "datasets", "accelerate", "peft", "matplotlib", "rich", "pandas", "pyarrow", "yaml")


def loaded_by(statement):
    program = f"import sys; {statement}; print(' '.join(sorted({{name.split('.')[0] for name in sys.modules}})))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_mofo_loads_torch_and_nothing_else_heavy():
    new = loaded_by("import mofo") - loaded_by("import torch")
    assert not new & set(HEAVY)
    assert {name for name in new if not name.startswith("_")} <= {"mofo", *sys.stdlib_module_names}


def test_the_optimizer_imports_nothing_of_the_other_rooms():
    program = "import sys, mofo.optim; print(' '.join(name for name in sys.modules if name.startswith('mofo.')))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert all(name.startswith("mofo.optim") for name in done.stdout.split())


def test_importing_the_trainers_loads_nothing_heavy_before_the_callback_is_asked_for():
    assert not loaded_by("import mofo.trainers.trl.script, mofo.trainers.checkpoints") & {*HEAVY, "torch"}
    loaded = loaded_by("from mofo.trainers import MoFOCallback")
    assert "transformers" in loaded
    assert "trl" not in loaded
