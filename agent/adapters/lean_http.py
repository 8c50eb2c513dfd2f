"""Imported before aiohttp, this leaves out what HTTP would cost an agent in memory, in both processes on every node.

aiohttp reads the certificate authorities of the machine when it is imported: 2.5 MB. An agent asks servers that have an
authority of their own (the API server) or none; who asks another reads them itself. The process that fetches models, which
needs them, does not import this. Where aiohttp is there already, nothing happens.

asyncio holds a buffer of 256 KB for each TLS connection, and an agent has three; what comes over them is small.
"""

import asyncio.sslproto
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

asyncio.sslproto.SSLProtocol.max_size = 32 * 1024
