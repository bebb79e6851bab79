"""Pretrained weights: a local directory or a pinned hub id; safetensors only, never remote code."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def check_source(weights: str, revision: str) -> None:
    """ValueError unless `weights` is a checkpoint's folder, or a hub id with a full revision that can be had."""
    if not weights:
        raise ValueError("no weights are named; add model.weights=FOLDER, or owner/name with model.revision")
    if Path(weights).is_dir():
        if not list(Path(weights).glob("*.safetensors")):
            raise ValueError(f"{weights!r} holds no *.safetensors file; save the model with safe_serialization")
        return
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", weights):
        raise ValueError(f"weights {weights!r} is neither `random`, a folder, nor a hub id (owner/name)")
    if not re.fullmatch(r"[0-9a-f]{40}", revision):
        raise ValueError("a hub id needs model.revision as a full commit hash (40 hexadecimal digits)")
    _check_hub(weights, revision)


def checkpoint_configuration(weights: str, revision: str) -> Any:
    """The checkpoint's own configuration."""
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(weights, revision=revision or None, trust_remote_code=False)


def checkpoint_tokenizer(weights: str, revision: str) -> Any:
    """The checkpoint's tokenizer, or None for a folder that has none: such a model reads bytes."""
    from transformers import AutoTokenizer

    if Path(weights).is_dir() and not list(Path(weights).glob("tokenizer*")):
        return None
    return AutoTokenizer.from_pretrained(weights, revision=revision or None, trust_remote_code=False)


def check_agreement(architecture: Mapping[str, Any], config: Any) -> None:
    """ValueError when the checkpoint is another architecture than the option's file says."""
    for key, value in architecture.items():
        own = getattr(config, key, value)
        if not isinstance(value, (dict, list)) and own != value:
            raise ValueError(f"the checkpoint has {key} {own}, this model has {value}; use model=pretrained instead")


def directory_hash(folder: Path) -> str:
    """SHA-256 over names and contents of a checkpoint's files."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")) + sorted(folder.glob("*.json")):
        digest.update(path.name.encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _check_hub(weights: str, revision: str) -> None:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        hf_hub_download(weights, "config.json", revision=revision)
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise ValueError(
            f"{weights} is not in the local cache and the hub does not answer ({type(error).__name__}); "
            "download it first, or use weights=random"
        ) from error
