"""From the API server's answers and the client's exceptions to our own errors, by one table.

Only the text of a `Status` object is passed on, cut; the rest of a body is dropped, as it may hold anything. For
Secrets even that text is dropped where it may quote the object.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from pydantic import JsonValue

from consumer.errors import PermanentError, StepError, TemporaryError

_MAX_TEXT = 400
Fate = Literal["permanent", "temporary"]


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked for, as messages name it."""

    verb: str
    """As RBAC names it: get, list, watch, create, patch, update, delete."""
    resource: str
    """As RBAC names it: `deployments`, `pods/log`, `deployments.apps/scale`."""
    subject: str
    """For a human: `deployment payments/api`."""
    secret: bool = False
    """Whether the server's text may quote what must not be shown."""

    @property
    def reads(self) -> bool:
        return self.verb in {"get", "list", "watch"}


#: HTTP status to (fate, code, what to say). `{subject}`, `{verb}`, `{resource}` and `{text}` are filled in.
_TABLE: dict[int, tuple[Fate, str, str]] = {
    400: ("permanent", "bad_request", "{subject}: the API server refused the request: {text}"),
    401: (
        "permanent",
        "unauthorized",
        "{subject}: the API server does not accept the agent's credentials; check the kubeconfig's user or the token",
    ),
    403: (
        "permanent",
        "forbidden",
        "{subject}: not allowed to {verb} {resource}: {text}; grant the agent the verb {verb} on {resource}",
    ),
    404: ("permanent", "not_found", "{subject} not found"),
    405: ("permanent", "not_supported", "{subject}: the cluster does not support {verb} of {resource}"),
    409: ("temporary", "conflict", "{subject} was changed by someone else at the same time: {text}"),
    410: ("temporary", "expired", "{subject}: the API server no longer has that resource version"),
    413: ("permanent", "too_large", "{subject}: the request is too large for the API server"),
    415: (
        "permanent",
        "not_supported",
        "{subject}: the kind does not take that patch type; use patch_type merge or json",
    ),
    422: ("permanent", "invalid", "{subject}: the API server finds it invalid: {text}"),
    429: ("temporary", "throttled", "{subject}: the API server asks to come back later: {text}"),
    503: ("temporary", "unavailable", "{subject}: the API server is not available: {text}"),
    504: ("temporary", "unavailable", "{subject}: the API server took too long: {text}"),
}


@dataclass(frozen=True, slots=True)
class _Refusal:
    """What an answer's text tells of why it was refused, where the status says too little."""

    statuses: frozenset[int]
    words: re.Pattern[str]
    code: str
    remedy: str
    """What to say; filled in as those of `_TABLE`."""
    fate: Fate = "permanent"


#: What the API server says, with the status 500, of a manifest to apply that does not fit the kind's schema.
_MISFIT = re.compile(r"failed to create typed patch object")
#: Looked through in this order. The words are the API server's own: RBAC, admission plug-ins and validation give no
#: other sign of which of them refused (all are 403, or 422).
_REFUSALS = (
    _Refusal(
        frozenset({403}),
        # With KEP-5284 (alpha in 1.35, beta in 1.36) the text names the verb impersonate:user-info; impersonate alone
        # is enough there too.
        re.compile(r"cannot impersonate\S* resource"),
        "impersonation_forbidden",
        "{subject}: the agent may not act as its requester: {text}; grant the agent the verb impersonate on users",
    ),
    _Refusal(
        frozenset({403}),
        re.compile(r"exceeded quota|failed quota"),
        "quota",
        "{subject}: a resource quota of the namespace does not allow it: {text}; free some of it, ask for less, or "
        "have the quota raised",
    ),
    _Refusal(
        frozenset({403}),
        re.compile(r"violates PodSecurity"),
        "pod_security",
        "{subject}: the Pod Security level of the namespace does not allow it: {text}; change the pod's "
        "securityContext, or the namespace's pod-security.kubernetes.io labels",
    ),
    _Refusal(
        frozenset({500}),
        _MISFIT,
        "invalid",
        "{subject}: the manifest does not fit the kind's schema: {text}",
    ),
    _Refusal(
        frozenset({500, 503}),
        re.compile(r"failed calling webhook"),
        "webhook_unavailable",
        "{subject}: an admission webhook of the cluster does not answer: {text}; nothing was changed",
        "temporary",
    ),
    _Refusal(
        frozenset(range(400, 500)),
        re.compile(r"admission webhook .* denied the request|ValidatingAdmissionPolicy .* denied request"),
        "admission_denied",
        "{subject}: a policy of the cluster refuses it: {text}; change what it objects to, no right of the agent helps",
    ),
    _Refusal(
        frozenset({422}),
        re.compile(r"field is immutable|may not (?:be )?(?:updated?|changed?)|updates to .* are forbidden"),
        "immutable",
        "{subject}: a field that can't be changed would be: {text}; delete the object and create it again, or leave "
        "the field as it is",
    ),
    _Refusal(
        frozenset({403}),
        # What RBAC says always names who may not: `User "x" cannot patch resource "deployments" …`.
        re.compile(r"^(?!.*\bcannot \S+ (?:resource|path)\b).*is forbidden: \S"),
        "admission_denied",
        "{subject}: the cluster's admission refuses it: {text}; change what it objects to, no right of the agent helps",
    ),
)


def of_status(status: int, body: JsonValue, request: Request, delay: float | None = None) -> StepError:
    """The error for an answer that is no success; `delay` is its Retry-After in seconds."""
    text = _text(body, request)
    values = {"subject": request.subject, "verb": request.verb, "resource": request.resource, "text": text}
    special = _special(status, body, request)
    if special is not None:
        return special
    said = _message(body)  # also of a Secret: it only chooses the sentence
    refusal = next((each for each in _REFUSALS if status in each.statuses and each.words.search(said)), None)
    if refusal is not None:
        if request.secret and refusal.code == "admission_denied":
            values["text"] = said[: said.find("request:")].strip() or "(its text may quote the secret)"
        fate, code, message = refusal.fate, refusal.code, refusal.remedy.format_map(values)
    elif status in _TABLE:
        fate, code, template = _TABLE[status]
        message = template.format_map(values)
    else:
        fate = "temporary" if status >= 500 else "permanent"
        code = "server_error" if status >= 500 else "bad_request"
        message = f"{request.subject}: the API server answered {status}: {text}"
    if fate == "temporary":
        return TemporaryError(message, code=code, delay=delay)
    return PermanentError(message, code=code)


def _text(body: JsonValue, request: Request) -> str:
    """What a Status object says, cut; field names only where its text may quote a secret."""
    if not isinstance(body, dict) or body.get("kind") != "Status":
        return "(no Status object)"
    if request.secret and (body.get("code") in (400, 422) or _MISFIT.search(_message(body))):
        details = body.get("details")
        causes = details.get("causes") if isinstance(details, dict) else None
        fields = [str(c.get("field")) for c in causes if isinstance(c, dict)] if isinstance(causes, list) else []
        return f"{body.get('reason', 'Invalid')}{' at ' + ', '.join(fields) if fields else ''}"
    text = _message(body)
    return text if len(text) <= _MAX_TEXT else text[:_MAX_TEXT] + "…"


def _message(body: JsonValue) -> str:
    if not isinstance(body, dict):
        return ""
    return " ".join(str(body.get("message") or body.get("reason") or "").split())


def _missing_namespace(body: JsonValue, request: Request) -> str | None:
    """The namespace that a 404 is about, where it is not about what was asked for."""
    details = body.get("details") if isinstance(body, dict) else None
    if not isinstance(details, dict) or details.get("kind") != "namespaces":
        return None
    return None if request.resource.startswith("namespaces") else str(details.get("name"))


def _cause(body: JsonValue, reason: str) -> str | None:
    """What a Status object says of one of its causes; None where it names no such cause."""
    details = body.get("details") if isinstance(body, dict) else None
    causes = details.get("causes") if isinstance(details, dict) else None
    for cause in causes if isinstance(causes, list) else []:
        if isinstance(cause, dict) and cause.get("reason") == reason:
            return " ".join(str(cause.get("message") or "").split())[:_MAX_TEXT]
    return None


def _special(status: int, body: JsonValue, request: Request) -> StepError | None:
    """The error where more than the status and its text says what is wrong."""
    if status == 404 and (namespace := _missing_namespace(body, request)) is not None:
        return PermanentError(
            f"{request.subject}: there is no namespace {namespace}; create it first", code="no_namespace"
        )
    if status == 409 and isinstance(body, dict) and body.get("reason") == "AlreadyExists":
        return PermanentError(f"{request.subject} already exists", code="already_exists")
    if status == 409 and (owned := _owned_fields(body)):
        return PermanentError(
            f"{request.subject}: apply would change fields that are others': {owned}; leave them out of the manifest, "
            "or set `force: true` to take them over",
            code="field_conflict",
        )
    if status == 429 and (budget := _cause(body, "DisruptionBudget")) is not None:
        return TemporaryError(f"{request.subject} may not be evicted now: {budget}", code="disruption_budget")
    if status == 403 and _cause(body, "NamespaceTerminating") is not None:
        return TemporaryError(f"{request.subject}: its namespace is being deleted", code="terminating")
    return None


def _owned_fields(body: JsonValue) -> str:
    """The fields of a conflict of server-side apply, with who manages them; empty where it is another conflict.

    A cause's message is `conflict with "kubectl" using apps/v1`, its field `.spec.replicas`.
    """
    by_manager: dict[str, list[str]] = {}
    for cause in _details(body, "causes"):
        if isinstance(cause, dict) and cause.get("reason") == "FieldManagerConflict":
            manager = " ".join(str(cause.get("message")).split()).removeprefix("conflict with ")
            by_manager.setdefault(manager[:120], []).append(str(cause.get("field")).removeprefix(".")[:160])
    return "; ".join(
        ", ".join(fields[:10]) + (", …" if len(fields) > 10 else "") + f" (of {manager})"
        for manager, fields in by_manager.items()
    )


def _details(body: JsonValue, name: str) -> list[JsonValue]:
    """A list in the details of a Status object."""
    details = body.get("details") if isinstance(body, dict) else None
    found = details.get(name) if isinstance(details, dict) else None
    return found if isinstance(found, list) else []


def unreachable(request: Request, host: str, cause: BaseException, *, sent: bool) -> TemporaryError:
    """The API server could not be reached, or went away while it was answering."""
    why = " ".join(str(cause).split())[:200] or type(cause).__name__
    doubt = "" if request.reads or not sent else "; whether the change was made is not known"
    return TemporaryError(
        f"{request.subject}: cannot reach the API server at {host} ({why}){doubt}", code="unreachable"
    )


def no_cluster(why: str) -> PermanentError:
    """There is no usable description of a cluster."""
    return PermanentError(
        f"no Kubernetes cluster: {why}. Set KUBECONFIG to a kubeconfig file, or run the agent in a cluster "
        "with a service account",
        code="no_cluster",
    )


def no_credentials(why: str) -> TemporaryError:
    """The kubeconfig's exec plug-in gives none."""
    return TemporaryError(f"the kubeconfig's exec plug-in gives no credentials: {why}", code="no_credentials")
