"""A language model small enough to be trained in a test, and data for it."""

import json
import os

import pytest
import torch

if not torch.cuda.is_available():  # then GPU kernels are interpreted; Triton looks at this once, when it is imported
    os.environ.setdefault("TRITON_INTERPRET", "1")

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def _tokenizer():
    """Bytes and a few special tokens: every text can be tokenised."""
    special = ["<pad>", "<s>", "</s>", "<|user|>", "<|assistant|>", "<|system|>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=270, special_tokens=special, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(["what is two plus three"], trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", model_max_length=256
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    """The folder of a random two-layer Llama with tokenizer and chat template; do not write into it."""
    folder = tmp_path_factory.mktemp("tiny-model")
    tokenizer = _tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def sums():
    """Twenty-four questions with answers."""
    return [
        {"question": f"what is {a} plus {b}?", "answer": f"{a} plus {b} is {a + b}."}
        for a in range(1, 5)
        for b in range(1, 7)
    ]


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory, sums):
    """The sums as a jsonl file of prompts and completions."""
    file = tmp_path_factory.mktemp("tiny-data") / "sums.jsonl"
    rows = [{"prompt": row["question"], "completion": " " + row["answer"]} for row in sums]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)
