"""Answers programs: one JSON object a line, in and out."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..errors import ClusterError, ConfigurationError
from ..remote import PROGRAM
from ..results import Result
from ._gate import Reader

if TYPE_CHECKING:
    from ..master import Master


def encode(message: dict[str, Any]) -> bytes:
    """A message as a line; what is no JSON goes as its repr."""
    return json.dumps(message, default=repr).encode() + b"\n"


def run_command(
    master: Master, request: dict[str, Any], tell: Callable[[dict[str, Any]], None], through: str = "local"
) -> dict[str, Any]:
    """Run the command that *request* names; returns the answer, a value or an error.

    *tell* is given ``{"taken": name}`` before the command begins: it may take its time, and after the end of the
    cluster nobody answers. Whoever asked has to tell both from a refusal, and from a master that does not even listen.
    """
    words = request.get("words", [])
    wait = request.get("wait", 0)
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        return {"error": "words is a list of texts"}
    try:
        command = master.commands.get(request.get("command", ""))
        arguments = command.accept(words, through)
        tell({"taken": command.name})
        value = command.run(*arguments)
        if isinstance(value, Result):
            if not wait:
                return {"error": str(value.error)} if value.error else {"value": "under way"}
            value = value.wait(float(wait))
    except ConfigurationError as error:
        return {"error": str(error), "usage": True}
    except (ClusterError, TimeoutError, ValueError) as error:
        return {"error": str(error)}
    except Exception as error:  # noqa: BLE001 - a plugin's command; the client is told
        return {"error": f"{type(error).__name__}: {error}"}
    return {"value": value}


def converse(master: Master, connection: Any) -> None:
    """Take commands, one a line, until the client hangs up."""
    reader = Reader(connection)

    def tell(message: dict[str, Any]) -> None:
        connection.sendall(encode(message))

    while (line := reader.line()) is not None:
        if line.strip() == PROGRAM:
            continue
        try:
            request = json.loads(line)
        except (ValueError, RecursionError):
            request = None
        if not isinstance(request, dict) or "command" not in request:
            connection.sendall(encode({"error": "a request is an object with a command"}))
            return
        connection.sendall(encode(run_command(master, request, tell)))
