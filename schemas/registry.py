"""The registry's records: one published package each, on a compacted topic. Versions are immutable.

Of a `name-version` the record with the lowest offset counts, for every reader and for ever. So that compaction never
takes that one away, no two records have the same key: it is made anew for each publication.
"""

from __future__ import annotations

import re

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from schemas.canonical import digest
from schemas.scalars import Moment
from schemas.wpk import Metadata

#: How a package is named by its content, as `wpk publish` prints it.
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")

_NAMED = re.compile(r"([a-z0-9](?:[a-z0-9-]*?[a-z0-9])?)-\d+\.\d+\.\d+(?:[-+][0-9A-Za-z.+-]+)?")


def name_of(reference: str) -> str | None:
    """The workflow's name in a `name-version`; None where it is none."""
    match = _NAMED.fullmatch(reference)
    return match[1] if match else None


class Publication(BaseModel):
    """A package as it lies in the registry's topic."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    workflow_id: str = Field(min_length=1, max_length=256)
    """`name-version`, as commands write it."""
    digest: str
    """`sha256:` and the hex SHA-256 over the canonical JSON (RFC 8785) of the package."""
    published_at: Moment
    published_by: str | None = Field(default=None, max_length=256)
    content: dict[str, JsonValue]
    """The package, signature included."""


def workflow_id_of(content: dict[str, JsonValue]) -> str:
    """`name-version` of a package that need not be valid otherwise. Raises ValueError with the remedy."""
    metadata = content.get("metadata")
    if not isinstance(metadata, dict) or not metadata.get("version"):
        raise ValueError("metadata.version: a published package needs a version of its own, like 1.0.0")
    try:
        found = Metadata.model_validate(metadata)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        path = ".".join(("metadata", *map(str, first["loc"])))
        raise ValueError(f"{path}: {first['msg']}") from error
    return f"{found.name}-{found.version}"


def read(value: bytes) -> Publication:
    """The publication in a record's value, when it is what it says. Raises ValueError where it is none."""
    found = Publication.model_validate_json(value)
    named, actual = workflow_id_of(found.content), digest(found.content)
    if (found.workflow_id, found.digest) != (named, actual):
        raise ValueError(f"it says {found.workflow_id} {found.digest}, its content is {named} {actual}")
    return found
