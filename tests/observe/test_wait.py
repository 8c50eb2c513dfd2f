"""What an answer asks us to wait."""

from __future__ import annotations

import pytest

from agent.model.wait import wait_asked

NOW = 1_792_566_000.0  # Wed, 21 Oct 2026 07:00:00 GMT


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"Retry-After": "7"}, 7.0),
        ({"Retry-After": " 7 "}, 7.0),
        ({"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}, 1680.0),
        ({"Retry-After": "Wed, 21 Oct 2026 06:00:00 GMT"}, 0.0),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "-1"}, None),
        ({"Retry-After": "\u0667"}, None),
        ({"RateLimit": '"api";r=0;t=123'}, 123.0),
        ({"RateLimit": '"api";r=12;t=123'}, None),
        ({"RateLimit": '"api";r=0;t=12, "resolvers";r=0;t=99, "pages";r=3;t=300'}, 99.0),
        ({"RateLimit": "nonsense"}, None),
        ({"Retry-After": "7", "RateLimit": '"api";r=0;t=123'}, 7.0),
        ({"Retry-After": "soon", "RateLimit": '"api";r=0;t=123'}, 123.0),
    ],
)
def test_the_wait_that_is_asked_for(headers: dict[str, str], seconds: float | None) -> None:
    assert wait_asked(headers, NOW) == seconds
