"""The requests of a task's items: prompts with their examples, and what lm-eval makes of them."""

from collections.abc import Callable, Sequence
from typing import Any

from lm_eval.api.instance import Instance

from dllmquant_exp.evaluation.harness import DiffusionLM, derive_seed
from dllmquant_exp.evaluation.settings import SettingsError, TaskSettings
from dllmquant_exp.evaluation.task_building import BuiltTask

FEWSHOT_SEED = 1234  # lm-eval's; examples are the same for every seed of a run


def make_requests(built: Sequence[BuiltTask], settings: TaskSettings, lm: DiffusionLM) -> None:
    """Put the requests of every item into its task."""
    for member in built:
        chat = lm.apply_chat_template if settings.chat_template else None
        member.task._instances = build_requests(member, settings, chat)


def prompt_of(
    member: BuiltTask, doc_id: int, settings: TaskSettings, chat: Callable[..., str] | None
) -> Any:
    """An item's prompt with its few-shot examples; a list where a task has one per option.

    The examples are drawn anew for each item, from a seed of its own: lm-eval draws them one item
    after the other, so that `limit` would change an item's prompt.
    """
    task, doc = member.task, member.task.task_docs[doc_id]
    task.set_fewshot_seed(derive_seed(FEWSHOT_SEED, member.name, doc_id))
    return task.fewshot_context(
        doc,
        num_fewshot=settings.shots,
        apply_chat_template=settings.chat_template,
        fewshot_as_multiturn=settings.multiturn,
        chat_template=chat,
        gen_prefix=task.doc_to_prefix(doc),
    )


def build_requests(
    member: BuiltTask, settings: TaskSettings, chat: Callable[..., str] | None
) -> list[Instance]:
    """The requests of a task's items.

    Args:
        chat: writes a conversation as one string; None without a chat template.
    """
    task, instances = member.task, []
    for doc_id in member.doc_ids:
        made = task.construct_requests(
            doc=task.task_docs[doc_id],
            ctx=prompt_of(member, doc_id, settings, chat),
            metadata=(member.name, doc_id, task.config.repeats),
            apply_chat_template=settings.chat_template,
            chat_template=chat,
        )
        instances += made if isinstance(made, list) else [made]
    expected = "loglikelihood" if settings.variant == "likelihood" else "generate_until"
    if instances[0].request_type != expected:
        raise SettingsError(
            f"task {member.name} makes {instances[0].request_type} requests, which does not go "
            f"with variant {settings.variant}"
        )
    return instances


def ask(lm: DiffusionLM, built: Sequence[BuiltTask]) -> None:
    """Put the model's responses into the requests (ShardsMissing: see DiffusionLM)."""
    instances = [instance for member in built for instance in member.task._instances]
    repeated = [instance for instance in instances for _ in range(instance.repeats or 1)]
    answer = getattr(lm, instances[0].request_type)
    for instance, response in zip(repeated, answer(repeated), strict=True):
        instance.resps.append(response)
