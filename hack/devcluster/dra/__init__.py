"""Dynamic Resource Allocation: claims on devices, decided as pure functions. Who writes what they decide: the
scheduler, ``controllers/resource_claims.py`` and ``kubelet/``.

Behaviour and wording are those of Kubernetes 1.34, with its partitionable devices switched on; device taints,
consumable capacity and binding conditions are left out.
"""
