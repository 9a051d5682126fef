"""The recipe of the embedded models: `python -m dllmquant_exp train model=micro_llada`.

LLaDA's own objective (Nie et al. 2025, Eq. 5 and 6 in its low-variance form): of the L tokens of a
response, exactly l ~ U{1..L} are masked, the prompt never, and the loss is (L / l) * sum of the
cross-entropies at masked positions, divided by L as in LLaDA's fine-tuning guide. It equals
the mean cross-entropy over the masked tokens, whatever their number; any other weighting of l would
leave the Monte-Carlo likelihood without meaning.

Batch `step` is a pure function of (seed, step), and checkpoints hold the optimizer, so a killed run
continues where it was and ends with the same weights. Responses of the generation tasks are filled
with end-of-text up to `world.GEN_LENGTH`, the length that evaluation decodes.
"""

import csv
import json
import logging
import math
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from rich.progress import Progress, TextColumn
from safetensors import safe_open
from safetensors.torch import load_file, save
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from dllmquant_exp.errors import Refusal
from dllmquant_exp.models.checkpoints import load_model, save_checkpoint
from dllmquant_exp.models.embedded import tokenizer as micro_tokenizer
from dllmquant_exp.models.embedded.batches import BUCKETS, HARDER_BUCKETS, make_batch, row_losses
from dllmquant_exp.models.embedded.grown_outliers import (
    Growth,
    norm_inputs,
    plant,
    pull,
    sharpen,
)
from dllmquant_exp.models.embedded.items import Dice
from dllmquant_exp.models.transformer import Architecture, Transformer, TransformerConfig
from dllmquant_exp.store.whole_files import whole_file

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the weights (with the versions of torch and the processor)."""

    name: str = "micro_llada"
    architecture: Architecture = "llada"
    d_model: int = 192
    n_layers: int = 6
    n_heads: int = 4
    n_kv_heads: int = 4
    start: str | None = None  # checkpoint to train further; its shape must be this one
    harder: bool = False  # batches of HARDER_BUCKETS
    d_ffn: int = 512
    steps: int = 2600
    seed: int = 0
    learning_rate: float = 2e-3
    warmup: int = 200
    decay: float = 0.25  # the last part of the steps, over which the rate falls to zero
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.98)
    clip: float = 1.0
    growth: Growth | None = None  # outliers that are planted at the start and then grow


def with_outliers(recipe: Recipe) -> Recipe:
    """A finished model's further training, in which its outliers grow.

    Outliers have their size after 50 steps. Scores need longer to recover.
    """
    return replace(
        recipe,
        name=f"{recipe.name}_real",
        start=f"embedded:{recipe.name}",
        steps=400,
        learning_rate=1e-3,
        warmup=10,
        decay=0.9,
        growth=Growth(),
    )


RECIPES = {
    "micro_llada": Recipe(),
    # Dream's shape: grouped-query attention, biases on q, k and v, predictions shifted by one.
    "micro_dream": Recipe(name="micro_dream", architecture="dream", n_kv_heads=2),
    # As LLaDA-1.5 is LLaDA trained further; on harder tasks here, without preferences.
    "micro_llada_1_5": Recipe(
        name="micro_llada_1_5",
        start="embedded:micro_llada",
        harder=True,
        steps=800,
        learning_rate=1e-3,
        warmup=50,
        decay=0.9,
    ),
}
RECIPES |= {recipe.name: recipe for recipe in map(with_outliers, RECIPES.values())}
CHECKPOINT_EVERY = 25
LOG_EVERY = 50
PULL = "outliers"  # beside the tasks' losses: how far outliers are from their aim


def transformer_config(recipe: Recipe, vocabulary: int) -> TransformerConfig:
    return TransformerConfig(
        architecture=recipe.architecture,
        d_model=recipe.d_model,
        n_layers=recipe.n_layers,
        n_heads=recipe.n_heads,
        n_kv_heads=recipe.n_kv_heads,
        d_ffn=recipe.d_ffn,
        vocab_size=vocabulary,
        max_length=2048,
        rope_theta=10_000.0,
        norm_eps=1e-5 if recipe.architecture == "llada" else 1e-6,
        mask_token_id=micro_tokenizer.MASK_ID,
        eos_token_id=micro_tokenizer.EOS_ID,
        pad_token_id=micro_tokenizer.EOS_ID,
    )


def initialize(model: Transformer, seed: int) -> None:
    """Normal weights of standard deviation 1/sqrt(fan in); blocks start as the identity."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim < 2:
                continue
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                parameter.zero_()
            else:
                spread = 0.05 if name in ("embedding.weight", "head.weight") else None
                spread = spread or parameter.shape[1] ** -0.5
                parameter.normal_(0.0, spread, generator=generator)


def learning_rate(recipe: Recipe, step: int) -> float:
    """Linear warm-up, a plateau, and a linear fall to zero over the last `decay` of the steps."""
    rise = (step + 1) / recipe.warmup
    fall = (recipe.steps - step) / (recipe.decay * recipe.steps)
    return recipe.learning_rate * min(1.0, rise, fall)


def make_optimizers(model: Transformer, recipe: Recipe) -> dict[str, torch.optim.Optimizer]:
    """Muon for the matrices of the blocks, AdamW for embedding, head and norms.

    Both step by about the same root mean square, so they share one learning rate. In a probe of
    the two generation tasks Muon was at a loss of 0.09 and 0.57 where AdamW was at 0.45 and 1.04.
    """
    matrices = [p for p in model.blocks.parameters() if p.ndim > 1]
    ends = [model.embedding.weight, model.head.weight]
    norms = [p for p in model.parameters() if p.ndim < 2]
    groups = [
        {"params": ends, "weight_decay": recipe.weight_decay},
        {"params": norms, "weight_decay": 0.0},
    ]
    return {
        "muon": torch.optim.Muon(
            matrices,
            lr=recipe.learning_rate,
            weight_decay=recipe.weight_decay,
            adjust_lr_fn="match_rms_adamw",
        ),
        "adamw": torch.optim.AdamW(groups, betas=recipe.betas, fused=True),
    }


def train_step(
    model: Transformer,
    optimizers: dict[str, torch.optim.Optimizer],
    recipe: Recipe,
    step: int,
    tokenizer: PreTrainedTokenizerBase,
) -> tuple[dict[str, list[float]], int]:
    """One optimizer step; returns the row losses of each task and the number of tokens."""
    dice = Dice(f"{recipe.name} {recipe.seed} {step}", "train")
    closed = recipe.architecture == "dream"
    buckets = HARDER_BUCKETS if recipe.harder else BUCKETS
    batches = [make_batch(counts, dice, tokenizer, closed=closed) for counts in buckets]
    rows = sum(len(batch.tasks) for batch in batches)
    for optimizer in optimizers.values():
        optimizer.zero_grad(set_to_none=True)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(recipe, step)
    losses: dict[str, list[float]] = {}
    for batch in batches:
        with norm_inputs(model) as seen:
            loss = row_losses(model, batch)
        total = loss.sum()
        if recipe.growth is not None:
            distance = pull(model, seen, batch.attention_mask, recipe.growth)
            total = total + recipe.growth.pull * len(batch.tasks) * distance
            losses.setdefault(PULL, []).append(float(distance.detach()))
        (total / rows).backward()
        for task, value in zip(batch.tasks, loss.tolist(), strict=True):
            losses.setdefault(task, []).append(value)
    torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
    for optimizer in optimizers.values():
        optimizer.step()
    return losses, sum(int(batch.attention_mask.sum()) for batch in batches)


# ---------------------------------------------------------------- checkpoints of a running training


def save_state(
    folder: Path, model: Transformer, optimizers: dict[str, torch.optim.Optimizer], log: dict
) -> None:
    """Weights and optimizer moments in one safetensors file, replaced atomically."""
    tensors = {f"model.{k}": v for k, v in model.state_dict().items()}
    for name, optimizer in optimizers.items():
        for i, state in optimizer.state_dict()["state"].items():
            tensors |= {f"{name}.{i}.{k}": v for k, v in state.items()}
    with whole_file(folder / "state.safetensors") as partial:
        # Not by save_file, which would leave a file with a random name if killed.
        partial.write_bytes(save(tensors, metadata={"log": json.dumps(log)}))


def load_state(
    folder: Path, model: Transformer, optimizers: dict[str, torch.optim.Optimizer]
) -> dict | None:
    """Restore a running training in place; None where there is none."""
    path = folder / "state.safetensors"
    if not path.exists():
        return None
    tensors = load_file(path)
    with safe_open(path, "pt") as file:
        log = json.loads(file.metadata()["log"])
    model.load_state_dict({k[6:]: v for k, v in tensors.items() if k.startswith("model.")})
    for name, optimizer in optimizers.items():
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            if key.startswith(f"{name}."):
                _, index, moment = key.split(".")
                state.setdefault(int(index), {})[moment] = value
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": state, "param_groups": groups})
    return log


# ---------------------------------------------------------------- the whole run


def train(recipe: Recipe, folder: Path) -> Path:
    """Train (or continue) a model; returns the folder of the finished checkpoint."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = micro_tokenizer.train_tokenizer()
    rows = 8 * math.ceil(len(tokenizer) / 8)
    model = Transformer(transformer_config(recipe, rows))
    initialize(model, recipe.seed)
    if recipe.start is not None:
        first = load_model(recipe.start, dtype=torch.float32, device=torch.device("cpu"))
        if first.config != model.config:
            raise ValueError(f"{recipe.start} is of another shape than {recipe.name}")
        model.load_state_dict(first.state_dict())
    if recipe.growth is not None:
        plant(model, tokenizer, recipe.growth)
    optimizers = make_optimizers(model, recipe)
    log = load_state(folder, model, optimizers)
    if log is not None and log["recipe"] != json.loads(json.dumps(asdict(recipe))):
        raise ValueError(
            f"{folder} holds a training of another recipe; give another folder=... or remove it"
        )
    log = log or {"recipe": asdict(recipe), "step": 0, "tokens": 0, "seconds": 0.0, "curve": []}
    recent: dict[str, list[float]] = {}
    columns = (*Progress.get_default_columns(), TextColumn("{task.fields[status]}"))
    with Progress(*columns) as progress:
        bar = progress.add_task(
            recipe.name, total=recipe.steps, completed=log["step"], status="starting"
        )
        began = time.monotonic()
        for step in range(log["step"], recipe.steps):
            losses, tokens = train_step(model, optimizers, recipe, step, tokenizer)
            for task, values in losses.items():
                recent.setdefault(task, []).extend(values)
            log["tokens"] += tokens
            log["step"] = step + 1
            if (step + 1) % LOG_EVERY == 0:
                means = {task: sum(v) / len(v) for task, v in recent.items()}
                log["curve"].append({"step": step + 1, **means})
                recent = {}
                tasks = [loss for name, loss in means.items() if name != PULL]
                mean = sum(tasks) / len(tasks)
                progress.update(bar, status=f"loss {mean:.3f}")
                logger.info(
                    "step %d loss %.3f: %s",
                    step + 1,
                    mean,
                    " ".join(f"{task.removeprefix('micro_')} {m:.3f}" for task, m in means.items()),
                )
            if (step + 1) % CHECKPOINT_EVERY == 0 or step + 1 == recipe.steps:
                now = time.monotonic()
                log["seconds"] += now - began
                began = now
                save_state(folder, model, optimizers, log)
                write_curve(folder, log["curve"])
            progress.advance(bar)
    if recipe.growth is not None:
        sharpen(model, tokenizer, recipe.growth)
    final = folder / "final"
    save_checkpoint(model, final, dtype=torch.float16, tokenizer=tokenizer, overwrite=True)
    summary = {k: v for k, v in log.items() if k != "curve"} | {"losses": log["curve"][-1:]}
    (folder / "training.json").write_text(json.dumps(summary, indent=2) + "\n")
    return final


def write_curve(folder: Path, curve: list[dict]) -> None:
    """The loss of each task over the steps, as a table and as a picture."""
    if not curve:
        return
    columns = list(curve[0])
    with (folder / "loss.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=columns)
        writer.writeheader()
        writer.writerows(curve)
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for task in columns[1:]:
        axes.plot([c["step"] for c in curve], [c[task] for c in curve], label=task, lw=1)
    axes.set(xlabel="optimizer step", ylabel="cross-entropy of masked tokens (nats)", yscale="log")
    axes.legend(fontsize=7, ncols=2)
    figure.savefig(folder / "loss.png", dpi=150)
    plt.close(figure)


def train_model(
    name: str,
    folder: str | None,
    threads: int,
    *,
    steps: int | None = None,
    seed: int | None = None,
) -> int:
    """Train by a recipe, with other steps or another seed where these are given.

    Raises:
        Refusal: no such recipe.
    """
    if name not in RECIPES:
        raise Refusal(f"model={name} has no recipe; there are: {', '.join(RECIPES)}")
    usual = RECIPES[name]
    recipe = replace(
        usual,
        steps=usual.steps if steps is None else steps,
        seed=usual.seed if seed is None else seed,
    )
    logging.basicConfig(format="%(asctime)s %(message)s")
    logger.setLevel(logging.INFO)
    torch.set_num_threads(threads)
    final = train(recipe, Path(folder or f"runs/train/{name}"))
    print(f"finished: {final}\nuse it with model.checkpoint={final}")
    return 0
