"""Base models: a hub id, a local folder, a `.gguf` file, or the embedded default `smollm2-135m`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from mofo.errors import UserError, first_line
from mofo.models.adapter import adapter_base, is_adapter, merged
from mofo.models.embedded import EMBEDDED_MODEL, embedded_model
from mofo.models.gguf import converted_gguf
from mofo.models.hub import fetch
from mofo.models.quantised import quantisation, with_plain_weights
from mofo.models.quiet import hide_loading_bars

if TYPE_CHECKING:
    from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

TOKENIZER_FILES = ("tokenizer.json", "*.model", "vocab*", "*.tiktoken", "tokenization*.py", "tekken.json")
"""Files of which almost every tokenizer has one."""


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
        if not (path / "config.json").is_file() and not is_adapter(path):
            raise UserError(
                f"The folder {spec} is not a model: it has no config.json and no adapter_config.json. Give a "
                "folder that save_pretrained wrote."
            )
        return str(path)
    if path.exists() or spec.startswith((".", "/", "~")) or spec.count("/") > 1:
        raise UserError(
            f"There is no model at {spec}: give a hub id, a local folder, a .gguf file or {EMBEDDED_MODEL}."
        )
    return spec


def local_folder(spec: str, revision: str | None = None) -> Path:
    """Return the local folder of a model; a hub id is fetched first.

    Args:
        spec: As for `resolve_model`.
        revision: Of a hub id: a branch, tag or commit; by default the main branch.

    Raises:
        UserError: As `resolve_model`; or the Hub does not have the model or cannot be reached.
    """
    resolved = resolve_model(spec)
    if Path(resolved).is_dir():
        return Path(resolved)
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return fetch(resolved, revision)
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        missing = isinstance(error, LocalEntryNotFoundError)
        reason = "it does not answer, and the model was not fetched before" if missing else first_line(error)
        raise UserError(
            f"The model {spec} is not a local folder and could not be fetched from the Hub ({reason}): check the name "
            f"and the network, or use {EMBEDDED_MODEL}."
        ) from error


def load_model(
    spec: str,
    *,
    base: str | None = None,
    dtype: torch.dtype | Literal["auto"] = torch.float32,
    trust_remote_code: bool = False,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a causal language model and its tokenizer.

    An adapter is merged into its base; quantised weights become plain ones.

    Args:
        spec: As for `resolve_model`; or an adapter, as a folder or a hub id.
        base: The base of an adapter; by default the one that its configuration names.
        dtype: Data type of the parameters; `auto` is that in which they are stored.
        trust_remote_code: Whether code that comes with the model may run.

    Raises:
        UserError: The model cannot be found, fetched or loaded.
    """
    from transformers import AutoModelForCausalLM

    hide_loading_bars()
    folder = local_folder(spec)
    tokenizer = load_tokenizer(folder, base=base, trust_remote_code=trust_remote_code)
    if is_adapter(folder):
        base = base or adapter_base(folder)
        base_model, _ = load_model(base, dtype=dtype, trust_remote_code=trust_remote_code)
        return merged(base_model, folder), tokenizer
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype,
            trust_remote_code=trust_remote_code,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are refused below, in words
        )
    except Exception as error:  # transformers and the libraries below it raise many kinds
        raise UserError(f"The model {spec} cannot be loaded: {first_line(error)}") from error
    model, report = loaded
    method = quantisation(folder)
    if method is None:
        _check_complete(report, spec)
    else:
        model = with_plain_weights(model, method, spec)
        if dtype != "auto":
            model.to(dtype)  # type: ignore[arg-type]  # the decorator of `to` hides its signature
    return model, tokenizer


def load_tokenizer(
    folder: Path, *, base: str | None = None, trust_remote_code: bool = False
) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model folder. One without a padding token pads with its end token.

    Args:
        folder: The folder. That of an adapter may hold no tokenizer: then it is the base's.
        base: The base of an adapter; by default the one that its configuration names.
        trust_remote_code: Whether code that comes with the model may run.

    Raises:
        UserError: The folder has no tokenizer that transformers can load.
    """
    from transformers import AutoTokenizer

    if is_adapter(folder) and not (folder / "tokenizer_config.json").is_file():
        folder = local_folder(base or adapter_base(folder))
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except Exception as error:  # transformers and the libraries below it raise many kinds
        if not any(file for pattern in TOKENIZER_FILES for file in folder.glob(pattern)):
            raise UserError(
                f"The folder {folder} has no tokenizer: copy tokenizer.json and tokenizer_config.json from the model "
                "that it was tuned from."
            ) from error
        raise UserError(f"The tokenizer of {folder} cannot be loaded: {first_line(error)}") from error
    if tokenizer.pad_token_id is None:
        # what fills up a batch is masked, so that any token serves where there is no end
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.convert_ids_to_tokens(0)
    return tokenizer


def model_config(spec: str, *, base: str | None = None, trust_remote_code: bool = False) -> PreTrainedConfig:
    """Return the configuration of a model, of an adapter that of its base, without loading any weights.

    Args:
        spec: As for `load_model`.
        base: As for `load_model`.
        trust_remote_code: As for `load_model`.

    Raises:
        UserError: The model cannot be found or fetched, or transformers does not know its architecture.
    """
    from transformers import AutoConfig

    folder = local_folder(spec)
    if is_adapter(folder):
        return model_config(base or adapter_base(folder), trust_remote_code=trust_remote_code)
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except Exception as error:  # transformers and the libraries below it raise many kinds
        raise UserError(f"The model {spec} cannot be loaded: {first_line(error)}") from error
    return config


def empty_model(spec: str, *, base: str | None = None, trust_remote_code: bool = False) -> PreTrainedModel:
    """Return a model whose parameters have names, shapes and no storage, to check it before it is loaded.

    Its weights are looked up in their files, of an adapter those of its base, but not read.

    Raises:
        UserError: As `model_config`; or the architecture is not that of a causal language model; or weights are
            missing, or have other shapes.
    """
    from transformers import AutoModelForCausalLM

    hide_loading_bars()
    config = model_config(spec, base=base, trust_remote_code=trust_remote_code)
    try:
        with torch.device("meta"):
            model: PreTrainedModel = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    except Exception as error:  # as in `load_model`
        raise UserError(
            f"{spec} ({config.model_type}) is not a causal language model that transformers can load: "
            f"{first_line(error)}"
        ) from error
    folder = local_folder(spec)
    folder = local_folder(base or adapter_base(folder)) if is_adapter(folder) else folder
    if quantisation(folder):
        return model
    return _without_storage(AutoModelForCausalLM, folder, spec, trust_remote_code=trust_remote_code)


def check_weights(spec: str, *, trust_remote_code: bool = False) -> None:
    """Check that the files of a model, of whatever architecture, hold all its weights, without reading them.

    Raises:
        UserError: As `model_config`; or weights are missing, or have other shapes.
    """
    import transformers

    hide_loading_bars()
    folder = local_folder(spec)
    config = model_config(spec, trust_remote_code=trust_remote_code)
    name = (config.architectures or [""])[0]
    if not is_adapter(folder) and not quantisation(folder) and name in dir(transformers):
        _without_storage(getattr(transformers, name), folder, spec, trust_remote_code=trust_remote_code)


def _without_storage(
    kind: type[AutoModelForCausalLM] | type[PreTrainedModel], folder: Path, spec: str, *, trust_remote_code: bool
) -> PreTrainedModel:
    """Return a model of a folder whose weights were looked up in its files and not read."""
    try:
        loaded: Any = kind.from_pretrained(
            folder,
            device_map="meta",
            trust_remote_code=trust_remote_code,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    except Exception as error:  # as in `load_model`
        raise UserError(f"The model {spec} cannot be loaded: {first_line(error)}") from error
    model, report = loaded
    _check_complete(report, spec)
    return model  # type: ignore[no-any-return]


def _check_complete(report: Mapping[str, Any], spec: str) -> None:
    """Refuse a model of which weights are missing or do not fit: transformers would draw them at random.

    Args:
        report: What transformers says of the weights that it looked for.
        spec: The user's name of the model.
    """
    if report["mismatched_keys"]:
        name, found, expected = min(report["mismatched_keys"])
        raise UserError(
            f"The weights of {spec} do not fit its config.json: {name} is {tuple(found)}, expected {tuple(expected)}."
        )
    if report["missing_keys"]:
        raise UserError(
            f"The weights of {spec} are not complete: {len(report['missing_keys'])} are missing, such as "
            f"{min(report['missing_keys'])}; fetch or save the model again."
        )
