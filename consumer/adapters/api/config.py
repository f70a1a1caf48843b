"""The `config` of an api step, as the package writes it."""

from __future__ import annotations

import json
import re
import ssl
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    WithJsonSchema,
    model_validator,
)
from pydantic.config import JsonDict

from consumer.adapters.api.urls import parse_url
from schemas.scalars import Duration

MAX_EXPECT = 4096
"""Characters of `expect`."""

Method = Literal["GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"]

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, 5.6.2
#: Headers that frame the message; set by a package they would let a value smuggle a second request in.
_FRAMING = frozenset(
    {"connection", "content-length", "expect", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"}
)


def _check_url(text: str) -> str:
    parse_url(text)
    return text.strip()


def _upper(value: object) -> object:
    return value.upper() if isinstance(value, str) else value


def _scalar_text(value: object) -> object:
    """Numbers and booleans as text (YAML reads `X-Level: 3` as a number)."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int | float) else value


def _check_header_value(value: str) -> str:
    if not value.isprintable() and set(value) & {chr(code) for code in (*range(9), *range(10, 32), 127)}:
        raise ValueError("holds a control character (a line break?), which HTTP does not allow in a header")
    try:
        value.encode("latin-1")
    except UnicodeEncodeError as error:
        raise ValueError(f"holds {value[error.start]!r}, which HTTP does not allow in a header") from error
    return value.strip(" \t")


def _check_sendable(value: JsonValue) -> JsonValue:
    try:
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError as error:
        raise ValueError("holds half of a surrogate pair, which is no character and can't be sent") from error
    except ValueError as error:
        raise ValueError("holds a number that JSON does not have (NaN or an infinity)") from error
    return value


def _status(value: object) -> object:
    """`200`, `"200"` and `"2xx"`."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError(f"{value!r} is no status; write a number (200), a class (2xx) or a list of them")  # noqa: TRY004 - pydantic wants it
    text = str(value).strip().lower()
    if not re.fullmatch(r"[1-5](\d\d|xx)", text):
        raise ValueError(f"{value!r} is no status; write a number (200), a class (2xx) or a list of them")
    return text


def _as_list(value: object) -> object:
    return value if isinstance(value, list | tuple) else [value]


def _check_verify(value: bool | str) -> bool | str:
    if isinstance(value, str):
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=value)
        except (ssl.SSLError, ValueError) as error:
            raise ValueError("is neither true, false nor the PEM text of the CA certificates to trust") from error
    return value


_SCALAR: JsonDict = {"type": ["string", "number", "boolean"]}
_STATUS: JsonDict = {
    "anyOf": [
        {"type": "integer", "minimum": 100, "maximum": 599},
        {"type": "string", "pattern": "^[1-5]([0-9]{2}|xx)$"},
    ]
}


def _one_or_many(item: JsonDict) -> WithJsonSchema:
    return WithJsonSchema({"anyOf": [item, {"type": "array", "items": item}]})


HeaderValue = Annotated[
    str, BeforeValidator(_scalar_text), AfterValidator(_check_header_value), WithJsonSchema(_SCALAR)
]
ParamValues = Annotated[
    tuple[Annotated[str, BeforeValidator(_scalar_text), AfterValidator(_check_sendable)], ...],
    BeforeValidator(_as_list),
    _one_or_many(_SCALAR),
]
StatusPatterns = Annotated[
    tuple[Annotated[str, BeforeValidator(_status)], ...],
    BeforeValidator(_as_list),
    Field(min_length=1),
    _one_or_many(_STATUS),
]


class ApiConfig(BaseModel):
    """One HTTP request, and what its answer must be like."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    url: Annotated[str, AfterValidator(_check_url)]
    """`http://host/path` or `https://host:port/path`; a user and password in it become basic authentication. Values
    that are put into it are encoded, and can't change its host or lead out of its path; see `params` for queries."""
    method: Annotated[Method, BeforeValidator(_upper)] = "GET"
    headers: dict[str, HeaderValue] = Field(default_factory=dict)
    """Sent as they are. `Idempotency-Key` is added to POST and PATCH unless it is here; declaring it says that the
    server honours it, so that an attempt whose outcome a crash left unknown is made again."""
    params: dict[str, ParamValues] = Field(default_factory=dict)
    """Added to the URL's query, percent-encoded; a list gives the name several times."""
    payload: Annotated[JsonValue, AfterValidator(_check_sendable)] = None
    """The body: a string is sent as text, anything else as JSON; null: no body."""
    expected_status: StatusPatterns = ("2xx",)
    """A number, a class like `2xx`, or a list of them."""
    expect: str | None = Field(default=None, min_length=1, max_length=MAX_EXPECT)
    """A CEL expression over `status`, `headers` (names in lower case) and `body` that must be true."""
    timeout: Annotated[Duration, Field(gt=0)] | None = None
    """Of the whole exchange, redirects included; None: only the step's own timeout."""
    follow_redirects: bool = False
    """At most three; only GET, HEAD and OPTIONS go on to another origin, and credentials never do."""
    verify: Annotated[bool | str, AfterValidator(_check_verify)] = True
    """TLS: true checks the server against the system's CAs; a PEM text, against those CAs only; false, not at all."""

    @model_validator(mode="after")
    def _headers_are_sound(self) -> ApiConfig:
        seen: set[str] = set()
        for name in self.headers:
            lower = name.lower()
            if not _TOKEN.fullmatch(name):
                raise ValueError(f"headers: {name[:80]!r} is no header name")
            if lower in _FRAMING:
                raise ValueError(f"headers: {name} is set by the agent; leave it out")
            if lower in seen:
                raise ValueError(f"headers: {name} is given twice, in different case")
            seen.add(lower)
        return self
