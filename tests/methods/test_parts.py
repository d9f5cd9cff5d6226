"""Each part against a naive reference in float64."""

import copy
import math
from collections import Counter
from dataclasses import replace

import pytest
import torch

from methods.conftest import ROWS, move
from mofo.errors import UserError
from mofo.methods.adamw import AdamW
from mofo.methods.adapters import OFT, DoRA, LoRA
from mofo.methods.base_text import base_text
from mofo.methods.blend import Blend
from mofo.methods.ewc import EWC
from mofo.methods.hft import HFT
from mofo.methods.importance import importance
from mofo.methods.lion import Lion, MoFOLion
from mofo.methods.method import make_method
from mofo.methods.mofo import MoFO
from mofo.methods.pull import L1, L2
from mofo.methods.replay import Replay
from mofo.methods.self_distill import SelfDistill
from mofo.methods.sgd import SGD
from mofo.methods.soft_masking import CoFiTune, SoftMasking
from mofo.methods.token_weights import DFT, Anchor, TokenMask
from mofo.models.weights import weights_of


def double(model):
    return {name: p.detach().double() for name, p in model.named_parameters()}


def gradients(model):
    return {name: p.grad.double() for name, p in model.named_parameters()}


def close(found, expected, tolerance=1e-5):
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        torch.testing.assert_close(tensor.double(), expected[name], rtol=tolerance, atol=tolerance)


def log_p(model, ids):
    """Log-probabilities at each position, float64."""
    with torch.no_grad():
        return copy.deepcopy(model).double()(input_ids=torch.as_tensor(ids)).logits.log_softmax(-1)


# ---- Optimizers


@pytest.mark.parametrize(
    ("blocks", "groups"),
    [
        ("tensor", {(1, False)}),
        ("row", {(1, False), (32, False)}),
        ("layer", {(1, False), (1, True)}),
        ("model", {(1, True)}),
    ],
)
def test_mofo_has_the_blocks_that_are_asked_for(model, setup, blocks, groups):
    optimizer = MoFO(blocks=blocks).build(model, setup)
    found = {(group["blocks"], group["group_as_block"]) for group in optimizer.param_groups}
    assert found & groups == groups
    assert {together for _, together in found} == {together for _, together in groups}
    move(model, size=0, seed=0)
    optimizer.step()


def test_blocks_of_several_tensors_with_8_bit_moments_are_refused_before_a_run():
    with pytest.raises(UserError, match="blocks is layer, which needs float32 moments"):
        make_method({"mofo": {"blocks": "layer", "state_dtype": "int8"}})


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sgd_matches_naive_float64(model, setup, momentum):
    optimizer = SGD(learning_rate=0.1, momentum=momentum, weight_decay=0.01).build(model, setup)
    expected, m = double(model), {}
    for seed in range(3):
        move(model, size=0, seed=seed)
        for name, g in gradients(model).items():
            m[name] = momentum * m.get(name, 0) + g + 0.01 * expected[name]
            expected[name] = expected[name] - 0.1 * m[name]
        optimizer.step()
    close(double(model), expected)


@pytest.mark.parametrize("part", [Lion, MoFOLion])
@pytest.mark.parametrize("fraction", [0.1, 1.0])
def test_lion_and_its_filter_match_naive_float64(model, setup, part, fraction):
    if part is Lion and fraction < 1:
        pytest.skip("Lion has no fraction")
    settings = {"learning_rate": 0.01, "weight_decay": 0.1} | ({"fraction": fraction} if part is MoFOLion else {})
    optimizer = part(**settings).build(model, setup)
    expected, m = double(model), {}
    for seed in range(3):
        move(model, size=0, seed=seed)
        for name, g in gradients(model).items():
            before = m.get(name, torch.zeros_like(g))
            u = (0.9 * before + 0.1 * g).sign()
            m[name] = 0.99 * before + 0.01 * g
            k = max(1, math.floor(fraction * g.numel()))
            chosen = torch.zeros(g.numel(), dtype=torch.bool)
            chosen[m[name].flatten().abs().topk(k).indices] = True
            moved = expected[name] * (1 - 0.01 * 0.1) - 0.01 * u
            expected[name] = torch.where(chosen.view(g.shape), moved, expected[name])
        optimizer.step()
    close(double(model), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "part",
    [
        AdamW(),
        AdamW(rounding="stochastic"),
        AdamW(state_dtype="int8"),
        MoFO(),
        MoFO(state_dtype="int8"),
        Lion(),
        MoFOLion(),
        SGD(),
    ],
    ids=lambda part: "-".join(map(str, part.model_dump(exclude_defaults=True).values())) + part.name,
)
def test_state_bytes_are_those_that_an_optimizer_keeps(setup, part, dtype):
    model = torch.nn.Linear(256, 256, bias=False, dtype=dtype)
    optimizer = part.build(model, setup)
    model.weight.grad = torch.randn_like(model.weight)
    optimizer.step()
    kept = [value for value in optimizer.state[model.weight].values() if torch.is_tensor(value)]
    inner = [getattr(t, name) for t in kept if hasattr(t, "__tensor_flatten__") for name in t.__tensor_flatten__()[0]]
    plain = [tensor for tensor in kept if not hasattr(tensor, "__tensor_flatten__")]
    found = sum(tensor.nbytes for tensor in [*inner, *plain]) / model.weight.numel()
    assert found == pytest.approx(part.state_bytes(dtype.itemsize), rel=0.05)


def test_mofo_lion_leaves_all_other_entries_their_bits(model, setup):
    before = copy.deepcopy(weights_of(model))
    optimizer = MoFOLion(learning_rate=0.01, fraction=0.05).build(model, setup)
    move(model, size=0)
    optimizer.step()
    for name, p in model.named_parameters():
        assert int((p != before[name]).sum()) == max(1, p.numel() // 20)


# ---- Pulls towards the base


@pytest.mark.parametrize(
    ("part", "penalty"),
    [
        (L2(strength=0.3), lambda d: 0.3 * (d**2).sum()),
        (L1(strength=0.2), lambda d: 0.2 * d.abs().sum()),
    ],
)
def test_l2_and_l1_add_the_gradient_of_their_penalty(model, setup, part, penalty):
    move(model)
    expected = gradients(model)
    for name, p in double(model).items():
        p.requires_grad_()
        penalty(p - setup.base[name].double()).backward()
        expected[name] += p.grad
    part.after_backward(model, 0, setup)
    close(gradients(model), expected)


@pytest.mark.parametrize(
    ("part", "pulled"),
    [
        (L2(strength=0.3, decoupled=True), lambda d: d * (1 - 2 * 0.5 * 0.3)),
        (L1(strength=0.2, decoupled=True), lambda d: d.sign() * (d.abs() - 0.5 * 0.2).clamp(min=0)),
    ],
)
def test_decoupled_pull_moves_the_weights_after_a_step(model, setup, part, pulled):
    move(model)
    before = gradients(model)
    part.after_backward(model, 0, setup)
    close(gradients(model), before)
    base = {name: setup.base[name].double() for name in before}
    expected = {name: base[name] + pulled(p - base[name]) for name, p in double(model).items()}
    (callback,) = part.callbacks(setup)
    callback.on_optimizer_step(None, None, None, model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.5))
    close(double(model), expected)


def test_pull_refuses_adapters(model, setup):
    adapted = LoRA(rank=2).prepare(model, setup)
    with pytest.raises(UserError, match="l2 compares each trained weight with the base's"):
        L2().after_backward(adapted, 0, setup)


def test_ewc_adds_the_gradient_of_its_penalty_with_the_true_fisher_information(model, setup, again):
    part = EWC(strength=2.0, texts=3, tokens=5)
    part.prepare(model, setup)
    ids = base_text(model, setup, texts=3, tokens=5)
    exact = copy.deepcopy(model).double()
    fisher = dict.fromkeys(weights_of(model), 0)
    for text in ids:
        exact.zero_grad()
        exact(input_ids=text[None]).logits.log_softmax(-1)[0, -6:-1].gather(-1, text[-5:, None]).sum().backward()
        for name, p in exact.named_parameters():
            fisher[name] = fisher[name] + p.grad**2 / (3 * 5)
    move(model)
    expected = {
        name: g + 2.0 * fisher[name] * (double(model)[name] - setup.base[name].double())
        for name, g in gradients(model).items()
    }
    part.after_backward(model, 0, again)  # measured once, and read again
    close(gradients(model), expected, tolerance=1e-4)


# ---- Frozen parts and masks


def test_hft_freezes_half_of_the_matrices_of_each_module_by_seed(model, setup):
    HFT().prepare(model, setup)
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    for layer in (0, 1):
        inside = [name for name in frozen if f"layers.{layer}." in name]
        assert sum("self_attn" in name for name in inside) == 2
    assert sum("mlp" in name for name in frozen) == 3  # of 2 x 3
    assert not [name for name in frozen if "norm" in name or "embed" in name]

    from transformers import AutoModelForCausalLM

    def drawn(part):
        other = AutoModelForCausalLM.from_config(model.config)
        return {name for name, p in part.prepare(other, setup).named_parameters() if not p.requires_grad}

    assert drawn(HFT()) == frozen
    assert any(drawn(HFT(draw=draw)) != frozen for draw in range(1, 4))


def test_hft_draws_another_half_for_the_next_task_and_frees_what_it_froze(model, setup):
    model.get_input_embeddings().weight.requires_grad_(False)  # another part's
    part = HFT()
    part.prepare(model, setup)
    first = {name for name, p in model.named_parameters() if not p.requires_grad}
    part.next_task(model, replace(setup, task=1))
    second = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert len(first) == len(second)
    assert first != second
    assert "model.embed_tokens.weight" in first & second


def test_importance_is_the_standardised_gradient_by_a_gate(model, setup):
    units = importance(model, setup, texts=2, tokens=6)
    ids = base_text(model, setup, texts=2, tokens=6)
    exact = copy.deepcopy(model).double()
    for name in ("model.layers.0.self_attn.o_proj", "model.layers.1.mlp.down_proj"):
        module = exact.get_submodule(name)
        count = 4 if name.endswith("o_proj") else module.in_features
        total = torch.zeros(count, dtype=torch.float64)
        for text in ids:
            gate = torch.ones(count, dtype=torch.float64, requires_grad=True)
            spread = gate.repeat_interleave(module.in_features // count)
            handle = module.register_forward_pre_hook(lambda m, a, spread=spread: (a[0] * spread,))
            exact(input_ids=text[None], labels=text[None]).loss.backward()
            handle.remove()
            total += gate.grad.abs()
        expected = ((total - total.mean()) / total.std()).tanh().abs()
        torch.testing.assert_close(units[name].double(), expected, rtol=1e-3, atol=1e-4)
    assert all(p.grad is None for p in model.parameters())


def test_soft_masking_scales_the_gradients_of_heads_and_neurons(model, setup):
    part = SoftMasking(texts=2, tokens=6)
    part.prepare(model, setup)
    units = importance(model, setup, texts=2, tokens=6)
    move(model)
    expected = gradients(model)
    for layer in ("model.layers.0", "model.layers.1"):
        heads = 1 - units[f"{layer}.self_attn.o_proj"].double()  # 4 heads of 8, 2 pairs share keys and values
        neurons = 1 - units[f"{layer}.mlp.down_proj"].double()
        pairs = torch.stack([heads[:2].mean(), heads[2:].mean()]).repeat_interleave(8)[:, None]
        expected[f"{layer}.self_attn.q_proj.weight"] *= heads.repeat_interleave(8)[:, None]
        expected[f"{layer}.self_attn.k_proj.weight"] *= pairs
        expected[f"{layer}.self_attn.v_proj.weight"] *= pairs
        expected[f"{layer}.self_attn.o_proj.weight"] *= heads.repeat_interleave(8)
        expected[f"{layer}.mlp.gate_proj.weight"] *= neurons[:, None]
        expected[f"{layer}.mlp.up_proj.weight"] *= neurons[:, None]
        expected[f"{layer}.mlp.down_proj.weight"] *= neurons
    part.after_backward(model, 0, setup)
    close(gradients(model), expected)


def test_cofitune_trains_the_feed_forward_parts_of_the_middle_layers(model, setup):
    part = CoFiTune(first=0.0, last=0.5, texts=2, tokens=6)
    part.prepare(model, setup)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {f"model.layers.0.mlp.{kind}_proj.weight" for kind in ("gate", "up", "down")}
    with pytest.raises(UserError, match="no feed-forward part to train"):
        CoFiTune(first=0.9, last=0.9, texts=2, tokens=6).prepare(model, setup)


# ---- Adapters


@pytest.mark.parametrize("part", [LoRA(rank=2, alpha=8), DoRA(rank=2), OFT(block=8)], ids=lambda part: part.name)
def test_adapters_start_as_the_base_train_nothing_else_and_are_measured_merged(model, setup, part):
    before = log_p(model, ROWS)
    base = copy.deepcopy(weights_of(model))
    adapted = part.prepare(model, setup)
    torch.testing.assert_close(log_p(adapted, ROWS), before, rtol=1e-5, atol=1e-5)
    assert part.weights(adapted).keys() == base.keys()

    optimizer = torch.optim.AdamW([p for p in adapted.parameters() if p.requires_grad], lr=0.05)
    for _ in range(3):
        ids = torch.tensor(ROWS)
        adapted(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    frozen = {name: p.clone() for name, p in adapted.named_parameters() if not p.requires_grad}
    merged = part.weights(adapted)
    assert all(torch.equal(p, frozen[name]) for name, p in adapted.named_parameters() if not p.requires_grad)

    from transformers import AutoModelForCausalLM

    plain = AutoModelForCausalLM.from_config(model.config)
    assert not plain.load_state_dict(merged, strict=False).unexpected_keys
    plain.tie_weights()
    torch.testing.assert_close(log_p(plain, ROWS), log_p(adapted, ROWS), rtol=1e-4, atol=1e-4)
    assert any(not torch.equal(merged[name], base[name]) for name in base)


# ---- Text that the base wrote


def test_base_text_is_written_once_and_is_not_that_of_the_divergence_probe(model, setup, again):
    from mofo.measure.writing import write_texts

    first = base_text(model, setup, texts=3, tokens=8)
    probe = torch.tensor(write_texts(model, setup.tokenizer, texts=3, tokens=8))
    assert first.shape == probe.shape
    assert not any(torch.equal(row, other) for row in first for other in probe)
    assert torch.equal(base_text(move(model, size=1), again, texts=3, tokens=8), first)


@pytest.mark.parametrize("top", [0, 5])
def test_self_distill_is_the_divergence_on_the_steps_texts(model, setup, again, top):
    part = SelfDistill(weight=0.7, texts=3, tokens=6, per_step=2, every=2, top=top, form="free")
    part.prepare(model, setup)
    p = log_p(model, base_text(model, setup, texts=3, tokens=6)[:, :-1])
    move(model)
    q = log_p(model, base_text(model, setup, texts=3, tokens=6)[:, :-1])
    if top:
        chosen = p.topk(top, dim=-1).indices
        p, q = (
            torch.cat([x.gather(-1, chosen), (1 - x.gather(-1, chosen).exp().sum(-1, keepdim=True)).log()], -1)
            for x in (p, q)
        )
    by_text = (p.exp() * (p - q)).sum(-1).mean(-1)
    seen = []
    for step in range(0, 6, 2):
        assert part.penalty(model, step + 1, setup) is None
        penalty = part.penalty(model, step, again)
        pairs = {(i, j): 0.7 * 2 * (by_text[i] + by_text[j]) / 2 for i in range(3) for j in range(3)}
        found = min(pairs, key=lambda pair: abs(pairs[pair] - penalty.item()))
        assert penalty.item() == pytest.approx(pairs[found].item(), rel=1e-4)
        seen += found
    assert sorted(seen) == [0, 0, 1, 1, 2, 2]  # the bank twice, whole each time
    penalty.backward()
    assert any(p.grad.abs().sum() > 0 for p in model.parameters())


@pytest.mark.parametrize(
    ("steps", "settings", "texts"),
    [
        (5, {}, 10),
        (5, {"per_step": 3}, 15),
        (5, {"every": 2}, 6),
        (5, {"texts": 4}, 4),
        (1000, {"tokens": 1, "top": 1}, 512),
        (None, {"texts": 7}, 7),
    ],
)
def test_self_distill_writes_as_many_texts_as_the_steps_take(model, setup, steps, settings, texts):
    part = SelfDistill(**{"tokens": 4, "form": "free"} | settings)
    planned = replace(setup, steps=steps)
    part.prepare(model, planned)
    bank = part._bank(planned, model)
    assert len(bank["ids"]) == len(bank["log_p"]) == texts
    assert len(part._bank(replace(planned, task=1), model)["ids"]) == texts  # one bank for all tasks


def test_no_text_comes_twice_in_a_training_and_tasks_go_through_the_bank_in_other_orders(setup):
    part, planned = SelfDistill(), replace(setup, steps=9)
    first, second = (
        [text for turn in range(9) for text in part._rows(turn, task).tolist()]
        for task in (planned, replace(planned, task=1))
    )
    assert sorted(first) == sorted(second) == list(range(18))
    assert first != second


def test_base_writes_conversations_from_the_users_turn_on(model, setup):
    setup.tokenizer.chat_template = f"Now {setup.tokenizer.chat_template}"
    start = setup.tokenizer.apply_chat_template([{"role": "user", "content": "X"}], tokenize=False).partition("X")[0]
    expected = setup.tokenizer(start, add_special_tokens=False)["input_ids"]
    texts = base_text(model, setup, texts=3, tokens=8, form="chat")
    assert texts.shape == (3, len(expected) + 8)
    assert texts[:, : len(expected)].tolist() == [expected] * 3
    assert len({tuple(row) for row in texts.tolist()}) == 3


@pytest.mark.parametrize("form", ["chat", "mixed"])
def test_self_distill_on_conversations_leaves_out_how_they_start(model, setup, form):
    setup.tokenizer.chat_template = f"Now {setup.tokenizer.chat_template}"
    part = SelfDistill(weight=1, texts=3, tokens=6, per_step=3, form=form, top=0)
    part.prepare(model, setup)
    chats = base_text(model, setup, texts=1 if form == "mixed" else 3, tokens=6, form="chat")
    start = chats.shape[1] - 6
    assert start > 2
    texts = [(chats, start)]
    if form == "mixed":  # the free ones are as long
        texts.append((base_text(model, setup, texts=2, tokens=6 + start - 1), 1))
    p = [log_p(model, ids[:, :-1]) for ids, _ in texts]
    move(model)
    q = [log_p(model, ids[:, :-1]) for ids, _ in texts]
    kl = [
        (one.exp() * (one - other)).sum(-1)[:, start - 1 :].flatten()
        for one, other, (_, start) in zip(p, q, texts, strict=True)
    ]
    assert part.penalty(model, 0, setup).item() == pytest.approx(torch.cat(kl).mean().item(), rel=1e-4)


def test_without_a_chat_template_the_base_writes_from_nothing_alone(model, setup, again):
    def kinds(setup, **more):
        part = SelfDistill(texts=2, tokens=6, **more)
        return part._texts(setup, model)[0].tolist()

    assert kinds(setup) == kinds(setup, form="mixed") != kinds(setup, form="free")
    again.tokenizer.chat_template = None
    assert kinds(again) == kinds(again, form="free")


def test_conversations_need_a_chat_template(model, setup):
    setup.tokenizer.chat_template = None
    with pytest.raises(UserError, match="no chat template"):
        SelfDistill(texts=2, tokens=6, form="chat").prepare(model, setup)


def test_self_distill_of_the_base_is_nothing(model, setup):
    part = SelfDistill(texts=2, tokens=6)
    part.prepare(model, setup)
    assert part.penalty(model, 0, setup).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5])
def test_replay_replaces_its_share_of_the_rows_by_text_of_the_base(model, setup, rows, share):
    part = Replay(share=share, texts=2, tokens=6)
    part.prepare(model, setup)
    mixed = part.rows(rows, setup)
    written = base_text(model, setup, texts=2, tokens=6).tolist()
    others = [row for row in mixed if row not in rows]
    assert len(mixed) == len(rows)
    assert len(others) == math.floor(share * len(rows))
    assert all(row["input_ids"] in written and row["labels"] == row["input_ids"] for row in others)
    assert part.rows(rows, setup) == mixed


def test_replay_takes_rows_of_a_file(model, setup, rows, tiny_data):
    part = Replay(share=0.5, data=tiny_data)
    longer = [{**row, "input_ids": row["input_ids"] * 12, "labels": row["labels"] * 12} for row in rows]
    mixed = part.rows(longer, setup.__class__(**{**vars(setup), "rows": longer}))
    texts = [setup.tokenizer.decode(row["input_ids"]) for row in mixed if row not in longer]
    assert len(texts) == 4
    assert all("plus" in text for text in texts)


def test_replay_takes_rows_of_the_earlier_tasks_each_as_often(model, setup, rows):
    part = Replay(share=0.5)
    first, second = ([{**row, "answer": name} for row in rows] for name in ("first", "second"))
    given = [{**row, "answer": "third"} for row in rows] * 16
    mixed = part.rows(given, replace(setup, rows=given, task=2, tasks=3, earlier=[first, second]))
    counts = Counter(row["answer"] for row in mixed)
    assert counts["third"] == 64
    assert abs(counts["first"] - counts["second"]) < 24
    assert part.rows(given, replace(setup, rows=given, tasks=3)) == given  # the first task has none
    assert part.prepare(model, replace(setup, tasks=3)) is model
    assert not setup.shared.exists()  # no text is written


# ---- Weights of tokens


def test_token_mask_counts_only_tokens_that_the_base_finds_likely(model, setup, rows, again):
    part = TokenMask(perplexity=model.config.vocab_size * 1.0)
    part.prepare(model, setup)
    masked = part.rows(rows, setup)
    for row, old in zip(masked, rows, strict=True):
        p = log_p(model, [row["input_ids"]])[0]
        for i in range(1, len(row["labels"])):
            likely = p[i - 1, row["input_ids"][i]] >= -math.log(model.config.vocab_size)
            assert row["labels"][i] == (old["labels"][i] if likely else -100)
    counted = [sum(label != -100 for label in row["labels"]) for row in masked]
    assert 0 < sum(counted) < 3 * len(rows)
    move(model, size=1)
    part.prepare(model, again)  # resumed: the model is not asked again
    assert part.rows(rows, again) == masked


def task_loss(model, rows):
    inputs = {name: torch.tensor([row[name] for row in rows]) for name in ("input_ids", "labels")}
    output = model(**inputs)
    tokens = torch.tensor(int((inputs["labels"][:, 1:] != -100).sum()))
    return output.loss, output.logits, inputs, tokens


def label_log_p(model, rows):
    p = log_p(model, [row["input_ids"] for row in rows])
    return torch.stack(
        [p[r, i - 1, label] for r, row in enumerate(rows) for i, label in enumerate(row["labels"]) if label != -100]
    )


def test_dft_weighs_each_token_by_its_probability(model, setup, rows):
    loss = DFT().loss(*task_loss(model, rows), setup)
    values = label_log_p(model, rows)
    assert loss.item() == pytest.approx(-(values.exp() * values).mean().item(), rel=1e-5)
    loss.backward()
    exact = copy.deepcopy(model).double()
    exact.zero_grad()
    p = exact(input_ids=torch.tensor([row["input_ids"] for row in rows])).logits.log_softmax(-1)
    labels = torch.tensor([row["labels"] for row in rows])[:, 1:]
    chosen = p[:, :-1].gather(-1, labels.clamp(min=0)[..., None]).squeeze(-1)[labels != -100]
    (-(chosen.exp().detach() * chosen)).mean().backward()
    close({n: q.grad for n, q in model.named_parameters()}, {n: q.grad for n, q in exact.named_parameters()})


def test_anchor_adds_the_divergence_on_the_tasks_tokens(model, setup, rows):
    part = Anchor(weight=0.4)
    part.prepare(model, setup)
    p = log_p(model, [row["input_ids"] for row in rows])
    move(model)
    q = log_p(model, [row["input_ids"] for row in rows])
    counts = torch.tensor([row["labels"] for row in rows])[:, 1:] != -100
    divergence = (p.exp() * (p - q)).sum(-1)[:, :-1][counts].mean()
    loss, *given = task_loss(model, rows)
    assert part.loss(loss, *given, setup).item() == pytest.approx(loss.item() + 0.4 * divergence.item(), rel=1e-4)


# ---- After training


def test_blend_yields_the_end_moved_back_and_leaves_it_as_it_was(model, setup):
    move(model)
    end = copy.deepcopy(weights_of(model))
    for values in Blend(keep=(0.75, 0.0)).after_training(model, setup):
        share = values["keep"]
        for name, p in model.named_parameters():
            base = setup.base[name]
            torch.testing.assert_close(p.detach(), base + share * (end[name] - base))
    assert all(torch.equal(p, end[name]) for name, p in model.named_parameters())


def test_blend_with_a_tilt_keeps_less_of_the_first_group_of_layers_and_more_of_the_last(model, setup):
    move(model)
    end = copy.deepcopy(weights_of(model))
    layers = model.config.num_hidden_layers
    assert layers == 2
    part = Blend(keep=(0.6, 0.9), tilt=(0.0, 0.25), groups=2)
    found = []
    for values in part.after_training(model, setup):
        found.append(values)
        keep, tilt = values["keep"], values["tilt"]
        for name, p in model.named_parameters():
            first = name.startswith("model.embed_tokens") or ".layers.0." in name
            share = keep - tilt if first else min(1.0, keep + tilt)
            torch.testing.assert_close(p.detach(), setup.base[name].lerp(end[name], share))
    assert found == [{"keep": keep, "tilt": tilt} for keep in (0.6, 0.9) for tilt in (0.0, 0.25)]
    assert all(torch.equal(p, end[name]) for name, p in model.named_parameters())


def test_blend_groups_keep_the_share_on_average():
    part = Blend(groups=3)
    assert [part.share(0.6, 0.3, place) for place in (0, 0.34, 0.67, 1)] == pytest.approx([0.3, 0.6, 0.9, 0.9])
    assert part.share(0.1, 0.3, 0) == 0
