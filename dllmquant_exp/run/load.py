"""Find a model by its option, hub id or folder."""

import difflib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dllmquant_exp.config.folder import content_of, group_with, split_folders
from dllmquant_exp.config.words import to_words
from dllmquant_exp.errors import ConfigError
from dllmquant_exp.models.storage import load_config
from dllmquant_exp.quantization.saved_files import CONFIG_FILE
from dllmquant_exp.quantization.saving import HEADER, QUANT_METHOD
from dllmquant_exp.run.model import FULL_PRECISION, Folder, Model
from dllmquant_exp.store.paths import expanded


def load(
    model: Folder,
    *,
    like: str | None = None,
    same_as: str | None = None,
    config_dir: Folder | None = None,
    **settings: Any,
) -> Model:
    """A model in full precision, or one that was saved.

    Nothing is read of it but its config.json; `prepare`, `states`, `save` and `evaluate` read the
    rest, and ask a hub where there is no folder.

    Args:
        model: an option of the group `model` (micro_llada, llada_8b, ...), a hub id, or a folder
            with a checkpoint or with a model that was saved.
        like: the option whose published settings a checkpoint is evaluated with; not needed where
            an option has this very hub id.
        same_as: the hub id that a folder's weights are a copy of; tables then compare them with the
            paper.
        config_dir: a folder with options of your own.
        settings: of the command line, as `seed=1`, `device="cuda"`, `dtype="bfloat16"`,
            `threads=4`, `runs_dir="runs"`, `sweep="default"`, `data_root="FOLDER"`.

    Raises:
        ConfigError: no such option, or a checkpoint without `like`.
        CheckpointError: a folder whose config.json cannot be used.

    >>> from dllmquant_exp import load
    >>> load("micro_llada", seed=1)
    Model(words=('model=micro_llada', 'seed=1'), recipe=('method=fp',), calibration=())
    """
    given = [] if config_dir is None else ["--config-dir", str(config_dir)]
    folders, _ = split_folders(given)
    options = {name: content_of(folders, "model", name) for name in folders.options("model")}
    place = expanded(model)
    recipe: tuple[str, ...] = FULL_PRECISION
    if str(model) in options and like is None:
        chosen, embedded = {"model": str(model)}, options[str(model)].get("embedded", False)
    elif (made := _saved(place)) is not None and like is None:
        chosen, recipe = {"model": "saved", "model.checkpoint": str(model)}, ()
        embedded = made.get("embedded", False)
    else:
        like = like or _option_of(str(model), place, options)
        group_with(folders, like, "model")
        chosen = {"model": like, "model.checkpoint": str(model)}
        embedded = options[like].get("embedded", False)
    suite = {} if embedded else {"task": "nine"}
    stated = {} if same_as is None else {"model.same_as": same_as}
    words = to_words({**chosen, **stated, **suite, **settings})
    return Model((*folders.words, *words), recipe)


def _saved(place: Path) -> Mapping[str, Any] | None:
    """The model that a saved one was made from, as its folder says; None elsewhere."""
    try:
        header = json.loads((place / CONFIG_FILE).read_text("utf-8"))[HEADER]
        is_ours = header["quant_method"] == QUANT_METHOD
        return dict(header["made"]["model"]) if is_ours else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _option_of(model: str, place: Path, options: Mapping[str, Any]) -> str:
    """The option with this hub id; ConfigError where there is none."""
    found = [name for name, option in options.items() if option["checkpoint"] == model]
    if found:
        return found[0]
    fitting = [name for name, option in options.items() if not option.get("embedded", True)]
    missing = ""
    if place.is_dir():
        architecture = load_config(place).architecture
        fitting = [name for name in fitting if options[name]["architecture"] == architecture]
    elif "/" in model:
        missing = "there is no such folder; of a hub id, "
    else:
        near = difflib.get_close_matches(model, options, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise ConfigError(
            f"{model!r} is no model{hint}: there are {', '.join(options)}, hub ids "
            "(organisation/name) and folders"
        )
    raise ConfigError(
        f"{model}: {missing}say whose published settings it is evaluated with, as "
        f"like={fitting[0]!r} (there are: {', '.join(fitting)})"
    )
