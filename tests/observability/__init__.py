"""What manifests/observability ships, run by the programs that will run it."""
