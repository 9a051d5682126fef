"""The audit's check of Table 4's memory against the bytes that the weights alone need."""

from dataclasses import dataclass

from dllmquant_exp.reporting.audit_finding import MODELS, Finding, Sheet, number, place
from dllmquant_exp.reporting.paper import paper_model

GIB = 2**30


@dataclass(frozen=True)
class Shape:
    """A decoder of gated feed-forward blocks with untied embedding and head."""

    layers: int
    hidden: int
    kv: int  # width of keys and of values
    feed_forward: int
    vocabulary: int
    biases: int  # per layer

    @property
    def linear(self) -> int:
        """Weights of the blocks' linear layers: what 4-bit methods quantize."""
        attention = 2 * self.hidden * (self.hidden + self.kv)
        return self.layers * (attention + 3 * self.hidden * self.feed_forward)

    @property
    def table(self) -> int:
        """Weights of the embedding, and as many again of the head."""
        return self.vocabulary * self.hidden

    @property
    def parameters(self) -> int:
        norms = (2 * self.layers + 1) * self.hidden
        return self.linear + 2 * self.table + norms + self.layers * self.biases


# The checkpoints' config.json: GSAI-ML/LLaDA-8B-Base, GSAI-ML/LLaDA-1.5, Dream-org/Dream-v0-*-7B.
LLADA = Shape(32, 4096, 4096, 12288, 126464, 0)
DREAM = Shape(28, 3584, 512, 18944, 152064, 3584 + 2 * 512)
SHAPES = {"llada_8b": LLADA, "llada_1_5": LLADA, "dream_7b": DREAM}


def weight_bytes(shape: Shape, linear_bits: int, head_bits: int) -> float:
    """Bytes of all weights, without scales: linear layers, head, and the rest at 16 bits."""
    rest = shape.parameters - shape.linear - shape.table
    return (shape.linear * linear_bits + shape.table * head_bits + rest * 16) / 8


def memory(sheet: Sheet) -> list[Finding]:
    """Printed memory below the weights' own bytes, in GB of 10^9 and of 2^30 bytes."""
    findings = []
    for model in MODELS:
        for column, bits in (("Memory FP", 16), ("Memory Quant", 4)):
            cell = sheet[4, model, "quantized", column]
            size = weight_bytes(SHAPES[model], bits, 16)
            printed = number(sheet, 4, model, "quantized", column)
            if printed >= size / 1e9:
                continue
            possible = printed >= size / GIB
            sentence = f"The weights alone take {size / 1e9:.2f} GB or {size / GIB:.2f} GiB"
            if possible:
                sentence += ": the unit can only be GiB."
            elif bits == 16:
                sentence += f" ({SHAPES[model].parameters:,} at 2 bytes): it cannot hold them."
            else:
                head = weight_bytes(SHAPES[model], 4, 4)
                sentence += " with embedding and head at 16 bits: one of them must be quantized "
                sentence += (
                    f"too (head at 4 bits: {head / GIB:.2f} GiB), which the paper leaves out."
                )
            unit, name = (1e9, "GB") if possible else (GIB, "GiB")
            severity = "note" if possible else "error" if bits == 16 else "doubt"
            findings.append(
                Finding("memory", place(cell), cell.printed, f"at least {size / unit:.2f} {name}",
                        printed - size / unit, name, severity, sentence)
            )  # fmt: skip
    return findings


def memory_differences(sheet: Sheet) -> list[Finding]:
    """Two models' memory differs by their weights, give or take activations of like size."""
    llada, dream = (
        number(sheet, 4, model, "quantized", "Memory FP") for model in ("llada_8b", "dream_7b")
    )
    size = 2 * (LLADA.parameters - DREAM.parameters) / GIB
    if abs(llada - dream - size) < 0.5:
        return []
    sentence = f"{paper_model('llada_8b')} and {paper_model('dream_7b')} differ by {size:.2f} GiB "
    sentence += f"of 16-bit weights and by {llada - dream:.2f} in print: not one way of measuring."
    return [
        Finding("memory", "Table 4, Memory FP, LLADA - DREAM", f"{llada - dream:.2f}",
                f"{size:.2f}", llada - dream - size, "GiB", "doubt", sentence)
    ]  # fmt: skip
