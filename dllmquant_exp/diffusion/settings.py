"""What a decode and a likelihood estimate are asked to do.

Settings check themselves when they are made, so that a run with a block length that does not
divide is refused before any model is loaded. What depends on the model is checked by
`validate(architecture)`, which `generate` and `log_likelihoods` call.
"""

from dataclasses import dataclass

from dllmquant_exp.errors import Refusal
from dllmquant_exp.models.transformer import Architecture

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
class DecodingSettings:
    """How a response of `gen_length` tokens is decoded; see `decoding.generate`.

    gen_length: tokens of the response, all of them masks at first
    steps: forward passes for the whole response (fewer where nothing is left to decide)
    block_length: LLaDA commits block after block, left to right; Dream has one block
    remasking: which positions are committed first. LLaDA: low_confidence, random.
        Dream: origin, maskgit_plus, topk_margin, entropy
    temperature: 0 takes the most likely token, more samples
    guidance: classifier-free guidance scale of LLaDA, 0 for none
    top_p: Dream's nucleus, 1 for the whole vocabulary; applies at temperature 0 as well
    suppress_eos: end-of-text is never predicted
    """

    gen_length: int
    steps: int
    block_length: int
    remasking: str
    temperature: float = 0.0
    guidance: float = 0.0
    top_p: float = 1.0
    suppress_eos: bool = False

    def __post_init__(self) -> None:
        self.validate()

    @property
    def architecture(self) -> Architecture:
        """The architecture whose published decoding this is."""
        return _owner("remasking", self.remasking, REMASKING)

    def validate(self, architecture: Architecture | None = None) -> None:
        """Raise DiffusionError for values that make no sense, alone or for `architecture`."""
        for name in ("gen_length", "steps", "block_length"):
            if getattr(self, name) < 1:
                raise DiffusionError(f"{name} = {getattr(self, name)} must be at least 1")
        if self.temperature < 0:
            raise DiffusionError(f"temperature = {self.temperature} must be 0 or more")
        if not 0 < self.top_p <= 1:
            raise DiffusionError(f"top_p = {self.top_p} must be above 0 and at most 1")
        if self.architecture == "llada":
            self._validate_llada()
        else:
            self._validate_dream()
        _check_guidance(self.guidance, self.architecture)
        _check_match("remasking", self.remasking, REMASKING, architecture)

    def _validate_llada(self) -> None:
        if self.gen_length % self.block_length:
            raise DiffusionError(
                f"block_length = {self.block_length} does not divide gen_length = "
                f"{self.gen_length}; take one of {_divisors(self.gen_length)}"
            )
        blocks = self.gen_length // self.block_length
        if self.steps % blocks:
            raise DiffusionError(
                f"steps = {self.steps} must be a multiple of the {blocks} blocks that gen_length = "
                f"{self.gen_length} and block_length = {self.block_length} make"
            )
        if self.top_p != 1:
            raise DiffusionError(
                f"top_p = {self.top_p}: LLaDA's decoding has no nucleus; set top_p to 1"
            )

    def _validate_dream(self) -> None:
        if self.block_length != self.gen_length:
            raise DiffusionError(
                f"block_length = {self.block_length}: Dream decodes the whole response as one "
                f"block; set block_length to gen_length = {self.gen_length}"
            )


@dataclass(frozen=True)
class LikelihoodSettings:
    """How log p(target | context) is estimated; see `likelihood.log_likelihoods`.

    mc_num: Monte-Carlo samples per request
    mc_batch_size: the published estimators spread the mask ratios of this many samples evenly;
        divides mc_num. It has nothing to do with how many rows share a forward pass
    guidance: classifier-free guidance scale of LLaDA, 0 for none
    estimator: llada | dream | dream_whole (as dream, but the only token of a one-token target is
        always masked, which is exact and lets the options of a question share one forward pass)
    check_greedy: also find out whether greedy decoding would produce the target, at the price of
        up to one forward pass per target token
    """

    mc_num: int
    mc_batch_size: int
    guidance: float = 0.0
    estimator: str = "llada"
    check_greedy: bool = False

    def __post_init__(self) -> None:
        self.validate()

    @property
    def architecture(self) -> Architecture:
        """The architecture whose published estimator this is."""
        return _owner("estimator", self.estimator, ESTIMATORS)

    def validate(self, architecture: Architecture | None = None) -> None:
        """Raise DiffusionError for values that make no sense, alone or for `architecture`."""
        for name in ("mc_num", "mc_batch_size"):
            if getattr(self, name) < 1:
                raise DiffusionError(f"{name} = {getattr(self, name)} must be at least 1")
        if self.mc_num % self.mc_batch_size:
            raise DiffusionError(
                f"mc_batch_size = {self.mc_batch_size} does not divide mc_num = {self.mc_num}; "
                f"take one of {_divisors(self.mc_num)}"
            )
        _check_guidance(self.guidance, self.architecture)
        _check_match("estimator", self.estimator, ESTIMATORS, architecture)


def _owner(name: str, value: str, choices: dict[Architecture, tuple[str, ...]]) -> Architecture:
    for architecture, values in choices.items():
        if value in values:
            return architecture
    known = "; ".join(f"{owner}: {', '.join(values)}" for owner, values in choices.items())
    raise DiffusionError(f"{name} {value!r} is not known; choose from {known}")


def _check_match(
    name: str,
    value: str,
    choices: dict[Architecture, tuple[str, ...]],
    architecture: Architecture | None,
) -> None:
    if architecture is not None and value not in choices[architecture]:
        raise DiffusionError(
            f"{name} {value!r} does not belong to a {architecture} model; "
            f"choose from: {', '.join(choices[architecture])}"
        )


def _check_guidance(guidance: float, architecture: Architecture) -> None:
    if guidance < 0:
        raise DiffusionError(f"guidance = {guidance} must be 0 or more")
    if guidance > 0 and architecture == "dream":
        raise DiffusionError(
            f"guidance = {guidance}: Dream's published settings use no guidance; set it to 0"
        )


def _divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0]
