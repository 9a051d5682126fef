"""Settings of a decode and of a likelihood estimate.

They check themselves when they are constructed, so that a run with a block length that does not
divide is refused before any model is loaded. Whether they fit a model is checked by
`validate(architecture)`, which `generate` and `log_likelihoods` call.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from dllmquant_exp.errors import Refusal
from dllmquant_exp.models.transformer import Architecture
from dllmquant_exp.store.schema import Above, AtLeast, AtMost, Settings, plain

Count = Annotated[int, AtLeast(1)]
MaskCounts = Literal["uniform", "halves_to_even"]
NotNegative = Annotated[float, AtLeast(0)]
REMASKING: dict[Architecture, tuple[str, ...]] = {
    "llada": ("low_confidence", "random"),
    "dream": ("origin", "maskgit_plus", "topk_margin", "entropy"),
}
ESTIMATORS: dict[Architecture, tuple[str, ...]] = {
    "llada": ("llada",),
    "dream": ("dream", "dream_whole"),
}


class DiffusionError(Refusal):
    """Settings, prompts or requests that cannot be decoded or scored as asked."""


@dataclass(frozen=True)
class DecodingSettings(Settings):
    """Decoding of a response of `gen_length` tokens; see `decoding.generate`.

    gen_length: tokens of the response, all of them masks at first
    steps: forward passes for the whole response (fewer where nothing is left to decide)
    block_length: LLaDA commits block after block, left to right; Dream has one block
    remasking: which positions are committed first. LLaDA: low_confidence, random.
        Dream: origin, maskgit_plus, topk_margin, entropy
    temperature: 0 takes the most likely token, more samples
    guidance: classifier-free guidance scale of LLaDA, 0 for none
    top_p: Dream's nucleus, 1 for the whole vocabulary; applies at temperature 0 as well
    top_k: Dream's likeliest tokens that are kept, after the nucleus; None for all
    suppress_eos: end-of-text is never predicted (LLaDA's logits_eos_inf: end-of-turn still is)
    confidence_eos_eot_inf: LLaDA's, under its own name. Tokens are chosen first; then end-of-text
        and end-of-turn leave the softmax that the confidences come from. Where they were chosen,
        their confidence is 0 and they are committed last; the others share their probability.
        Above temperature 0 only end-of-turn leaves it, as in the published code. `random` looks at
        no confidence, and nothing changes there
    end_of_turn: id of that token, which the tokenizer knows; needed by confidence_eos_eot_inf
    """

    gen_length: Count
    steps: Count
    block_length: Count
    remasking: str
    temperature: NotNegative = 0.0
    guidance: NotNegative = 0.0
    top_p: Annotated[float, Above(0), AtMost(1)] = 1.0
    suppress_eos: bool = False
    top_k: Count | None = None
    confidence_eos_eot_inf: bool = False
    end_of_turn: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_decoding(self)

    @property
    def architecture(self) -> Architecture:
        """The architecture whose published decoding this is."""
        return _owner("remasking", self.remasking, REMASKING)

    def describe(self) -> dict[str, Any]:
        """Plain values; settings that older recordings do not know only where they are set."""
        return plain(self, later=("top_k", "confidence_eos_eot_inf", "end_of_turn"))

    def validate(self, architecture: Architecture) -> None:
        """Raise DiffusionError for a decoding of the other architecture."""
        _check_owner("remasking", self.remasking, REMASKING, architecture)


@dataclass(frozen=True)
class LikelihoodSettings(Settings):
    """Estimation of log p(target | context); see `likelihood.log_likelihoods`.

    mc_num: Monte-Carlo samples per request
    mc_batch_size: the published estimators spread the mask ratios of this many samples evenly;
        divides mc_num. It has nothing to do with how many rows share a forward pass
    guidance: classifier-free guidance scale of LLaDA, 0 for none
    estimator: llada | dream | dream_whole (as dream, but the only token of a one-token target is
        always masked, which is exact and lets the options of a question share one forward pass)
    mask_counts: of LLaDA. uniform: every number of masks is as likely as any other, which makes the
        estimate unbiased | halves_to_even: as the published code rounds, see `masking.llada_masks`
    """

    mc_num: Count
    mc_batch_size: Count
    guidance: NotNegative = 0.0
    estimator: str = "llada"
    mask_counts: MaskCounts = "uniform"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mc_num % self.mc_batch_size:
            raise DiffusionError(
                f"mc_batch_size = {self.mc_batch_size} does not divide mc_num = {self.mc_num}; "
                f"take one of {_divisors(self.mc_num)}"
            )
        _check_guidance(self.guidance, self.architecture)
        if self.mask_counts != "uniform" and self.architecture == "dream":
            raise DiffusionError(
                f"mask_counts = {self.mask_counts}: Dream draws no counts; set it to uniform"
            )

    @property
    def architecture(self) -> Architecture:
        """The architecture whose published estimator this is."""
        return _owner("estimator", self.estimator, ESTIMATORS)

    def validate(self, architecture: Architecture) -> None:
        """Raise DiffusionError for an estimator of the other architecture."""
        _check_owner("estimator", self.estimator, ESTIMATORS, architecture)


def _owner(name: str, value: str, choices: dict[Architecture, tuple[str, ...]]) -> Architecture:
    for architecture, values in choices.items():
        if value in values:
            return architecture
    known = "; ".join(f"{owner}: {', '.join(values)}" for owner, values in choices.items())
    raise DiffusionError(f"{name} {value!r} is not known; choose from {known}")


def _check_owner(
    name: str,
    value: str,
    choices: dict[Architecture, tuple[str, ...]],
    architecture: Architecture,
) -> None:
    if value not in choices[architecture]:
        raise DiffusionError(
            f"{name} {value!r} does not belong to a {architecture} model; "
            f"choose from: {', '.join(choices[architecture])}"
        )


def _check_decoding(s: DecodingSettings) -> None:
    """Refuse settings that do not fit together, or no published decoding (DiffusionError)."""
    _check_guidance(s.guidance, s.architecture)
    if s.architecture == "dream":
        if s.confidence_eos_eot_inf:
            raise DiffusionError("confidence_eos_eot_inf is LLaDA's; set it to false for Dream")
        if s.block_length != s.gen_length:
            raise DiffusionError(
                f"block_length = {s.block_length}: Dream decodes the whole response as one "
                f"block; set block_length to gen_length = {s.gen_length}"
            )
        return
    blocks = s.gen_length // s.block_length
    if s.gen_length % s.block_length:
        raise DiffusionError(
            f"block_length = {s.block_length} does not divide gen_length = {s.gen_length}; take "
            f"one of {_divisors(s.gen_length)}"
        )
    if s.steps % blocks:
        raise DiffusionError(
            f"steps = {s.steps} must be a multiple of the {blocks} blocks that gen_length = "
            f"{s.gen_length} and block_length = {s.block_length} make"
        )
    if s.top_p != 1:
        raise DiffusionError(f"top_p = {s.top_p}: LLaDA's decoding has no nucleus; set top_p to 1")
    if s.top_k is not None:
        raise DiffusionError(f"top_k = {s.top_k}: LLaDA takes all tokens; set top_k to null")


def _check_guidance(guidance: float, architecture: Architecture) -> None:
    if guidance > 0 and architecture == "dream":
        raise DiffusionError(
            f"guidance = {guidance}: Dream's published settings use no guidance; set it to 0"
        )


def _divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0]
