"""The control plane's times, those of a real one unless a test asks for shorter ones."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Timings:
    """In seconds. ``node_grace_s``: how long a node may stay silent (1.32 and later). ``pod_gc_quarantine_s``: how
    long a node must have been gone before its pods are collected."""

    node_grace_s: float = 50.0
    pod_gc_quarantine_s: float = 40.0
    first_retry_s: float = 1.0
    longest_retry_s: float = 900.0
    job_first_retry_s: float = 10.0
    job_longest_retry_s: float = 600.0
