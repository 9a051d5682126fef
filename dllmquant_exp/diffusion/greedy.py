"""Would greedy decoding give exactly this target? (lm-eval's `is_greedy`)

As in LLaDA's published harness: as many masks as the target has tokens, and the surest prediction
is committed, one per forward pass.
"""

from collections.abc import Sequence

from dllmquant_exp.diffusion.batching import Predictor
from dllmquant_exp.diffusion.decoding import decode
from dllmquant_exp.diffusion.settings import DecodingSettings

Pair = tuple[tuple[int, ...], tuple[int, ...]]


def greedy_matches(predictor: Predictor, pairs: Sequence[Pair], *, batch_size: int) -> list[bool]:
    """For each (context, target) whether the decoded tokens are the target.

    Pairs with the same context and target length share one decode, which stops when the tokens
    before its first mask fit none of them.
    """
    by_length: dict[int, dict[tuple[int, ...], set[tuple[int, ...]]]] = {}
    for context, target in pairs:
        by_length.setdefault(len(target), {}).setdefault(context, set()).add(target)
    decoded: dict[tuple[int, tuple[int, ...]], tuple[int, ...]] = {}
    for length, targets_of in by_length.items():
        contexts = list(targets_of)
        targets = list(targets_of.values())

        def ruled_out(
            i: int, prefix: list[int], targets: list[set[tuple[int, ...]]] = targets
        ) -> bool:
            return all(target[: len(prefix)] != tuple(prefix) for target in targets[i])

        settings = DecodingSettings(length, length, length, "low_confidence")
        seeds = [0] * len(contexts)  # nothing is random at temperature 0
        tokens = decode(predictor, contexts, settings, seeds, batch_size, ruled_out)
        decoded.update(
            ((length, context), tuple(row)) for context, row in zip(contexts, tokens, strict=True)
        )
    return [decoded[len(target), context] == target for context, target in pairs]
