"""Measure a pair with mofo and with finetunecheck 2.0.2, one after the other: what each found, and how long it took.

Usage: python experiments/harness/peer.py BASE TUNED OUTPUT [--peer FOLDER] [--probes PROBE,...] [--target SET]

BASE and TUNED are as for `mofo measure`, of safetensors weights; TUNED may be a LoRA adapter. finetunecheck needs
transformers below 5, so it lives in an environment of its own, `--peer` (default /tmp/ftc):

    python3.11 -m venv /tmp/ftc
    /tmp/ftc/bin/pip install 'finetunecheck[inference]==2.0.2' torch==2.13.0

Older versions of transformers read what newer ones save, and fall silently back to defaults where a setting has another
name: the base of the rotary positions is one. So both get a copy in the old form (weights are links), and the two must
give the same logits before anything is measured.

Asked are those of its twelve sets of questions that need neither a judge model (without one `ftcheck run` refuses) nor
the running of generated code, through its own classes, because its command line cannot choose sets.

OUTPUT gets mofo.json, mofo.html, finetunecheck.json and peer.json: seconds of each, with loading, and what it found.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import torch

from mofo.models.adapter import is_adapter
from mofo.models.load import load_model, local_folder

TEXT = "The capital of France is Paris, and the sum of two and three is five."
TOLERANCE = 1e-3
SETS = "classification,extraction,instruction_following,math,safety,summarization,world_knowledge"
RUN = """
import sys
from finetunecheck.config import EvalConfig
from finetunecheck.eval.runner import EvalRunner
from finetunecheck.report.exporters import JSONExporter
base, tuned, sets, target, samples, report = sys.argv[1:]
config = EvalConfig(
    base_model=base, finetuned_model=tuned, general_probes=sets.split(","), target_tasks=[target] if target else [],
    num_samples=int(samples), device="cpu", cache_baseline=False,
)
results = EvalRunner(config).run()
print(results.verdict.value, results.summary)
JSONExporter.export(results, report)
"""
LOGITS = """
import json, sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
base, tuned, text = sys.argv[1:]
model = AutoModelForCausalLM.from_pretrained(base, torch_dtype=torch.float32)
if tuned != base:
    from peft import PeftModel
    model = PeftModel.from_pretrained(model, tuned)
ids = AutoTokenizer.from_pretrained(base)(text, return_tensors="pt").input_ids
with torch.no_grad():
    print(json.dumps([ids.tolist(), model(input_ids=ids).logits[0, -1].tolist()]))
"""


def old_form(folder, target, base=None):
    """Make a copy of a model or an adapter that transformers 4 reads as transformers 5 does; return its path."""
    target.mkdir(parents=True)
    for file in folder.iterdir():
        if file.is_file() and file.name not in CHANGED:
            (target / file.name).symlink_to(file.resolve())
    for name, change in CHANGED.items():
        if (folder / name).is_file():
            (target / name).write_text(json.dumps(change(json.loads((folder / name).read_text()), base), indent=1))
    return target


def _config(values, _base):
    rope = values.pop("rope_parameters", None) or {}
    if rope.get("rope_type", "default") != "default":
        raise SystemExit(f"peer.py knows plain rotary positions alone, and this model has {rope['rope_type']}.")
    return values | {name: value for name, value in rope.items() if name == "rope_theta"}


def _tokenizer(values, _base):
    inputs = ["input_ids", "attention_mask"]  # there it adds token types by default, which few models take
    return values | {"tokenizer_class": "PreTrainedTokenizerFast", "model_input_names": inputs}


def _adapter(values, base):
    return values | {"base_model_name_or_path": str(base)}


CHANGED = {"config.json": _config, "tokenizer_config.json": _tokenizer, "adapter_config.json": _adapter}


def check_logits(spec, base_spec, folder, base, python):
    """End with a sentence unless a copy gives the logits in the peer's environment that the model has in ours."""
    model, tokenizer = load_model(spec, base=base_spec)
    ids = tokenizer(TEXT, return_tensors="pt").input_ids
    with torch.no_grad():
        ours = model(input_ids=ids).logits[0, -1]
    adapter = is_adapter(folder)
    words = [base if adapter else folder, folder, TEXT]
    printed = subprocess.run(
        [python, "-c", LOGITS, *map(str, words)], capture_output=True, text=True, check=True
    ).stdout
    their_ids, theirs = json.loads(printed.splitlines()[-1])
    if their_ids != ids.tolist():
        raise SystemExit(f"{spec} has other tokens in the peer's environment: {their_ids} instead of {ids.tolist()}.")
    difference = float((torch.tensor(theirs) - ours).abs().max())
    if difference > TOLERANCE:
        raise SystemExit(f"{spec} has other logits in the peer's environment: they differ by {difference:.2g}.")
    print(f"{spec}: logits differ by {difference:.1e} at most")


def timed(name, command):
    """Run a command, and return its seconds, with loading, and the processor's, which other work disturbs less."""
    began, before = time.perf_counter(), processor_seconds()
    done = subprocess.run(list(map(str, command)), env=os.environ | {"HF_HUB_OFFLINE": "1"})
    seconds, busy = time.perf_counter() - began, processor_seconds() - before
    if done.returncode:
        raise SystemExit(f"{name} ended with exit code {done.returncode}.")
    print(f"{name}: {seconds:.1f} s, {busy:.1f} s of the processor", flush=True)
    return {"seconds": round(seconds, 1), "processor_seconds": round(busy, 1)}


def processor_seconds():
    """Return the processor's seconds of all processes that were waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def found_by_mofo(file):
    """Return each number of the base and the tuned model, with the interval of its change."""
    found = json.loads(file.read_text())
    base, tuned = (found[model]["forgotten"] for model in ("base", "tuned"))
    paired = found["tuned"]["paired"]["forgotten"]
    return {
        f"{probe} {name}": {
            "base": base[probe].get(name, 0.0),
            "tuned": value,
            "change": [paired[probe][name]["low"], paired[probe][name]["high"]],
        }
        for probe, values in tuned.items()
        for name, value in values.items()
    }


def found_by_peer(file):
    """Return the verdict, and the mean score of the base and the tuned model in each set; higher is better."""
    found = json.loads(file.read_text())
    scores = {
        name: {
            "base": found["base_scores"][name]["mean_score"],
            "tuned": own["mean_score"],
            "questions": own["num_samples"],
        }
        for name, own in found["ft_scores"].items()
    }
    forgetting = found["forgetting"]
    words = {"verdict": found["verdict"], "pattern": forgetting["pattern"], "status": forgetting["status"]}
    return words | {"scores": scores}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("base")
    parser.add_argument("tuned")
    parser.add_argument("output", type=Path)
    parser.add_argument("--peer", type=Path, default=Path("/tmp/ftc"))
    parser.add_argument("--probes", default="text,divergence,choice")
    parser.add_argument("--target", default="", metavar="SET", help="the set that stands for what was learned: math")
    parser.add_argument("--samples", type=int, default=100, metavar="N", help="at most N questions of each of its sets")
    arguments = parser.parse_args()
    output, python = arguments.output, arguments.peer / "bin" / "python"
    if output.exists():
        raise SystemExit(f"{output} exists: give a folder that does not.")
    if not python.exists():
        raise SystemExit(f"{arguments.peer} has no finetunecheck: make it as this file says.")
    base = old_form(local_folder(arguments.base), output / "for-peer" / "base")
    tuned = old_form(local_folder(arguments.tuned), output / "for-peer" / "tuned", base.resolve())
    check_logits(arguments.base, None, base, base, python)
    check_logits(arguments.tuned, arguments.base, tuned, base, python)
    ours = [sys.executable, "-m", "mofo.cli", "measure", "--base", arguments.base, "--tuned", arguments.tuned]
    ours += ["--probes", arguments.probes, "--output", output / "mofo.json", "--output", output / "mofo.html"]
    theirs = [python, "-c", RUN, base, tuned, SETS, arguments.target, arguments.samples]
    theirs += [output / "finetunecheck.json"]
    found = {
        "mofo": timed("mofo", ours) | {"numbers": found_by_mofo(output / "mofo.json")},
        "finetunecheck": timed("finetunecheck", theirs) | found_by_peer(output / "finetunecheck.json"),
    }
    (output / "peer.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
