"""The k8s adapter: checks a config, makes its action, undoes what an action captured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from pydantic import BaseModel

from consumer.adapters.k8s import config as configs
from consumer.adapters.k8s import extent, facts, preflight, private, undokey
from consumer.adapters.k8s.actions.apply import Apply
from consumer.adapters.k8s.actions.create import Create
from consumer.adapters.k8s.actions.delete import Delete
from consumer.adapters.k8s.actions.drain import Drain
from consumer.adapters.k8s.actions.each import Each, EachConfig
from consumer.adapters.k8s.actions.job import Job
from consumer.adapters.k8s.actions.logs import Logs
from consumer.adapters.k8s.actions.metrics import Metrics
from consumer.adapters.k8s.actions.nodes import Cordon
from consumer.adapters.k8s.actions.patches import Mark, Patch
from consumer.adapters.k8s.actions.reads import Events, Get
from consumer.adapters.k8s.actions.restart import Restart
from consumer.adapters.k8s.actions.rollback import Rollback
from consumer.adapters.k8s.actions.scale import Scale
from consumer.adapters.k8s.actions.wait import Wait
from consumer.adapters.k8s.client import Cluster
from consumer.adapters.k8s.configs_base import ActionConfig
from consumer.adapters.k8s.configs_changes import ApplyConfig
from consumer.adapters.k8s.configs_jobs import JobConfig
from consumer.adapters.k8s.configs_metrics import MetricsConfig
from consumer.adapters.k8s.configs_nodes import CordonConfig, DrainConfig, UncordonConfig
from consumer.adapters.k8s.impersonation import ForRequester, acting_for
from consumer.adapters.k8s.prometheus import Prometheus
from consumer.adapters.k8s.undo import Undo
from consumer.errors import ConfigError, PermanentError
from consumer.ports import Action, Facts, Intention, JsonObject, Plan, Scope, StepContext
from consumer.workflow import values
from consumer.workflow.limits import Extent
from schemas.failure import Problem


class K8sAdapter:
    """Steps of the type k8s, all on one cluster. Connects with the first step that needs it."""

    name = "k8s"

    def __init__(self, cluster: Cluster, prometheus: Prometheus | None = None, *, impersonate: bool = False) -> None:
        """`impersonate`: steps act in the cluster as who asked for them."""
        self._cluster = cluster
        self._impersonate = impersonate
        self._actions: dict[type[ActionConfig], Callable[..., Action]] = {
            **_ACTIONS,
            MetricsConfig: partial(Metrics, prometheus=prometheus),
        }

    @property
    def config_model(self) -> type[BaseModel]:
        return configs.K8sConfig

    def check(self, config: JsonObject, scope: Scope) -> Sequence[Problem]:
        wrong = configs.wrong_action(config)
        if wrong is not None:
            return [wrong]
        full = configs.complete(config, scope)
        model = configs.MODELS[str(full["action"])]
        return [*configs.conflicts(full), *values.check_config(model, full, scope)]

    def prepare(self, config: JsonObject, scope: Scope) -> Action:
        wrong = configs.wrong_action(config)
        if wrong is not None:
            raise ConfigError([wrong])
        full = configs.complete(config, scope)
        problems = configs.conflicts(full)
        if problems:
            raise ConfigError(problems)
        bound = values.bind(configs.MODELS[str(full["action"])], full, scope)
        one = self._actions[type(bound)]
        if isinstance(bound, _KEEPING):
            one = partial(one, private=private.holds_secret(full, scope))
        make: Callable[..., Action] = partial(one, config=bound)
        if isinstance(bound, EachConfig) and bound.selector is not None:
            make = partial(Each, config=bound, one=one)
        return ForRequester(self._cluster, make) if self._impersonate else make(cluster=self._cluster)

    def facts(self, config: JsonObject, scope: Scope) -> Sequence[Facts]:
        """What the step touches, for the policy."""
        return facts.of(config, scope)

    def extent(self, config: JsonObject, scope: Scope) -> Extent:
        """How far the step reaches, for the package's limits."""
        return extent.extent(config, scope)

    def undeclared(self, config: JsonObject, scope: Scope, declared: Sequence[str], *, undone: bool) -> list[str]:
        return preflight.undeclared(config, scope, declared, undone=undone)

    async def preflight(self, steps: Sequence[Intention], requested_by: str | None) -> list[Problem]:
        try:
            cluster = self._cluster_for(requested_by)
        except PermanentError as error:
            return [Problem(path="requested_by", message=str(error))]
        return [*await preflight.Preflight(cluster).check(steps), *await undokey.check(cluster, steps)]

    async def plan_undo(self, record: JsonObject, step: StepContext) -> Plan:
        return await Undo(self._cluster_for(step.requested_by), step, dry_run=True).plan(record)

    async def undo(self, record: JsonObject, step: StepContext) -> JsonObject:
        return await Undo(self._cluster_for(step.requested_by), step, dry_run=False).run(record)

    def _cluster_for(self, requested_by: str | None) -> Cluster:
        """As who asked sees it. Raises PermanentError where that can't be told."""
        return acting_for(self._cluster, requested_by) if self._impersonate else self._cluster

    async def aclose(self) -> None:
        await self._cluster.aclose()


#: What each config's action is made by, from the cluster and the config.
_ACTIONS: Mapping[type[ActionConfig], Callable[..., Action]] = {
    configs.LogsConfig: Logs,
    configs.EventsConfig: Events,
    configs.GetConfig: Get,
    configs.RestartConfig: Restart,
    configs.ScaleConfig: Scale,
    configs.WaitConfig: Wait,
    configs.RollbackConfig: Rollback,
    configs.CreateConfig: Create,
    configs.DeleteConfig: Delete,
    configs.PatchConfig: Patch,
    configs.AnnotateConfig: partial(Mark, part="annotations"),
    configs.LabelConfig: partial(Mark, part="labels"),
    CordonConfig: Cordon,
    UncordonConfig: Cordon,
    DrainConfig: Drain,
    JobConfig: Job,
    MetricsConfig: Metrics,
    ApplyConfig: Apply,
}
#: Actions whose undo records hold values of their config.
_KEEPING = (ApplyConfig, configs.PatchConfig, configs.AnnotateConfig, configs.LabelConfig)
