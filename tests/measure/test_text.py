import hashlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import processors

from mofo.data.tokens import IGNORED
from mofo.errors import UserError
from mofo.measure import text
from mofo.measure.probe import Base
from mofo.measure.text import WINDOW, WINDOWS, TextProbe, general_english, read_text, strip_frame, window_starts
from reference.architectures import make_model


def test_text_probe_of_a_short_text_is_one_plain_pass(base, tokenizer):
    ids = torch.tensor([tokenizer("the old king and the sea").input_ids])
    with torch.no_grad():
        expected = base(input_ids=ids, labels=ids).loss
    measured = TextProbe("mine", "the old king and the sea", tokenizer).measure(base)
    assert measured == {"loss": pytest.approx(float(expected), rel=1e-5)}


def test_text_probe_begins_windows_as_the_tokenizer_begins_texts_and_does_not_count_that(base, tokenizer):
    starting = type(tokenizer)(tokenizer_object=tokenizer.backend_tokenizer, bos_token="<s>", eos_token="</s>")
    start = [starting.bos_token_id, starting.eos_token_id]
    starting.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> </s> $A", special_tokens=list(zip(["<s>", "</s>"], start, strict=True))
    )
    words = "the sky is blue " * 200
    ids = starting(words, add_special_tokens=False).input_ids
    assert len(ids) > WINDOW
    total = 0.0
    for first in range(0, len(ids), WINDOW):
        window = torch.tensor([start + ids[first : first + WINDOW]])
        labels = window.clone()
        labels[:, : len(start)] = IGNORED
        with torch.no_grad():
            total += float(base(input_ids=window, labels=labels).loss) * (window.numel() - len(start))
    measured = TextProbe("mine", words, starting).measure(base)["loss"]
    assert measured == pytest.approx(total / len(ids), rel=1e-5)


@settings(deadline=None)
@given(st.integers(2, 50_000))
def test_window_starts_lie_in_the_text_and_reach_both_ends(tokens):
    starts = window_starts(tokens)
    assert starts[0] == 0
    assert len(starts) <= WINDOWS
    assert starts[-1] < tokens
    assert max(start + WINDOW for start in starts) >= tokens
    assert starts == sorted(set(starts))


def test_text_probe_refuses_a_text_of_one_token(tokenizer):
    with pytest.raises(UserError, match=r"probe `mine` has 1 tokens"):
        TextProbe("mine", "a", tokenizer)


def test_general_english_is_a_long_story_without_its_frame():
    story = general_english()
    assert story.startswith("Little though they seem to think of it, the people of this twenty-ninth century live")
    assert story.endswith("increasing the length of the terrestrial year.")
    assert "Gutenberg" not in story
    assert len(story.split()) > 5000


def test_strip_frame():
    book = "licence\nIN THE YEAR 2889\nBy …\nIN THE YEAR 2889.\n\nOnce.\n\nTwice.\n\nJules Verne.\n\nEnd of Project"
    assert strip_frame(book) == "Once.\n\nTwice."


def test_general_english_refuses_a_missing_or_changed_story(monkeypatch, tmp_path):
    package = tmp_path / "reasoning_gym" / "__init__.py"
    spec = type("Spec", (), {"origin": str(package)})
    monkeypatch.setattr(text.util, "find_spec", lambda name: spec)
    with pytest.raises(UserError, match="cannot be read"):
        general_english()
    (package.parent / "data").mkdir(parents=True)
    (package.parent / "data" / "in_the_year_2889.txt").write_text("IN THE YEAR 2889.\nAnother.\nJules Verne.\n")
    with pytest.raises(UserError, match=hashlib.sha256(b"Another.").hexdigest()):
        general_english()
    monkeypatch.setattr(text.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install mofo\[train\]"):
        general_english()


def test_text_probe_has_no_window_longer_than_the_models_positions(tokenizer):
    model = make_model("gpt2", max_position_embeddings=24)
    probe = TextProbe.make("mine", "", Base(model, tokenizer), None)
    assert 0 < probe.measure(model)["loss"] < 10


def test_read_text_without_the_mark_of_the_byte_order(tmp_path):
    file = tmp_path / "windows.txt"
    file.write_text("the sea", encoding="utf-8-sig")
    assert read_text(str(file)) == "the sea"
