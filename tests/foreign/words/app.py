"""Counts the words of a text, and asks another capsule for its checksum."""

import json
from collections import Counter

from componentize_py_types import Err
from wit_world import exports
from wit_world.imports import bus
from wit_world.imports.types import Failure_Overloaded, Message, Refusal, RefusalCode


def refusal(code: RefusalCode, reason: str) -> Err:
    return Err(Refusal(code, reason))


def text_of(payload: bytes) -> str:
    """The text in `{"text": …}`."""
    try:
        request = json.loads(payload)
    except ValueError:
        raise refusal(RefusalCode.INVALID, "the payload is not JSON") from None
    if not isinstance(request, dict) or request.keys() != {"text"} or not isinstance(request["text"], str):
        raise refusal(RefusalCode.INVALID, "the payload must be an object with a text in `text` and nothing else")
    return request["text"]


def checksum(text: str) -> str:
    try:
        answer = bus.request("crc.v1.of", text.encode(), bus.Options(target=None, timeout_ms=0))
    except Err as failure:
        again = "; try again later" if isinstance(failure.value, Failure_Overloaded) else ""
        raise refusal(RefusalCode.UNAVAILABLE, f"nobody could take the checksum{again}") from None
    return json.loads(answer)


class Handler(exports.Handler):
    def handle(self, handler: str, message: Message) -> bytes:
        text = text_of(message.payload)
        counted = dict(sorted(Counter(text.lower().split()).items()))
        return json.dumps({"words": counted, "crc32": checksum(text), "for": message.principal}).encode()
