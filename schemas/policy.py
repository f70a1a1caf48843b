"""The policy file: who may run what on an agent. docs/security.md explains it with examples.

Everything is refused that no rule allows, and one rule that denies outweighs all that allow: the order of the rules
means nothing, so that a rule can be added or moved without a second look at all others. Requirements are what a run
must fulfil besides; all that apply hold together.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, model_validator

from schemas.scalars import Duration, Moment

#: cosign's key types; the names of `key_types`.
KeyType = Literal["ecdsa-p256", "ecdsa-p384", "ed25519", "rsa-2048", "rsa-3072", "rsa-4096"]
PolicyName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$")]
Wanted = Literal["required", "optional"]
Action = Literal["approve", "reject", "cancel", "rollback"]
Reason = Annotated[str, StringConstraints(min_length=1, max_length=500)]


def _to_list(value: object) -> object:
    return [value] if isinstance(value, str | int) and not isinstance(value, bool) else value


def _to_text(value: object) -> object:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


Pattern = Annotated[str, BeforeValidator(_to_text), StringConstraints(min_length=1, max_length=1000)]
#: Of each, one must fit: `*` stands for any characters, `?` for one. One text may stand without the list.
Patterns = Annotated[tuple[Pattern, ...], BeforeValidator(_to_list), Field(min_length=1, max_length=1000)]


def _without_nulls(value: object) -> object:
    """`namespaces:` with nothing behind it reads like a restriction and would be none."""
    empty = [name for name, item in value.items() if item is None] if isinstance(value, dict) else []
    if empty:
        raise ValueError(f"{empty[0]} has no value; give one ({{}} for no conditions), or leave the field out")
    return value


class PolicyModel(BaseModel):
    """Base of the policy's parts: an unknown field is an error, as it may be the one that was to forbid something."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    @model_validator(mode="before")
    @classmethod
    def _says_something(cls, value: object) -> object:
        return _without_nulls(value)


class Applies(PolicyModel):
    """Which runs a rule or a requirement is about: those that fit all that is given here."""

    name: PolicyName
    """What answers and the trail call it by."""
    reason: Reason | None = None
    """Why, for whoever is refused."""
    workflows: Patterns | None = None
    """The package's `metadata.name`."""
    tags: Patterns | None = None
    """One of the package's `metadata.tags`."""
    labels: dict[str, Patterns] = Field(default_factory=dict)
    """The command's labels: each named here must be there and fit."""
    requesters: Patterns | None = None
    """The command's `requested_by`; a command without one fits nothing but `*`."""
    signed_by: Patterns | None = None
    """Names of keys, one of which signed the package."""
    dry_run: bool | None = None
    """true: dry runs only; false: real runs only."""
    when: str | None = Field(default=None, min_length=1, max_length=4096)
    """A CEL expression over `workflow` (name, version, mode, tags, signed_by) and `request` (requester, labels,
    dry_run, signed_by); in a rule also over `step` (name, adapter, phase, secrets, and what the adapter tells of it).
    Where it can't be evaluated, a rule that allows does not apply, and one that denies and a requirement do."""


class K8sSteps(PolicyModel):
    """Conditions on k8s steps."""

    actions: Patterns | None = None
    """get, restart, scale, …"""
    kinds: Patterns | None = None
    """Singular, in lower case: deployment, configmap; custom resources as the package writes them; prometheus for a
    query of metrics."""
    namespaces: Patterns | None = None
    """Where the step works. Only `*` fits cluster-wide kinds, custom resources, queries, and steps
    that name none."""
    names: Patterns | None = None
    """The object's name. Only `*` fits a step that selects by labels."""
    changes: bool | None = None
    """false: only actions that change nothing (get, logs, events, metrics, wait)."""


class ApiSteps(PolicyModel):
    """Conditions on api steps."""

    methods: Patterns | None = None
    """GET, POST, …"""
    schemes: Patterns | None = None
    """http, https."""
    hosts: Patterns | None = None
    """The URL's host, in lower case. Only `*` fits a step that follows redirects."""
    ports: Patterns | None = None
    """443, 8080, …"""
    changes: bool | None = None
    """false: only GET, HEAD and OPTIONS."""


class ShellSteps(PolicyModel):
    """Conditions on shell steps. Without programs and commands every command fits."""

    programs: Patterns | None = None
    """The program of a step with `args`. Do not allow one that runs what it is told (sh, env, xargs, python)."""
    commands: Annotated[tuple[str, ...], BeforeValidator(_to_list), Field(min_length=1)] | None = None
    """Whole scripts, letter by letter as packages write them in `command`, placeholders included; no patterns."""
    network: bool | None = None
    """false: only steps without `network: true`."""


class OtherSteps(PolicyModel):
    """Conditions on steps of other adapters."""

    facts: dict[str, Patterns] = Field(default_factory=dict)
    """What the adapter tells of its steps, by name."""


class Steps(BaseModel):
    """The steps that a rule is about, by adapter; those of adapters that are not named here are not meant.

    Other adapters by their names; `"*"`: all that are not named.
    """

    model_config = ConfigDict(extra="allow", frozen=True, use_attribute_docstrings=True)
    __pydantic_extra__: dict[str, OtherSteps]

    @model_validator(mode="before")
    @classmethod
    def _says_something(cls, value: object) -> object:
        return _without_nulls(value)

    k8s: K8sSteps | None = None
    api: ApiSteps | None = None
    shell: ShellSteps | None = None
    delay: OtherSteps | None = None


class Rule(Applies):
    """Allows or denies steps."""

    effect: Literal["allow", "deny"]
    command_signature: Wanted = "optional"
    """required: the rule allows only what a command asked for that is signed by one of `command_keys`: then its
    `requesters` are proven. Not for rules that deny, which count for signed and unsigned commands alike."""
    steps: Steps | None = None
    """Without it, every step."""
    secrets: Patterns | None = None
    """allow: the secrets that these steps may use (without it, none). deny: only steps that use one of these."""

    @model_validator(mode="after")
    def _denies_the_unsigned_too(self) -> Rule:
        if self.effect == "deny" and self.command_signature == "required":
            raise ValueError("a rule that denies can't want a command_signature: leaving it away would get around it")
        return self


class CommandRule(Applies):
    """Lets people approve, reject, cancel or undo the runs that it is about."""

    actions: Annotated[tuple[Action, ...], BeforeValidator(_to_list), Field(min_length=1)]
    """approve, reject, cancel, rollback."""
    senders: Patterns | None = None
    """Who: the command's `requested_by`. Without it and without `own`, everybody."""
    own: bool = False
    """true: who asked for the run (besides `senders`)."""
    command_signature: Wanted = "optional"
    """required: only by commands that are signed by one of `command_keys`."""


class RunLimits(PolicyModel):
    """Bounds of a run; of several the least counts, the package's own `resource_limits` included."""

    max_steps: int | None = Field(default=None, ge=1)
    """Steps of the package, rollback handlers included."""
    max_pods: int | None = Field(default=None, ge=0)
    max_namespaces: int | None = Field(default=None, ge=0)
    max_replicas: int | None = Field(default=None, ge=0)
    max_nodes: int | None = Field(default=None, ge=0)


class Requirement(Applies):
    """What the runs that it is about must fulfil."""

    signature: Wanted = "optional"
    """required: the package must be signed by one of `keys` (of the policy's keys, or those named in `signers`)."""
    signers: Patterns | None = None
    """Names of keys that count for `signature: required`; without it, all."""
    command_signature: Wanted = "optional"
    """required: each command about the run must be signed by one of `command_keys`: the execute command, and those
    that approve, reject, cancel or undo it."""
    approval: Wanted = "optional"
    """required: the run waits for an approval even where its package does not ask for one. Dry runs do not."""
    approvers: Patterns | None = None
    """Who may approve; never the requester. Without it, everybody else."""
    approvals: int = Field(default=1, ge=1, le=20)
    """How many different approvers are needed."""
    approval_timeout: Annotated[Duration, Field(gt=0)] | None = None
    """How long approvals are waited for, and count (seconds, or 30m, 4h); at most WPK_APPROVAL_TIMEOUT."""
    plan_digest: Wanted = "optional"
    """required: an approval must name the digest of the plan that it approves (`wpk approve --digest`)."""
    dry_run_first: Wanted = "optional"
    """required: the command must name a dry run that completed, of the same package and parameters (`dry_run_id`)."""
    dry_run_within: Annotated[Duration, Field(gt=0)] = 86_400.0
    """How long before the command that dry run may have ended (seconds, or 30m, 1d). Never more than
    WPK_STATE_RETENTION, after which agents do not know of it."""
    auto: bool = True
    """false: packages with `safety.mode: auto` are refused."""
    limits: RunLimits = RunLimits()


class PublicKey(PolicyModel):
    """A key whose signatures count."""

    name: PolicyName
    public_key: str = Field(min_length=1, max_length=10_000)
    """PEM, as in cosign.pub."""
    not_before: Moment | None = None
    """Commands accepted earlier do not count as signed."""
    not_after: Moment | None = None
    """Nor do those accepted later."""


class CommandKey(PublicKey):
    """A key whose signatures prove who sent a command: ECDSA P-256 or P-384, or Ed25519."""

    requesters: Patterns
    """Who may send commands by it: `requested_by` must fit. One key is one person to the policy, whatever names it may
    use: it approves once, and never what it asked for itself."""


class CommandSignatures(PolicyModel):
    """How signatures of commands are looked at."""

    max_age: Annotated[Duration, Field(gt=0)] = 86_400.0
    """How long after its signature a command may be taken (seconds, or 30m, 1d). Never more than WPK_STATE_RETENTION,
    after which the agent would no longer know that it was taken before."""


class Signatures(PolicyModel):
    """How signatures are looked at."""

    key_types: tuple[KeyType, ...] = Field(default=("ecdsa-p256",), min_length=1)
    """The types that keys may have. The default is what `cosign generate-key-pair` makes."""
    low_s: bool = False
    """true: of the two ECDSA signatures that each one makes, only that with the small s is taken. cosign and openssl
    give either; `wpk sign` and `wpk sign --attach` give the small one."""


class PolicyFile(PolicyModel):
    """The whole file."""

    version: Literal[1]
    """Of this format."""
    rules: tuple[Rule, ...] = Field(default=(), max_length=1000)
    requirements: tuple[Requirement, ...] = Field(default=(), max_length=1000)
    commands: tuple[CommandRule, ...] | None = Field(default=None, max_length=1000)
    """Who may approve, reject, cancel and undo. Without it everybody may (approve and reject: within `approvers`); with
    it nobody whom no entry lets, but for the approvers that requirements name, who may approve and reject."""
    keys: tuple[PublicKey, ...] = Field(default=(), max_length=100)
    signatures: Signatures = Signatures()
    command_keys: tuple[CommandKey, ...] = Field(default=(), max_length=100)
    command_signatures: CommandSignatures = CommandSignatures()

    @model_validator(mode="after")
    def _names_are_unique(self) -> PolicyFile:
        for what, named in (
            ("rules, requirements and commands", (*self.rules, *self.requirements, *(self.commands or ()))),
            ("keys", self.keys),
            ("command_keys", self.command_keys),
        ):
            names = [each.name for each in named]
            doubles = sorted({name for name in names if names.count(name) > 1})
            if doubles:
                raise ValueError(f"two {what} have the name {doubles[0]}; the trail names them, so make it different")
        return self
