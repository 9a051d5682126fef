"""Tokenizers of the two official layouts, read without running a repository's code.

LLaDA ships a plain `tokenizer.json`. Dream ships Qwen2's `vocab.json` and `merges.txt` with added
tokens, behind a tokenizer class that is remote code; transformers' own Qwen2 tokenizer reads the
same files. Either layout may come with `tokenizer_config.json` (special tokens, chat template).
"""

import json
from collections.abc import ItemsView
from pathlib import Path
from typing import Any, cast

from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast, Qwen2Tokenizer

from dllmquant_exp.models.formats import CheckpointError, joined
from dllmquant_exp.models.tensor_files import read_json
from dllmquant_exp.models.transformer import TransformerConfig


def read_tokenizer(folder: Path, config: TransformerConfig) -> PreTrainedTokenizerBase:
    """The tokenizer in `folder`, checked against the model's vocabulary.

    Raises:
        CheckpointError: no tokenizer files, unreadable ones, an added token that does not sit at
            the id that `tokenizer_config.json` gives it, or ids outside the model's vocabulary.
    """
    stated = _added_tokens(folder, config.vocab_size)
    try:
        if (folder / "tokenizer.json").is_file():
            loaded = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
        elif (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
            # The backend numbers added tokens consecutively whatever id they ask for, so a hole
            # (say, no 151665 before the mask at 151666) would silently move every later token.
            vocabulary = folder / "vocab.json"
            filled = _without_holes(stated, len(_entries(read_json(vocabulary), vocabulary)))
            loaded = Qwen2Tokenizer.from_pretrained(
                folder, local_files_only=True, added_tokens_decoder=filled
            )
        else:
            raise CheckpointError(
                f"{folder}: no tokenizer files; expected tokenizer.json, or vocab.json and "
                "merges.txt"
            )
    except (CheckpointError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # the backend raises Exception and panics for malformed files
        raise CheckpointError(f"{folder}: the tokenizer cannot be read ({error})") from error
    tokenizer = cast(PreTrainedTokenizerBase, loaded)
    _check_ids(tokenizer, config, stated, folder)
    return tokenizer


def write_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write `tokenizer` into `folder`: Qwen2's as vocab.json and merges.txt, others as
    tokenizer.json, each with its tokenizer_config.json."""
    tokenizer.save_pretrained(folder)
    if not isinstance(tokenizer, Qwen2Tokenizer):
        return
    tokenizer.backend_tokenizer.model.save(str(folder))
    (folder / "tokenizer.json").unlink()
    settings = read_json(folder / "tokenizer_config.json")
    settings["added_tokens_decoder"] = {
        str(index): {
            "content": token.content,
            "lstrip": token.lstrip,
            "normalized": token.normalized,
            "rstrip": token.rstrip,
            "single_word": token.single_word,
            "special": token.special,
        }
        for index, token in sorted(tokenizer.added_tokens_decoder.items())
    }
    write_json(folder / "tokenizer_config.json", settings)


def write_json(file: Path, content: Any) -> None:
    """Write a JSON file of a checkpoint, as the hub's files look: indented, in UTF-8."""
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _added_tokens(folder: Path, vocabulary: int) -> dict[int, dict[str, Any]]:
    """id -> added token, as stated by tokenizer_config.json and (older files) added_tokens.json.

    Raises:
        CheckpointError: anything else there, or an id that the model's vocabulary does not have.
    """
    stated: dict[int, dict[str, Any]] = {}
    older, settings = folder / "added_tokens.json", folder / "tokenizer_config.json"
    if older.is_file():
        for content, number in _entries(read_json(older), older):
            stated[_id(number, vocabulary, older)] = _added_token(content)
    if settings.is_file():
        decoder = dict(_entries(read_json(settings), settings)).get("added_tokens_decoder")
        for number, token in _entries(decoder or {}, settings):
            token = (
                _added_token(token) if isinstance(token, str) else dict(_entries(token, settings))
            )
            if not isinstance(token.get("content"), str):
                raise CheckpointError(f"{settings}: added token {number} has no text as content")
            stated[_id(number, vocabulary, settings)] = token
    return dict(sorted(stated.items()))


def _entries(value: Any, file: Path) -> ItemsView[str, Any]:
    if not isinstance(value, dict):
        raise CheckpointError(f"{file}: {value!r:.100} stands where a JSON object belongs")
    return value.items()


def _id(number: Any, vocabulary: int, file: Path) -> int:
    is_number = str(number).isdecimal() and len(str(number)) < 20
    if not is_number or int(number) >= vocabulary:
        raise CheckpointError(
            f"{file}: token id {number!r:.100} is outside the model's {vocabulary} embeddings"
        )
    return int(number)


def _added_token(content: str) -> dict[str, Any]:
    return {
        "content": content,
        "lstrip": False,
        "normalized": False,
        "rstrip": False,
        "single_word": False,
        "special": True,
    }


def _without_holes(stated: dict[int, dict[str, Any]], vocabulary: int) -> dict[int, dict[str, Any]]:
    if not stated:
        return {}
    every = range(vocabulary, max(stated) + 1)
    holes = {index: _added_token(f"<|unused_{index}|>") for index in every if index not in stated}
    return dict(sorted((stated | holes).items()))


def _check_ids(
    tokenizer: PreTrainedTokenizerBase,
    config: TransformerConfig,
    stated: dict[int, dict[str, Any]],
    folder: Path,
) -> None:
    vocabulary = tokenizer.get_vocab()
    problems = [
        f"added token {token['content']!r} got id {vocabulary.get(token['content'])} instead of "
        f"{index}"
        for index, token in stated.items()
        if vocabulary.get(token["content"]) != index
    ]
    largest = max(vocabulary.values(), default=-1)
    if largest >= config.vocab_size:
        problems.append(f"token id {largest} is outside the model's {config.vocab_size} embeddings")
    known = set(vocabulary.values())
    for name in ("mask_token_id", "eos_token_id", "pad_token_id"):
        if getattr(config, name) not in known:
            problems.append(f"the model's {name} = {getattr(config, name)} is not in the tokenizer")
    if problems:
        raise CheckpointError(joined(f"{folder}: tokenizer and model do not fit", problems))
