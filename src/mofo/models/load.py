"""Base models: a hub id, a local folder, a `.gguf` file, or the embedded default `smollm2-135m`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from mofo.errors import UserError, first_line
from mofo.models.embedded import EMBEDDED_MODEL, embedded_model
from mofo.models.gguf import converted_gguf

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def resolve_model(spec: str) -> str:
    """Return what `from_pretrained` loads for a user's name of a model.

    Args:
        spec: `smollm2-135m`, the path of a `.gguf` file, a local folder in the transformers format, or a hub id.

    Returns:
        A local folder, or `spec` itself if it is a hub id. A `.gguf` file is converted once to a float32 safetensors
        folder in the cache.

    Raises:
        UserError: The file or folder is not a model, the embedded model cannot be fetched, or its hash is wrong.
    """
    if spec == EMBEDDED_MODEL:
        return str(embedded_model())
    path = Path(spec).expanduser()
    if path.suffix == ".gguf":
        if not path.is_file():
            raise UserError(f"The model file {spec} does not exist: give the path of a .gguf file.")
        return str(converted_gguf(path))
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise UserError(
                f"The folder {spec} is not a model: it has no config.json. Give a folder that save_pretrained wrote."
            )
        return str(path)
    if path.exists() or spec.startswith((".", "/", "~")) or spec.count("/") > 1:
        raise UserError(
            f"There is no model at {spec}: give a hub id, a local folder, a .gguf file or {EMBEDDED_MODEL}."
        )
    return spec


def local_folder(spec: str) -> Path:
    """Return the local folder of a model; a hub id is fetched first.

    Args:
        spec: As for `resolve_model`.

    Raises:
        UserError: As `resolve_model`; or the Hub does not have the model or cannot be reached.
    """
    resolved = resolve_model(spec)
    if Path(resolved).is_dir():
        return Path(resolved)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(
            snapshot_download(resolved, allow_patterns=["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt"])
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise UserError(
            f"The model {spec} is not a local folder and could not be fetched from the Hub ({first_line(error)}): "
            f"check the name and the network, or use {EMBEDDED_MODEL}."
        ) from error


def load_model(
    spec: str, *, dtype: torch.dtype = torch.float32, trust_remote_code: bool = False
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a causal language model and its tokenizer.

    Args:
        spec: As for `resolve_model`.
        dtype: Data type of the parameters.
        trust_remote_code: Whether code that comes with the model may run.

    Raises:
        UserError: The model cannot be found, fetched or loaded.
    """
    from transformers import AutoModelForCausalLM

    folder = local_folder(spec)
    tokenizer = load_tokenizer(folder, trust_remote_code=trust_remote_code)
    try:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"The model {spec} cannot be loaded: {first_line(error)}") from error
    return model, tokenizer


def load_tokenizer(folder: Path, *, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model folder. One without a padding token pads with its end token.

    Raises:
        UserError: The folder has no tokenizer that transformers can load.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"The tokenizer of {folder} cannot be loaded: {first_line(error)}") from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer
