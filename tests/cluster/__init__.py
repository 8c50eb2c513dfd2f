"""Whole stories of nodes with simulated GPUs, told on any cluster that a kubeconfig leads to."""
