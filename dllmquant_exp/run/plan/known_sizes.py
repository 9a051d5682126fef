"""The official evaluation sets, where their data is not at hand.

Items are the rows of the published splits: TruthfulQA 817 (Lin et al. 2022), ARC-Challenge test
1172 (Clark et al. 2018), HellaSwag validation 10042 (Zellers et al. 2019), WinoGrande validation
1267 (Sakaguchi et al. 2020), PIQA validation 1838 (Bisk et al. 2020), MMLU test 14042 (Hendrycks
et al. 2021), C-Eval validation 1346 (Huang et al. 2023), HumanEval 164 (Chen et al. 2021), GSM8K
test 1319 (Cobbe et al. 2021).

Lengths are means in tokens of Qwen's tokenizer (Dream's; LLaDA's own is on the hub only) over the
prompts that lm-eval 0.4.13 makes of these rows, counted once on 100 to 600 rows of each set. A chat
template adds about ten tokens per turn, which are left out.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class KnownSize:
    """One task of lm-eval.

    Attributes:
        items: of the evaluated split.
        requests: per item; options of a question, 1 where an answer is generated.
        prompt: mean tokens without examples; per_shot: what each example adds.
        targets: token counts of the options, their deciles' middles; empty where generated.
        one_input: all options are one token behind one prompt and share one masked input.
    """

    items: int
    requests: float
    prompt: int
    per_shot: int
    targets: tuple[int, ...] = ()
    one_input: bool = False


# What a calibration prompt or text of the official training splits has, in the same tokens.
CALIBRATION_TOKENS = {"winogrande": (16, 25), "piqa": (13, 37), "gsm8k": (63, 186)}

KNOWN_SIZES = {
    "arc_challenge": KnownSize(1172, 4, 31, 37, (1, 2, 3, 4, 5, 6, 7, 8, 10, 12)),
    "arc_challenge_letters": KnownSize(1172, 1, 91, 93),
    "ceval-valid": KnownSize(1346, 4, 98, 87, (1, 1, 1, 1, 1, 1, 1, 1, 1, 1), one_input=True),
    "gsm8k": KnownSize(1319, 1, 63, 186),
    "gsm8k_cot": KnownSize(1319, 1, 63, 83),
    "hellaswag": KnownSize(10042, 4, 51, 77, (8, 12, 17, 24, 29, 32, 35, 39, 45, 52)),
    "hellaswag_letters": KnownSize(10042, 1, 189, 189),
    "humaneval": KnownSize(164, 1, 134, 336),
    "humaneval_instruct": KnownSize(164, 1, 296, 482),
    "mmlu": KnownSize(14042, 4, 105, 100, (1, 1, 1, 1, 1, 1, 1, 1, 1, 1), one_input=True),
    "mmlu_generative": KnownSize(14042, 1, 105, 100),
    "piqa": KnownSize(1838, 2, 13, 37, (4, 7, 8, 10, 12, 16, 21, 28, 39, 67)),
    "truthfulqa_mc2": KnownSize(817, 7.32, 168, 180, (2, 5, 6, 7, 9, 9, 10, 12, 14, 17)),
    "winogrande": KnownSize(1267, 2, 17, 22, (3, 3, 4, 4, 5, 6, 7, 7, 9, 11)),
}
