"""Kinds of workloads that can serve models, and where in each the templates of its pods are. Data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class WorkloadKind:
    """``templates``: paths to pod templates (or, with ``bare``, to what has a pod's fields itself); ``*`` is each of a list.
    ``optional``: most clusters do not have it. Sources: the APIs' public definitions as of autumn 2026."""

    group: str
    version: str
    plural: str
    name: str
    templates: tuple[str, ...] = ("spec.template",)
    bare: tuple[str, ...] = ()
    optional: bool = True

    @property
    def path(self) -> str:
        """Of all of them, in every namespace."""
        return f"/apis/{self.group}/{self.version}/{self.plural}"


WORKLOADS: tuple[WorkloadKind, ...] = (
    WorkloadKind("apps", "v1", "deployments", "Deployment", optional=False),
    WorkloadKind("apps", "v1", "statefulsets", "StatefulSet", optional=False),
    WorkloadKind("batch", "v1", "jobs", "Job", optional=False),
    WorkloadKind(
        "leaderworkerset.x-k8s.io",
        "v1",
        "leaderworkersets",
        "LeaderWorkerSet",
        ("spec.leaderWorkerTemplate.leaderTemplate", "spec.leaderWorkerTemplate.workerTemplate"),
    ),
    WorkloadKind(
        "serving.kserve.io",
        "v1beta1",
        "inferenceservices",
        "InferenceService",
        (),
        ("spec.predictor", "spec.transformer"),
    ),
    WorkloadKind(
        "ray.io",
        "v1",
        "rayservices",
        "RayService",
        ("spec.rayClusterConfig.headGroupSpec.template", "spec.rayClusterConfig.workerGroupSpecs.*.template"),
    ),
    WorkloadKind(
        "ray.io", "v1", "rayclusters", "RayCluster", ("spec.headGroupSpec.template", "spec.workerGroupSpecs.*.template")
    ),
)
