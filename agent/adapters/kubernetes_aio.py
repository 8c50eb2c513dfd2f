"""What is used of the client kubernetes.aio, and nothing that its packages bring along.

``kubernetes`` and ``kubernetes.aio`` import, when they are imported, the synchronous client's configuration (requests, oauthlib),
streams, the dynamic client and leader election; ``kubernetes.aio.config`` what reads a kubeconfig, and with that pydantic: 18 MB
of memory and 0.3 s (37.0.2), of which an agent in a pod uses nothing. So the packages stand here as they are found, with their
folders and without what their ``__init__`` does; what is in them is imported as ever. Who has imported them before keeps what it
has.
"""

import importlib.util
import sys

for _name in ("kubernetes", "kubernetes.aio", "kubernetes.aio.config"):
    if _name not in sys.modules:
        _spec = importlib.util.find_spec(_name)
        assert _spec is not None
        sys.modules[_name] = importlib.util.module_from_spec(_spec)
        _parent, _, _child = _name.rpartition(".")
        if _parent:
            setattr(sys.modules[_parent], _child, sys.modules[_name])

from kubernetes.aio.client.configuration import Configuration  # noqa: E402
from kubernetes.aio.client.rest import RESTClientObject  # noqa: E402
from kubernetes.aio.config.incluster_config import load_incluster_config  # noqa: E402

__all__ = ["Configuration", "RESTClientObject", "load_incluster_config", "load_kube_config"]


async def load_kube_config(path: str | None, configuration: Configuration) -> None:
    """From that file, else $KUBECONFIG. Exceptions of all kinds where that does not go. Imported when it is needed."""
    from kubernetes.aio.config import kube_config

    await kube_config.load_kube_config(config_file=path, client_configuration=configuration)
