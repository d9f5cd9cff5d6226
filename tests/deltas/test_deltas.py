"""`diff`, `apply` and `undo` on folders: the same files come back, or one sentence says why not."""

import errno
import json
import os
import random
import signal
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from mofo.deltas import apply_deltas, make_delta, undo_deltas
from mofo.deltas.diff import description
from mofo.deltas.stored import StoredModel
from mofo.errors import UserError
from mofo.models.load import load_model
from reference.folders import contents, moved, saved


def both_ways(base, tuned, folder, **how):
    """Make a delta, apply and undo it, and check that all files come back."""
    summary = make_delta(base, tuned, folder / "delta.safetensors", **how)
    apply_deltas(base, [folder / "delta.safetensors"], folder / "forward")
    assert contents(folder / "forward") == contents(tuned)
    undo_deltas(tuned, [folder / "delta.safetensors"], folder / "backward")
    assert contents(folder / "backward") == contents(base)
    return summary


@pytest.mark.parametrize("base_type", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("tuned_type", [torch.float32, torch.bfloat16, torch.float16])
def test_delta_leads_forward_and_backward_in_all_types(tiny_model, tmp_path, base_type, tuned_type):
    base = saved(AutoModelForCausalLM.from_pretrained(tiny_model, dtype=base_type), tmp_path / "base", tiny_model)
    tuned = saved(moved(base, dtype=tuned_type), tmp_path / "tuned", tiny_model)
    summary = both_ways(base, tuned, tmp_path)
    assert summary.entries == sum(p.numel() for p in AutoModelForCausalLM.from_pretrained(tuned).parameters())
    if base_type == tuned_type == torch.float32:
        assert summary.moved / summary.entries == pytest.approx(0.3, abs=0.01)
        assert summary.bytes < 0.45 * summary.tuned_bytes
    with safe_open(summary.file, "np") as file:
        told = file.metadata()
    assert told | {"size": ""} == {
        "format": "mofo-delta",
        "version": "1",
        "base_sha256": summary.base_sha256,
        "tuned_sha256": summary.tuned_sha256,
        "exact": "true",
        "size": "",
    }


def test_hash_is_the_same_however_a_model_is_spread_over_files(tiny_model, tuned, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(tuned)
    sharded = saved(model, tmp_path / "sharded", tuned, max_shard_size="40KB")
    assert len(list(Path(sharded).glob("model-*.safetensors"))) > 2
    one, other = (both_ways(tiny_model, folder, tmp_path / name) for folder, name in [(tuned, "1"), (sharded, "2")])
    assert one.tuned_sha256 == other.tuned_sha256
    apply_deltas(tiny_model, [Path(one.file)], tmp_path / "made")
    undo_deltas(sharded, [Path(one.file)], tmp_path / "undone")  # of the other files of the same weights
    assert contents(tmp_path / "undone") == contents(tiny_model)


@pytest.fixture(autouse=True)
def folders(tmp_path):
    for name in ("1", "2"):
        (tmp_path / name).mkdir()


def test_vocabulary_may_grow_and_shrink(tiny_model, tmp_path):
    model = moved(tiny_model)
    model.resize_token_embeddings(300)
    larger = saved(model, tmp_path / "larger", tiny_model)
    both_ways(tiny_model, larger, tmp_path / "1")
    both_ways(larger, tiny_model, tmp_path / "2")


def test_tensors_may_come_and_go(tiny_model, tmp_path, copy_of):
    other = Path(copy_of(tiny_model)) / "model.safetensors"
    weights = load_file(other)
    del weights["model.norm.weight"]
    save_file(weights | {"more": torch.arange(5), "none": torch.empty(0, 3), "one": torch.tensor(2.0)}, other)
    both_ways(tiny_model, str(other.parent), tmp_path / "1")
    both_ways(str(other.parent), tiny_model, tmp_path / "2")


def test_large_files_beside_the_weights_are_kept_as_what_differs(tiny_model, tmp_path, copy_of):
    base, tuned = Path(copy_of(tiny_model, "base")), Path(copy_of(tiny_model, "tuned"))
    text = random.Random(0).randbytes(200_000).hex()
    for folder, inserted in ((base, "a"), (tuned, "something else")):
        (folder / "vocabulary.txt").write_text(text[:1000] + inserted + text[1000:])
    (tuned / "chat_template.jinja").write_text("another one")
    (base / "only.json").write_text("{}")
    (tuned / "trainer_state.json").write_text("of the training, not of the model")
    summary = make_delta(str(base), str(tuned), tmp_path / "delta.safetensors")
    assert summary.bytes < 20_000
    apply_deltas(str(base), [tmp_path / "delta.safetensors"], tmp_path / "forward")
    made = contents(tuned)
    del made["trainer_state.json"]
    assert contents(tmp_path / "forward") == made
    undo_deltas(str(tuned), [tmp_path / "delta.safetensors"], tmp_path / "backward")
    assert contents(tmp_path / "backward") == contents(base)

    (base / "config.json").write_text((base / "config.json").read_text() + "\n")  # as another version would write it
    apply_deltas(str(base), [tmp_path / "delta.safetensors"], tmp_path / "again")
    assert contents(tmp_path / "again") == made
    (base / "vocabulary.txt").write_text("another one")
    with pytest.raises(UserError, match=r"vocabulary\.txt is not the file that .*delta.* was made with"):
        apply_deltas(str(base), [tmp_path / "delta.safetensors"], tmp_path / "no")


def test_base_of_other_weights_is_refused(tiny_model, tuned, tmp_path, copy_of):
    make_delta(tiny_model, tuned, tmp_path / "delta.safetensors")
    other = saved(moved(tiny_model, by=1e-6, share=0.01, seed=1), tmp_path / "other", tiny_model)
    larger = moved(tiny_model)
    larger.resize_token_embeddings(300)
    larger = saved(larger, tmp_path / "larger", tiny_model)
    for base in (other, larger, tuned):
        with pytest.raises(
            UserError, match=r"is not the base of .*delta.safetensors, whose weights have the hash \w{16}"
        ):
            apply_deltas(base, [tmp_path / "delta.safetensors"], tmp_path / "out")
    with pytest.raises(UserError, match="is not the tuned model of"):
        undo_deltas(tiny_model, [tmp_path / "delta.safetensors"], tmp_path / "out")
    assert not any(path.name.startswith((".out", "out")) for path in tmp_path.iterdir())


def test_deltas_stack_where_they_form_a_chain(tiny_model, tuned, tmp_path):
    third = saved(moved(tuned, dtype=torch.bfloat16, seed=1), tmp_path / "third", tiny_model)
    fourth = moved(third, dtype=torch.bfloat16, seed=2)
    fourth.resize_token_embeddings(300)
    fourth = saved(fourth, tmp_path / "fourth", tiny_model)
    chain = [tmp_path / f"{number}.safetensors" for number in range(3)]
    for file, base, end in zip(chain, (tiny_model, tuned, third), (tuned, third, fourth), strict=True):
        make_delta(base, end, file)
    apply_deltas(tiny_model, chain, tmp_path / "forward")
    assert contents(tmp_path / "forward") == contents(fourth)
    undo_deltas(fourth, chain, tmp_path / "backward")
    assert contents(tmp_path / "backward") == contents(tiny_model)
    undo_deltas(fourth, chain[1:], tmp_path / "half")
    assert contents(tmp_path / "half") == contents(tuned)
    for wrong in ([chain[0], chain[2]], chain[::-1]):
        with pytest.raises(UserError, match="does not go on where"):
            apply_deltas(tiny_model, wrong, tmp_path / "no")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scale", [0.8, 0.0, -0.5, 2])
def test_share_of_a_change(tiny_model, tmp_path, dtype, scale):
    tuned = saved(moved(tiny_model, dtype=dtype), tmp_path / "tuned", tiny_model)
    make_delta(tiny_model, tuned, tmp_path / "delta.safetensors")
    made = apply_deltas(tiny_model, [tmp_path / "delta.safetensors"], tmp_path / "out", scale=scale)
    assert made.sha256 is None
    old, new, got = (load_file(Path(f) / "model.safetensors") for f in (tiny_model, tuned, tmp_path / "out"))
    for name, weight in got.items():
        start = old[name].double()
        assert torch.equal(weight, (start + scale * (new[name].double() - start)).to(dtype))
    load_model(str(tmp_path / "out"))


def test_share_of_integers_is_refused(tiny_model, tmp_path, copy_of):
    folders = [copy_of(tiny_model, name) for name in ("base", "tuned")]
    for number, folder in enumerate(folders):
        file = Path(folder) / "model.safetensors"
        save_file(load_file(file) | {"packed": torch.tensor([number], dtype=torch.int32)}, file)
    make_delta(*folders, tmp_path / "delta.safetensors")
    with pytest.raises(UserError, match="packed is stored as I32, of which a share cannot be taken"):
        apply_deltas(folders[0], [tmp_path / "delta.safetensors"], tmp_path / "out", scale=0.5)
    apply_deltas(folders[0], [tmp_path / "delta.safetensors"], tmp_path / "out")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rounded_delta_is_smaller_and_as_far_off_as_it_says(tiny_model, tmp_path, dtype):
    tuned = saved(moved(tiny_model, dtype=dtype, share=1), tmp_path / "tuned", tiny_model)
    exact = make_delta(tiny_model, tuned, tmp_path / "exact.safetensors")
    rounded = make_delta(tiny_model, tuned, tmp_path / "rounded.safetensors", bits=8)
    assert rounded.bytes < 0.75 * exact.bytes
    made = apply_deltas(tiny_model, [Path(rounded.file)], tmp_path / "out")
    assert made.sha256 == rounded.tuned_sha256 != exact.tuned_sha256
    old, new, got = (load_file(Path(f) / "model.safetensors") for f in (tiny_model, tuned, tmp_path / "out"))
    off = torch.cat([(got[name].double() - new[name].double()).flatten() for name in new])
    change = torch.cat([(new[name].double() - old[name].to(dtype).double()).flatten() for name in new])
    assert rounded.lossy.relative_error == pytest.approx((off.norm() / change.norm()).item())
    assert rounded.lossy.largest_error == pytest.approx(off.abs().max().item())
    assert rounded.lossy.relative_error < 0.02 or dtype == torch.bfloat16
    with pytest.raises(UserError, match="rounded to 8 bits, which does not lead back: keep the base"):
        undo_deltas(str(tmp_path / "out"), [Path(rounded.file)], tmp_path / "no")


def test_adapter_is_bound_to_its_base_and_can_be_scaled(tiny_model, adapter, tuned, tmp_path):
    summary = make_delta(tiny_model, adapter, tmp_path / "delta.safetensors")
    assert summary.kind == "adapter"
    apply_deltas(tiny_model, [tmp_path / "delta.safetensors"], tmp_path / "out")
    assert contents(tmp_path / "out") == contents(adapter)
    with pytest.raises(UserError, match="is not the base of"):
        apply_deltas(tuned, [tmp_path / "delta.safetensors"], tmp_path / "no")
    with pytest.raises(UserError, match="leaves its base as it is: use the base"):
        undo_deltas(adapter, [tmp_path / "delta.safetensors"], tmp_path / "no")

    apply_deltas(tiny_model, [tmp_path / "delta.safetensors"], tmp_path / "half", scale=0.5)
    base, whole, half = (
        dict(load_model(str(f))[0].named_parameters()) for f in (tiny_model, adapter, tmp_path / "half")
    )
    assert not torch.equal(
        base["model.layers.0.self_attn.q_proj.weight"], whole["model.layers.0.self_attn.q_proj.weight"]
    )
    for name, weight in half.items():
        assert torch.allclose(weight, (base[name] + whole[name]) / 2, atol=1e-6)


@pytest.mark.parametrize("change", [{"use_dora": True}, {"peft_type": "OFT"}])
def test_adapter_that_cannot_be_scaled_is_refused(tiny_model, adapter, tmp_path, copy_of, change):
    file = Path(copy_of(adapter)) / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    make_delta(tiny_model, str(file.parent), tmp_path / "delta.safetensors")
    with pytest.raises(UserError, match="cannot be scaled: merge it into its base first"):
        apply_deltas(tiny_model, [tmp_path / "delta.safetensors"], tmp_path / "no", scale=0.5)
    assert not (tmp_path / "no").exists()


def test_delta_between_two_adapters(adapter, tmp_path, copy_of):
    other = copy_of(adapter)
    file = Path(other) / "adapter_model.safetensors"
    save_file({name: weight * 1.001 for name, weight in load_file(file).items()}, file)
    assert both_ways(adapter, other, tmp_path / "1").kind == "weights"


def test_adapter_goes_on_a_model_that_deltas_made(tiny_model, tuned, adapter, tmp_path):
    chain = [tmp_path / "first.safetensors", tmp_path / "second.safetensors"]
    make_delta(tiny_model, tuned, chain[0])
    make_delta(tuned, adapter, chain[1])
    apply_deltas(tiny_model, chain, tmp_path / "out")
    assert contents(tmp_path / "out") == contents(adapter)
    with pytest.raises(UserError, match="--scale does not go with an adapter among several"):
        apply_deltas(tiny_model, chain, tmp_path / "no", scale=0.5)


def test_damaged_delta_never_makes_another_model(tiny_model, tuned, tmp_path):
    file = tmp_path / "delta.safetensors"
    make_delta(tiny_model, tuned, file)
    whole = file.read_bytes()
    generator = random.Random(0)
    header = int.from_bytes(whole[:8], "little")
    places = [generator.randrange(len(whole)) for _ in range(60)] + [generator.randrange(header) for _ in range(40)]
    for place in places:
        file.write_bytes(whole[:place] + bytes([whole[place] ^ (1 << generator.randrange(8))]) + whole[place + 1 :])
        try:
            apply_deltas(tiny_model, [file], tmp_path / "out", overwrite=True)
        except UserError as error:
            assert str(file) in str(error) or "delta" in str(error)  # noqa: PT017
        else:
            assert contents(tmp_path / "out") == contents(tuned)
    for end in (0, 5, header, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:end])
        with pytest.raises(UserError, match="damaged or cut off"):
            apply_deltas(tiny_model, [file], tmp_path / "no")


def test_file_that_is_no_delta_is_refused(tiny_model, tmp_path):
    with pytest.raises(UserError, match="There is no file"):
        apply_deltas(tiny_model, [tmp_path / "none.safetensors"], tmp_path / "no")
    with pytest.raises(UserError, match="is no delta: give a file that `mofo diff` wrote"):
        apply_deltas(tiny_model, [Path(tiny_model) / "model.safetensors"], tmp_path / "no")


def test_file_names_in_a_delta_cannot_lead_out_of_the_folder(tiny_model, tuned, tmp_path, monkeypatch):
    monkeypatch.setattr(StoredModel, "small_files", lambda model: {"../evil.json": model.folder / "config.json"})
    make_delta_checked = pytest.raises(ValueError, match="is no name of a file")
    with make_delta_checked:
        make_delta(tiny_model, tuned, tmp_path / "delta.safetensors")
    assert not (tmp_path / "delta.safetensors").exists()


@pytest.mark.parametrize(
    "spoil", ["no weights", "other model", "missing shard", "no folder", "no suffix", "is a model"]
)
def test_what_cannot_be_diffed_is_refused(tiny_model, tuned, tmp_path, spoil):
    base, end, file = tiny_model, tuned, tmp_path / "delta.safetensors"
    if spoil == "no weights":
        end = str(tmp_path / "empty")
        Path(end).mkdir()
        (Path(end) / "config.json").write_text("{}")
        (Path(end) / "pytorch_model.bin").write_bytes(b"")
        expected = "has no weights as safetensors"
    elif spoil == "other model":
        end = saved(AutoModelForCausalLM.from_pretrained(tiny_model), tmp_path / "other", tiny_model)
        weights = load_file(Path(end) / "model.safetensors")
        save_file({f"x.{name}": weight for name, weight in weights.items()}, Path(end) / "model.safetensors")
        expected = "have no tensor in common"
    elif spoil == "missing shard":
        model = AutoModelForCausalLM.from_pretrained(tuned)
        end = saved(model, tmp_path / "sharded", tuned, max_shard_size="40KB")
        sorted(Path(end).glob("model-*.safetensors"))[1].unlink()
        expected = r"lacks model-00002-of-\d+\.safetensors, which its index names"
    elif spoil == "no folder":
        file, expected = tmp_path / "none" / "delta.safetensors", "does not exist: make it first"
    elif spoil == "no suffix":
        file, expected = tmp_path / "delta.bin", "expected a name that ends in .safetensors"
    else:
        file, expected = Path(tiny_model) / "model.safetensors", "exists and is no delta"
    with pytest.raises(UserError, match=expected):
        make_delta(base, end, file)
    assert spoil == "is a model" or not file.exists()


@pytest.mark.parametrize("kind", ["file", "data", "checkpoint"])
def test_overwrite_replaces_models_alone(tiny_model, tuned, tmp_path, copy_of, kind):
    make_delta(tiny_model, tuned, tmp_path / "delta.safetensors")
    output = Path(copy_of(tiny_model, "output"))
    with pytest.raises(UserError, match="exists: give another --output, or --overwrite"):
        apply_deltas(tiny_model, [tmp_path / "delta.safetensors"], output)
    apply_deltas(tiny_model, [tmp_path / "delta.safetensors"], output, overwrite=True)
    assert contents(output) == contents(tuned)
    undo_deltas(str(output), [tmp_path / "delta.safetensors"], output, overwrite=True)  # in its own place
    assert contents(output) == contents(tiny_model)
    other = tmp_path / "other"
    if kind == "file":
        other.write_text("kept")
    else:
        (other / "checkpoint-8").mkdir(parents=True)
        if kind == "data":
            (other / "checkpoint-8").rmdir()
            (other / "data.jsonl").write_text("kept")
        else:
            (other / "config.json").write_text("{}")
    with pytest.raises(UserError, match="holds more than a model"):
        apply_deltas(tiny_model, [tmp_path / "delta.safetensors"], other, overwrite=True)
    assert other.exists()


def test_full_disk_is_said_before_and_during_writing(tiny_model, tuned, tmp_path, monkeypatch):
    file = tmp_path / "delta.safetensors"
    make_delta(tiny_model, tuned, file)
    usage = namedtuple("usage", "total used free")
    with monkeypatch.context() as patched:
        patched.setattr("shutil.disk_usage", lambda path: usage(10, 9, 1))
        with pytest.raises(UserError, match=r"The disk has 0.00 GB free .* make room, or give another --output"):
            apply_deltas(tiny_model, [file], tmp_path / "out")

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("mofo.deltas.apply.decode", full)
        with pytest.raises(UserError, match="out cannot be written: No space left on device"):
            apply_deltas(tiny_model, [file], tmp_path / "out")
        patched.setattr("mofo.deltas.diff.encode", full)
        with pytest.raises(UserError, match=r"more.safetensors cannot be written: No space left on device"):
            make_delta(tiny_model, tuned, tmp_path / "more.safetensors")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2", "delta.safetensors"]


KILLED = """
import os, signal, sys
from pathlib import Path
import mofo.deltas.apply as apply
decode, calls = apply.decode, []
def killed(*arguments, **options):
    calls.append(1)
    if len(calls) == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    return decode(*arguments, **options)
apply.decode = killed
apply.apply_deltas(sys.argv[1], [Path(sys.argv[2])], Path(sys.argv[3]), overwrite=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
def test_kill_in_the_middle_leaves_the_old_model_whole(tiny_model, tuned, tmp_path, copy_of):
    make_delta(tiny_model, tuned, tmp_path / "delta.safetensors")
    output = Path(copy_of(tiny_model, "output"))
    arguments = [sys.executable, "-c", KILLED, tiny_model, str(tmp_path / "delta.safetensors"), str(output)]
    assert subprocess.run(arguments).returncode == -signal.SIGKILL
    assert contents(output) == contents(tiny_model)
    apply_deltas(tiny_model, [tmp_path / "delta.safetensors"], output, overwrite=True)
    assert contents(output) == contents(tuned)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2", "delta.safetensors", "output"]


MEASURED = """
import sys
from pathlib import Path
import torch
from mofo.deltas import apply_deltas, make_delta, undo_deltas
from mofo.deltas.pieces import decode, encode_rounded
import filelock, safetensors
coded, _, _ = encode_rounded(bytes(4000), b"\1" * 4000, ("F32", "F32"))  # loads the code that it needs
decode(coded, bytes(4000), ("F32", "F32"), 4000, forward=True)
def memory(field):
    fields = dict(line.split(":", 1) for line in open("/proc/self/status"))
    return int(fields[field].split()[0]) * 1024
before = memory("VmRSS")
open("/proc/self/clear_refs", "w").write("5")  # the peak counts from here
for step in (
    lambda: make_delta(sys.argv[1], sys.argv[2], Path(sys.argv[3]) / "delta.safetensors"),
    lambda: make_delta(sys.argv[1], sys.argv[2], Path(sys.argv[3]) / "rounded.safetensors", bits=8),
    lambda: apply_deltas(sys.argv[1], [Path(sys.argv[3]) / "delta.safetensors"], Path(sys.argv[3]) / "forward"),
    lambda: undo_deltas(sys.argv[2], [Path(sys.argv[3]) / "delta.safetensors"], Path(sys.argv[3]) / "backward"),
):
    step()
    print(memory("VmHWM") - before)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/clear_refs"), reason="Linux measures the peak of memory")
def test_memory_is_less_than_the_largest_tensor(tmp_path):
    largest = 2**24  # entries of float32: 64 MiB
    generator = torch.Generator().manual_seed(0)
    for name in ("base", "tuned"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.json").write_text("{}")
        files = {}
        for number in range(3):
            rows = 2**12 if number == 1 else 2**10
            weights = {f"w{number}": torch.randn(rows, 2**12, generator=generator.manual_seed(number))}
            if name == "tuned":
                weights[f"w{number}"].view(-1)[::3] += 1e-3
            save_file(weights, folder / f"model-{number}.safetensors")
            files |= dict.fromkeys(weights, f"model-{number}.safetensors")
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    arguments = [sys.executable, "-c", MEASURED, *(str(tmp_path / name) for name in ("base", "tuned", ""))]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    growth = [int(line) for line in done.stdout.split()]
    assert len(growth) == 4
    assert max(growth) < 4 * largest, growth
    assert contents(tmp_path / "forward") == contents(tmp_path / "tuned")


def test_description_says_how_much_moved_and_what_is_lost(tiny_model, tuned, adapter, tmp_path):
    file = tmp_path / "delta.safetensors"
    first, second = description(make_delta(tiny_model, tuned, file))
    assert "of its entries moved" in first
    assert "to the bit" in second
    assert "it loses 0." in description(make_delta(tiny_model, tuned, file, bits=8))[1]
    assert "bound to its base" in description(make_delta(tiny_model, adapter, file))[0]
