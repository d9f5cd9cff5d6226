"""GGUF files, converted once to the format of transformers."""

from __future__ import annotations

import sys
from pathlib import Path

from mofo.errors import UserError, first_line
from mofo.files import cache_folder, new_folder, sha256


def converted_gguf(gguf: Path, target: Path | None = None) -> Path:
    """Return the float32 safetensors folder of a GGUF file; the first call converts it.

    Args:
        gguf: The file.
        target: The folder to convert to. By default a folder of the cache that is named after the file's content.

    Raises:
        UserError: The file cannot be read as a GGUF model. Nothing is kept then.
    """
    from filelock import FileLock

    target = target or cache_folder() / "models" / f"gguf-{sha256(gguf)[:16]}"
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.with_name(f"{target.name}.lock")):
        if not (target / "config.json").is_file():
            print(f"Converting {gguf.name} (once) ...", file=sys.stderr)
            with new_folder(target) as scratch:
                _convert(gguf, scratch)
    return target


def _convert(gguf: Path, folder: Path) -> None:
    """Write the dequantised model and its tokenizer to a folder in the format of transformers."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    try:
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        quantised = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise UserError(f"{gguf.name} cannot be read as a GGUF model: {first_line(error)}") from error
    # transformers refuses to save a model that remembers having been quantised, so its weights go into a model with a
    # plain configuration.
    settings = {
        k: v for k, v in quantised.config.to_dict().items() if k not in ("quantization_config", "_name_or_path")
    }
    model = type(quantised)(type(quantised.config).from_dict(settings))
    model.load_state_dict(quantised.state_dict())
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
