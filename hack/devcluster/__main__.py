"""``python -m hack.devcluster``: a development cluster until it is told to stop."""

from hack.devcluster.cluster import main

if __name__ == "__main__":
    raise SystemExit(main())
