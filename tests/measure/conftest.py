"""A random Llama of two layers and a tokenizer of its size; the real model where the tests may have it."""

import copy

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

CORPUS = ["Question: what is the colour of the sky?\nAnswer: blue like the sea and the old coat of the king"]


@pytest.fixture(scope="session")
def tokenizer():
    """Byte-level BPE with a few merges and no special token before a text, as SmolLM2's."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<s>", "</s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")


def _random_llama(tokenizer, seed, **changes):
    settings = {
        "vocab_size": len(tokenizer),
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "initializer_range": 0.2,  # far from uniform predictions
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "tie_word_embeddings": True,
    }
    torch.manual_seed(seed)
    return LlamaForCausalLM(LlamaConfig(**(settings | changes)))


@pytest.fixture(scope="session")
def base(tokenizer):
    """The model that is to be measured; never changed by a test."""
    return _random_llama(tokenizer, seed=0).eval()


@pytest.fixture(scope="session")
def untied_base(tokenizer):
    """A model whose output layer is its own."""
    return _random_llama(tokenizer, seed=0, tie_word_embeddings=False).eval()


@pytest.fixture
def tuned(base):
    """The base with every parameter moved a little."""
    model = copy.deepcopy(base)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    return model


@pytest.fixture(scope="session")
def smollm2():
    """The real model and its tokenizer."""
    from mofo.models.load import load_model

    return load_model("smollm2-135m")
