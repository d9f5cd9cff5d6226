"""How far ``on_flat="per_piece"`` is from MoFO: which entries it selects, and how many of each tensor.

Usage: python benchmarks/per_piece.py [--model smollm2-135m] [--batches 8] [--output FILE]

As DeepSpeed ZeRO does, all matrices are laid end to end and cut into 2, 4 or 8 pieces, and so are all vectors; the
entries with the highest momentum of each piece are selected, and compared with those of each tensor. The momentum is
the model's own, of its gradients on batches of GSM problems at the base.
"""

import argparse
import statistics
from pathlib import Path

import torch
from common import FRACTIONS, about_this_run, write

from mofo import MoFO
from mofo.data.rows import load_rows
from mofo.data.tokens import encode
from mofo.models.load import load_model, resolve_model

SHARDS = (2, 4, 8)
ROWS, TOKENS = 4, 128  # of a batch


def momentum(model_name, batches, beta1=0.9):
    """The first moment of each tensor after a step on each batch, with the weights of the base."""
    model, tokenizer = load_model(resolve_model(model_name))
    moments = [torch.zeros_like(param) for param in model.parameters()]
    rows = load_rows("reasoning-gym:gsm_symbolic", limit=ROWS * batches)
    for first in range(0, len(rows), ROWS):
        for row in rows[first : first + ROWS]:
            example = encode(row, tokenizer, max_length=TOKENS)
            inputs, labels = (torch.tensor([example[key]]) for key in ("input_ids", "labels"))
            (model(input_ids=inputs, labels=labels).loss / ROWS).backward()
        for moment, param in zip(moments, model.parameters(), strict=True):
            moment.lerp_(param.grad, 1 - beta1)
        model.zero_grad()
    return moments


def selected(pieces, fraction):
    """Which entries MoFO moves where these pieces, with their momentum, are its parameters."""
    params = [torch.nn.Parameter(torch.zeros_like(piece)) for piece in pieces]
    for param, piece in zip(params, pieces, strict=True):
        param.grad = piece
    MoFO(params, lr=1.0, fraction=fraction, betas=(0.0, 0.0)).step()  # β1 = 0: the momentum is the gradient
    return [param.detach() != 0 for param in params]


def per_piece(moments, fraction, shards):
    """Which entries of each tensor are selected from flat pieces, matrices and vectors apart as trainers group them."""
    masks = [torch.zeros_like(moment, dtype=torch.bool) for moment in moments]
    for matrices in (True, False):
        group = [i for i, moment in enumerate(moments) if (moment.dim() > 1) == matrices]
        flat = torch.cat([moments[i].flatten() for i in group])
        mask = torch.cat(selected(list(flat.chunk(shards)), fraction))
        for i, part in zip(group, mask.split([moments[i].numel() for i in group]), strict=True):
            masks[i] = part.view_as(moments[i])
    return masks


def compare(exact, flat, fraction):
    """Share of the exact selection that both select, and the spread of the fractions selected of the tensors."""
    both = sum(int((a & b).sum()) for a, b in zip(exact, flat, strict=True))
    fractions = [float(mask.float().mean()) / fraction for mask in flat]
    return {
        "overlap": round(both / sum(int(mask.sum()) for mask in exact), 4),
        "fraction_of_a_tensor_over_fraction": {
            "least": round(min(fractions), 4),
            "median": round(statistics.median(fractions), 4),
            "most": round(max(fractions), 4),
        },
        "tensors_without_a_selected_entry": sum(not mask.any() for mask in flat),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--batches", type=int, default=8)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "per_piece-cpu.json")
    arguments = parser.parse_args()
    moments = momentum(arguments.model, arguments.batches)
    rows = []
    print(f"{'α':>6}{'shards':>8}{'overlap':>10}{'α of a tensor ÷ α: least, median, most':>42}{'none':>6}")
    for fraction in FRACTIONS:
        exact = selected(moments, fraction)
        for shards in SHARDS:
            row = compare(exact, per_piece(moments, fraction, shards), fraction)
            rows.append({"fraction": fraction, "shards": shards, **row})
            spread = "{least:.3f}  {median:.3f}  {most:.3f}".format(**row["fraction_of_a_tensor_over_fraction"])
            none = row["tensors_without_a_selected_entry"]
            print(f"{fraction:>6}{shards:>8}{row['overlap']:>10.3f}{spread:>42}{none:>6}")
    print("none: tensors of which no entry is selected, out of", len(moments))
    about = {"model": arguments.model, "batches": arguments.batches, "rows_of_a_batch": ROWS, "tokens_of_a_row": TOKENS}
    write({**about_this_run(), **about, "tensors": len(moments), "rows": rows}, arguments.output)


if __name__ == "__main__":
    main()
