"""Imports aiohttp without the certificate authorities of this machine.

It reads them when it is imported: 2.5 MB in every process, and there are two on every node. An agent asks servers that have an
authority of their own (the API server) or none; who asks another reads them itself. The process that fetches models, which
needs them, does not import this. Where aiohttp is there already, nothing happens.
"""

import os

_PLACES = ("SSL_CERT_FILE", "SSL_CERT_DIR")

_before = {name: os.environ.get(name) for name in _PLACES}
os.environ.update(dict.fromkeys(_PLACES, os.devnull))
try:
    import aiohttp.connector  # noqa: F401
finally:
    for _name, _value in _before.items():
        if _value is None:
            del os.environ[_name]
        else:
            os.environ[_name] = _value
