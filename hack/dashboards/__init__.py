"""Grafana's dashboards, written as data: ``python -m hack.dashboards`` makes the files in manifests/observability/dashboards."""
