"""Calls from the checks to the program's functions, over two pipes, as plain data.

The program's side is not trusted: whatever it writes becomes numbers, texts and containers here,
or an error, but no object with a will of its own (one that is equal to everything, say).
Functions see copies of their arguments, so a change that one makes in place is not seen by the
checks; HumanEval has none of those.
"""

import builtins
import contextlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Set
from decimal import Decimal
from fractions import Fraction
from typing import IO, Any

LONGEST_LINE = 1 << 24
LONGEST_REASON = 300


def encode(value: Any) -> Any:
    """`value` as JSON data. Lazy iterables are run to their end; unknown objects equal nothing."""
    if value is None or isinstance(value, bool | str | float):
        return value
    if isinstance(value, int):
        return {"int": f"{value:x}"}  # decimal digits are limited, hexadecimal ones are not
    if isinstance(value, complex):
        return {"complex": [value.real, value.imag]}
    if isinstance(value, Fraction | Decimal):
        return {type(value).__name__: str(value)}
    if isinstance(value, bytes | bytearray):
        return {"bytes": value.hex()}
    if isinstance(value, Mapping):
        return {"dict": [[encode(key), encode(item)] for key, item in value.items()]}
    for kind, name in ((list, "list"), (tuple, "tuple"), (Set, "set"), (Iterable, "iterator")):
        if isinstance(value, kind):
            return {name: [encode(item) for item in value]}
    return {"object": None}


DECODERS: dict[str, Callable[[Any], Any]] = {
    "int": lambda text: int(text, 16),
    "complex": lambda parts: complex(*parts),
    "Fraction": Fraction,
    "Decimal": Decimal,
    "bytes": bytes.fromhex,
    "dict": lambda pairs: {decode(key): decode(item) for key, item in pairs},
    "list": lambda items: [decode(item) for item in items],
    "tuple": lambda items: tuple(decode(item) for item in items),
    "set": lambda items: {decode(item) for item in items},
    "iterator": lambda items: iter([decode(item) for item in items]),
    "object": lambda _: object(),
}


def decode(data: Any) -> Any:
    """The value that `encode` was given, made of built-in types and exact numbers only."""
    if not isinstance(data, dict):
        return data
    ((kind, content),) = data.items()
    return DECODERS[kind](content)


def text_of(error: BaseException) -> str:
    """The message of an exception of the program, whose own __str__ may be hostile."""
    try:
        return str(error)[:LONGEST_REASON]
    except BaseException:
        return ""


def rebuilt(name: str, text: str) -> Exception:
    """An exception of the program as one of the checks: a built-in one, or a new one of its name.

    Those that would end the checks or a loop of theirs in silence, such as SystemExit and
    StopIteration, become ordinary exceptions.
    """
    known = getattr(builtins, name, None)
    silent = (StopIteration, StopAsyncIteration)
    if isinstance(known, type) and issubclass(known, Exception) and not issubclass(known, silent):
        with contextlib.suppress(TypeError):  # some take more than a message
            return known(text)
    made: Exception = type(name, (Exception,), {})(text)
    return made


def send(stream: IO[str], *content: Any) -> None:
    stream.write(json.dumps(content) + "\n")
    stream.flush()


def serve(program: str, requests: IO[str], results: IO[str]) -> None:
    """In the worker: run the program, then answer calls of its functions until nobody asks."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    try:
        exec(compile(program, "<program>", "exec"), namespace)
    except BaseException as error:
        send(results, "raised", [type(error).__name__, text_of(error)])
    else:
        send(results, "value", None)
    for line in requests:
        name, arguments, named = json.loads(line)
        try:
            positional = [decode(argument) for argument in arguments]
            if name not in namespace:
                raise NameError(f"name {name!r} is not defined")
            value = namespace[name](*positional, **{k: decode(v) for k, v in named.items()})
            send(results, "value", encode(value))
        except BaseException as error:
            send(results, "raised", [type(error).__name__, text_of(error)])


def check(checks: str, requests: IO[str], results: IO[str]) -> str:
    """In the checker: run the checks and return "passed", or what went wrong in one line.

    Does not return where the worker is gone: no `except` among the checks may take its end for an
    exception of the program.

    Args:
        checks: source that raises where a result is wrong. It finds one name, `answer`:
            `answer("f")` is the program's function f.
    """

    def result() -> Any:
        line = results.readline(LONGEST_LINE)
        if not line.endswith("\n"):
            os._exit(0)
        kind, content = json.loads(line)
        if kind == "raised":
            raise rebuilt(*content)
        return decode(content)

    def answer(name: str) -> Callable[..., Any]:
        def function(*arguments: Any, **named: Any) -> Any:
            plain = [encode(argument) for argument in arguments]
            try:
                send(requests, name, plain, {key: encode(value) for key, value in named.items()})
            except OSError:
                os._exit(0)
            return result()

        return function

    try:
        result()  # of the program as a whole
        exec(compile(checks, "<checks>", "exec"), {"__name__": "__main__", "answer": answer})
    except BaseException as error:
        return f"failed: {type(error).__name__}: {text_of(error)}"
    return "passed"
