"""A record that nobody could understand, as it goes to the dead-letter topic."""

from __future__ import annotations

from consumer.engine.incoming import Incoming, Unreadable
from consumer.ports import Record, Topic


def dead_letter(incoming: Incoming, content: Unreadable, keep: int | None = None) -> Record:
    """The record as it came, with what is wrong with it; with `keep` only so many bytes of its value."""
    source, value = incoming.source, incoming.value
    about = {
        "wpk-reason": content.reason,
        "wpk-detail": content.detail,
        "wpk-topic": source.topic,
        "wpk-partition": str(source.partition),
        "wpk-offset": str(source.offset),
    }
    if keep is not None:
        about["wpk-truncated"] = f"the first {keep} of {len(value or b'')} bytes; key and headers are left out"
    added = tuple((name, text.encode(errors="replace")) for name, text in about.items())
    if keep is not None:
        return Record(Topic.DEAD_LETTER, None, (value or b"")[:keep], added)
    if incoming.key is None and value is None:
        value = b""
    return Record(Topic.DEAD_LETTER, incoming.key, value, (*incoming.headers, *added))
