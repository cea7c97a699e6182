"""Folders of models: finding them on the disk, in the cache or on the hub, and reading their files without torch."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from vecmeta.errors import EncoderUnavailable, InvalidConfig

_WANTED = ["*.json", "*.txt", "*.model", "*.safetensors"]  # what defines a model; not its exports to other runtimes
_SUFFIXES = {".json", ".txt", ".model", ".safetensors", ".bin"}
_FOREIGN = {"onnx", "openvino"}
FACTS = "vecmeta.json"  # what a fine-tuning writes beside the weights
FORMAT = "vecmeta-encoder-1"
_PASSIVE = {
    FACTS,
    "data_config.json",
    "trainer_state.json",
    "model_args.json",
    "eval_results.json",
    "license.txt",
    "requirements.txt",
}
_SAME_WIDTH = {"Normalize", "Dropout", "LayerNorm", "WordWeights"}  # modules that keep the length of a vector


def offline() -> bool:
    """Whether the user forbids downloads: HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE is set."""
    truthy = {"1", "ON", "YES", "TRUE"}
    return any(os.environ.get(name, "").upper() in truthy for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"))


def find_model(model: str) -> tuple[str, Path]:
    """The readable name and the folder of "ORG/MODEL" or of a local folder.

    A model of the hub is taken from the local cache if it is there whole, and downloaded otherwise: what is upstream may change,
    what a collection was filled with must not.

    Raises:
        EncoderUnavailable: not here, and not to be had; says how to get it.
        InvalidConfig: neither a folder nor the name of a model.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        facts = facts_of(folder)
        if facts is not None and facts["kind"] != "text":
            raise EncoderUnavailable(f"{folder} holds an encoder of pictures: open it by its path, without 'hf:'")
        if not _is_whole(folder):
            raise EncoderUnavailable(
                f"{folder} holds no model: config.json or modules.json, and weights (*.safetensors), belong there"
            )
        return facts["name"].partition("@")[0] if facts else folder.resolve().name, folder.resolve()
    if model.startswith(("/", "./", "../", "~")):
        raise EncoderUnavailable(f"there is no folder {folder}; download a model there, or give 'hf:ORG/MODEL'")
    if not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", model):
        raise InvalidConfig(f"'hf:{model}' names no model: give 'hf:ORG/MODEL' or 'hf:/path/to/folder'")
    return model, _from_hub(model)


def facts_of(folder: Path) -> dict[str, Any] | None:
    """What `vecmeta.finetune` wrote of the encoder in a folder; None when it holds another one or none.

    Raises:
        EncoderUnavailable: it cannot be read, or was written by a newer vecmeta.
    """
    path = folder / FACTS
    if not path.is_file():
        return None
    try:
        facts: dict[str, Any] = _json(path)
        form, _, _ = facts["format"], facts["kind"], facts["name"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EncoderUnavailable(f"{path} is damaged ({error}): copy the folder again, or fine-tune anew") from error
    if form != FORMAT:
        raise EncoderUnavailable(f"{path} is of the format {form!r}; this vecmeta reads {FORMAT!r}: upgrade vecmeta")
    return facts


def _from_hub(model: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(model, local_files_only=True))
        if _is_whole(folder):
            return folder
        cause = "its copy in the local cache is incomplete"
    except LocalEntryNotFoundError:
        cause = "it is not in the local cache"
    if offline():
        cause += ", and HF_HUB_OFFLINE forbids a download"
    else:
        try:
            for wanted in (_WANTED, [*_WANTED, "*.bin"]):  # old models have no safetensors
                folder = Path(snapshot_download(model, allow_patterns=wanted, ignore_patterns=[f"{name}/*" for name in _FOREIGN]))
                if _is_whole(folder):
                    return folder
            cause = "the hub has no sentence-embedding model under that name"
        except Exception as error:  # no network, no such model, no permission: the hub has a dozen of its own
            cause += f", and the download failed ({type(error).__name__}: {str(error).strip().partition(chr(10))[0]})"
    raise EncoderUnavailable(
        f"model {model!r} cannot be had: {cause}. With a network: `hf download {model}` (and `hf auth login` for a gated model). "
        f"Without: copy its folder here and give 'hf:/path/to/folder'"
    )


def _is_whole(folder: Path) -> bool:
    described = (folder / "modules.json").is_file() or (folder / "config.json").is_file()
    return described and any(file.suffix in {".safetensors", ".bin"} for file in model_files(folder))


def model_files(folder: Path) -> list[Path]:
    """The files that decide what vectors a model makes: weights, configuration, tokenizer, pooling, prompts."""
    files = [
        file
        for file in folder.rglob("*")
        if file.suffix in _SUFFIXES and file.name.lower() not in _PASSIVE and _counts(file.relative_to(folder)) and file.is_file()
    ]
    modern = {file.parent for file in files if file.suffix == ".safetensors"}  # there an old .bin beside it is never read
    return [file for file in files if file.suffix != ".bin" or file.parent not in modern]


def _counts(relative: Path) -> bool:
    folders = relative.parts[:-1]
    return not any(name in _FOREIGN or name.startswith((".", "checkpoint-")) for name in folders)


def dimension(folder: Path) -> int | None:
    """The length of a model's vectors, read from its configuration files; None if they do not say."""
    try:
        modules = _json(folder / "modules.json") or [{"type": "Transformer", "path": ""}]
        width: int | None = None
        for module in sorted(modules, key=lambda module: module.get("idx", 0)):
            kind = module["type"].rpartition(".")[2]
            if kind not in _SAME_WIDTH:
                width = _width(kind, _json(folder / module["path"] / "config.json"))
        return width
    except (KeyError, TypeError, AttributeError, ValueError):  # a layout of the future or a foreign one
        return None


def _width(kind: str, config: dict[str, Any]) -> int | None:
    """What one module of modules.json makes of a vector's length."""
    if kind == "Transformer":
        config = config.get("text_config", config)
        return next((int(config[key]) for key in ("hidden_size", "d_model", "dim", "n_embd") if key in config), None)
    if kind == "Pooling":
        width = config["embedding_dimension"] if "embedding_dimension" in config else config["word_embedding_dimension"]
        return int(width) * _poolings(config)
    return int(config["out_features"]) if kind == "Dense" else None


def _poolings(config: dict[str, Any]) -> int:
    """How many poolings are laid end to end: a name or a list in new models, a flag for each in old ones."""
    mode = config.get("pooling_mode")
    if mode is not None:
        return 1 if isinstance(mode, str) else len(mode)
    return max(1, sum(value is True for key, value in config.items() if key.startswith("pooling_mode_")))


def _json(path: Path) -> Any:
    """The JSON in a file, {} if there is none."""
    return json.loads(path.read_text("utf-8")) if path.is_file() else {}
