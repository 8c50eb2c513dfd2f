"""A Kubernetes cluster for development and tests: API server, scheduler, controllers and simulated kubelets.

With ``--dra`` nodes offer their GPUs through NVIDIA's DRA driver: ResourceSlices and claims in place of the device
plugin's extended resources.

Everything speaks the real protocols (HTTP with JSON, gRPC over a Unix socket), so that ``kubectl`` and any client
library work against it unchanged. Objects live in memory and are gone when the process ends.
"""
