"""Between lm-eval's text and the model's tokens: what goes in, what fits, where an answer ends."""

from collections.abc import Sequence

from jinja2.exceptions import TemplateError
from transformers import PreTrainedTokenizerBase

from dllmquant_exp.evaluation.settings import SettingsError, TaskSettings
from dllmquant_exp.evaluation.stopping import cut_at_stop, is_decided
from dllmquant_exp.models.transformer import TransformerConfig

# ends of a turn or text in the tokenizers of the supported models, besides the model's own
END_OF_TURN = "<|eot_id|>"  # LLaDA's
END_TOKENS = (END_OF_TURN, "<|im_end|>", "<|endoftext|>", "</s>")


def prompt_room(gen_length: int, max_length: int) -> int:
    """Tokens that a prompt may have (SettingsError: none)."""
    if gen_length >= max_length:
        raise SettingsError(
            f"gen_length = {gen_length} leaves no room for a prompt in the model's {max_length} "
            "tokens; choose a shorter gen_length"
        )
    return max_length - gen_length


class Codec:
    """A tokenizer as one task uses it.

    Args:
        max_length: tokens that a sequence may have, at most the settings' own. A longer one loses
            its beginning, and `truncated` counts such sequences.

    Raises:
        SettingsError: the settings ask for tokens that the tokenizer does not have.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        settings: TaskSettings,
        config: TransformerConfig,
        max_length: int,
    ) -> None:
        self.tokenizer = tokenizer
        self.settings = settings
        self.config = config
        self.max_length = min(max_length, settings.max_length or max_length)
        self.truncated = 0
        self._ends = self._end_tokens()
        self.end_of_turn = self.tokenizer.get_vocab().get(END_OF_TURN)
        if settings.add_bos and tokenizer.bos_token_id is None:
            raise SettingsError(
                f"task {settings.harness_task} puts begin-of-text before every request, and the "
                "tokenizer has none: use the model's own tokenizer or set add_bos to false"
            )
        if settings.confidence_eos_eot_inf and self.end_of_turn is None:
            raise SettingsError(
                f"task {settings.harness_task}: confidence_eos_eot_inf needs the end-of-turn token "
                f"{END_OF_TURN}, which the tokenizer does not have; set it to false"
            )

    @property
    def prefix_token_id(self) -> int:
        """The token in place of an empty context: begin-of-text, or else end-of-text."""
        bos = self.tokenizer.bos_token_id
        return self.config.eos_token_id if bos is None else int(bos)

    def encode(self, text: str, add_special_tokens: bool | None = None) -> list[int]:
        """Token ids. A chat template has written its special tokens itself; then none are added."""
        if add_special_tokens is None:
            add_special_tokens = not self.settings.chat_template
        return [int(i) for i in self.tokenizer.encode(text, add_special_tokens=add_special_tokens)]

    def chat(self, messages: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The conversation as one string; the last message is continued where it is the model's."""
        if not self.tokenizer.chat_template:
            raise SettingsError(
                f"task {self.settings.harness_task} asks for a chat template, and the tokenizer "
                "has none: use a chat model or set chat_template to false"
            )
        options = {
            "tokenize": False,
            "add_generation_prompt": add_generation_prompt,
            "continue_final_message": not add_generation_prompt,
        }
        try:
            return str(self.tokenizer.apply_chat_template(messages, **options))
        except TemplateError as error:
            if messages[0]["role"] != "system":
                raise SettingsError(f"the chat template refuses the messages: {error}") from error
            first, *rest = messages[1:]  # templates without a system role: say it as the user
            merged = {**first, "content": f"{messages[0]['content']}{first['content']}"}
            return str(self.tokenizer.apply_chat_template([merged, *rest], **options))

    def encode_pair(self, context: str, target: str) -> tuple[list[int], list[int]]:
        """Tokens of a context and of the target that follows it, cut to what fits.

        Trailing white space of the context belongs to the target, because a tokenizer joins it to
        the next word. The whole is encoded at once and split behind the context's own length; a
        target that is swallowed by a joint token is encoded by itself.
        """
        stripped = context.rstrip()
        target = context[len(stripped) :] + target
        if not stripped:
            alone = self.encode(target, add_special_tokens=False)
            return self.fit_pair([self.prefix_token_id], alone)
        ids = self.encode(stripped)
        rest = self.encode(stripped + target)[len(ids) :]
        if not rest:
            rest = self.encode(target, add_special_tokens=False)
        return self.fit_pair(self._with_bos(ids), rest)

    def fit_pair(self, context: list[int], target: list[int]) -> tuple[list[int], list[int]]:
        """Drop the beginning of the context (and if need be of the target) that has no room."""
        reserve = 0 if self.settings.estimator == "llada" else 1  # Dream appends an end-of-text
        room = self.max_length - reserve
        if len(context) + len(target) <= room:
            return context, target
        self.truncated += 1
        target = target[-(room - min(1, len(context))) :]
        keep = room - len(target)
        return (context[-keep:] if keep else []), target

    def encode_prompt(self, text: str, gen_length: int) -> list[int]:
        """Tokens of a prompt, cut so that a response of `gen_length` tokens fits behind it."""
        room = prompt_room(gen_length, self.max_length)
        room = min(room, self.settings.max_prompt_length or room)
        prompt = self._with_bos(self.encode(text)) or [self.prefix_token_id]
        self.truncated += len(prompt) > room
        return prompt[-room:]

    def response_text(self, ids: Sequence[int], stops: Sequence[str]) -> str:
        """The text of a response up to its first stop string, without special tokens.

        With `cut_at_end` it ends at the first end token as well; else what stands behind counts.
        """
        return cut_at_stop(self._decode(ids[: self._end(ids)]), stops)

    def is_finished(self, prefix: Sequence[int], stops: Sequence[str]) -> bool:
        """Whether a response's beginning decides `response_text`, whatever follows."""
        if self._end(prefix) < len(prefix):
            return True
        return bool(stops) and is_decided(self._decode(prefix), stops)

    def has_ended(self, ids: Sequence[int], stops: Sequence[str]) -> bool:
        """Whether a response came to an end of its own: an end token or a stop string."""
        if not self._ends.isdisjoint(ids):
            return True
        text = self._decode(ids)
        return cut_at_stop(text, stops) != text

    def _end(self, ids: Sequence[int]) -> int:
        """Tokens before the first end token where a response ends there, else all."""
        if not self.settings.cut_at_end:
            return len(ids)
        return next((i for i, token in enumerate(ids) if token in self._ends), len(ids))

    def _with_bos(self, ids: list[int]) -> list[int]:
        if not self.settings.add_bos or ids[:1] == [self.prefix_token_id]:
            return ids
        return [self.prefix_token_id, *ids]

    def _decode(self, ids: Sequence[int]) -> str:
        written = [i for i in ids if i != self.config.mask_token_id]
        return str(
            self.tokenizer.decode(
                written, skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
        )

    def _end_tokens(self) -> frozenset[int]:
        ends = {self.config.eos_token_id, self.config.pad_token_id}
        if self.tokenizer.eos_token_id is not None:
            ends.add(int(self.tokenizer.eos_token_id))
        vocabulary = self.tokenizer.get_vocab()
        ends |= {int(vocabulary[token]) for token in END_TOKENS if token in vocabulary}
        return frozenset(ends)
