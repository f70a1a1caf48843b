"""The k8s adapter: checks a config, makes its action, undoes what an action captured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from pydantic import BaseModel

from consumer.adapters.k8s import config as configs
from consumer.adapters.k8s import facts
from consumer.adapters.k8s.actions.create import Create
from consumer.adapters.k8s.actions.delete import Delete
from consumer.adapters.k8s.actions.drain import Drain
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
from consumer.adapters.k8s.configs_jobs import JobConfig
from consumer.adapters.k8s.configs_metrics import MetricsConfig
from consumer.adapters.k8s.configs_nodes import CordonConfig, DrainConfig, UncordonConfig
from consumer.adapters.k8s.prometheus import Prometheus
from consumer.adapters.k8s.undo import Undo
from consumer.errors import ConfigError
from consumer.ports import Action, Facts, JsonObject, Plan, Scope, StepContext
from consumer.workflow import values
from schemas.failure import Problem


class K8sAdapter:
    """Steps of the type k8s, all on one cluster. Connects with the first step that needs it."""

    name = "k8s"

    def __init__(self, cluster: Cluster, prometheus: Prometheus | None = None) -> None:
        self._cluster = cluster
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
        return self._actions[type(bound)](cluster=self._cluster, config=bound)

    def facts(self, config: JsonObject, scope: Scope) -> Sequence[Facts]:
        """What the step touches, for the policy."""
        return [facts.of(config, scope)]

    async def plan_undo(self, record: JsonObject, step: StepContext) -> Plan:
        return await Undo(self._cluster, step, dry_run=True).plan(record)

    async def undo(self, record: JsonObject, step: StepContext) -> JsonObject:
        return await Undo(self._cluster, step, dry_run=False).run(record)

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
}
