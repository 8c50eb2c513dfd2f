"""A simulated kubelet: registers a node, runs its pods, hands out devices and serves the PodResources API."""
