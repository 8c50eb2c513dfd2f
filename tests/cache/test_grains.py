"""The journal of finished grains: what it promises after a crash."""

from __future__ import annotations

import hashlib
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.execute.fetch_blob import GRAIN_BYTES, Part, Piece, hash_buffer
from agent.execute.fetch_pool import longest_piece
from agent.model.catalog import RepositoryFile
from tests.fakes.page_cache import can_drop, resident_bytes

CONTENT = bytes(range(256)) * (3 * GRAIN_BYTES // 256) + b"tail"
FILE = RepositoryFile("weights", len(CONTENT), hashlib.sha256(CONTENT).hexdigest())


def with_grains(blobs: Path, *grains: int) -> Part:
    """A part left behind with these grains written and recorded."""
    part = Part.found(blobs, FILE)
    part.open()
    for grain in grains:
        part.write(grain * GRAIN_BYTES, memoryview(CONTENT[grain * GRAIN_BYTES :][:GRAIN_BYTES]))
    part.record(grains)
    part.close()
    return part


def test_recorded_grains_are_found_again(tmp_path: Path) -> None:
    with_grains(tmp_path, 0, 3)
    found = Part.found(tmp_path, FILE)
    assert (found.done, found.done_bytes) == ({0, 3}, GRAIN_BYTES + 4)
    assert found.missing(2 * GRAIN_BYTES) == [Piece(GRAIN_BYTES, 3 * GRAIN_BYTES)]


def test_a_line_that_a_crash_cut_short_does_not_count(tmp_path: Path) -> None:
    part = with_grains(tmp_path, 0)
    with part.journal_path.open("a") as journal:
        journal.write("1")  # the beginning of "12"
    found = Part.found(tmp_path, FILE)
    assert found.done == {0}
    found.open()
    found.close()
    assert Part.found(tmp_path, FILE).done == {0}


def test_a_journal_without_its_part_file_says_nothing(tmp_path: Path) -> None:
    part = with_grains(tmp_path, 0, 1)
    part.path.unlink()
    assert Part.found(tmp_path, FILE).done == set()


def test_a_part_of_another_length_is_not_gone_on_with(tmp_path: Path) -> None:
    part = with_grains(tmp_path, 0, 1)
    with part.path.open("ab") as stream:
        stream.write(b"more")
    assert Part.found(tmp_path, FILE).done == set()


@pytest.mark.parametrize("noise", ["", "warmslice-grains 9 1 1\n0\n", "\0\0\0\n1\n", "99\n-1\nx\n"])
def test_a_journal_that_is_not_ours_says_nothing(noise: str, tmp_path: Path) -> None:
    part = with_grains(tmp_path, 0)
    part.journal_path.write_text(noise)
    assert Part.found(tmp_path, FILE).done == set()


def test_a_whole_part_gets_its_name_and_leaves_nothing_behind(tmp_path: Path) -> None:
    with_grains(tmp_path, 0, 1, 2, 3)
    part = Part.found(tmp_path, FILE)
    part.open()
    assert part.publish()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {FILE.blob: CONTENT}


def test_a_part_with_wrong_bytes_is_thrown_away(tmp_path: Path) -> None:
    with_grains(tmp_path, 0, 1, 2)  # the last grain is recorded, but was never written
    part = Part.found(tmp_path, FILE)
    part.open()
    part.record([3])
    assert not part.publish()
    assert list(tmp_path.iterdir()) == []


@given(
    size=st.integers(0, 40 * GRAIN_BYTES),
    done=st.sets(st.integers(0, 39)),
    connections=st.integers(1, 16),
)
def test_missing_pieces_and_finished_grains_are_the_whole_file(size: int, done: set[int], connections: int) -> None:
    part = Part(Path("/nowhere"), RepositoryFile("f", size, "0" * 64))
    part.done = {grain for grain in done if grain < part.grains}
    longest = longest_piece(size, connections)
    pieces = part.missing(longest)
    assert sum(p.end - p.start for p in pieces) + part.done_bytes == size
    assert all(0 < p.end - p.start <= longest and p.start % GRAIN_BYTES == 0 for p in pieces)
    assert all(a.end <= b.start for a, b in pairwise(pieces))


BUFFER = hash_buffer()


def _hash_of(grains: int) -> str:
    return hashlib.sha256(CONTENT[: grains * GRAIN_BYTES]).hexdigest()


def test_the_hash_follows_the_grains_up_to_the_first_gap(tmp_path: Path) -> None:
    part = with_grains(tmp_path, 0, 2)
    part.open()
    assert part.hash_on(BUFFER) == _hash_of(1)
    part.write(GRAIN_BYTES, memoryview(CONTENT[GRAIN_BYTES:][:GRAIN_BYTES]))
    part.record([1])
    assert part.hash_on(BUFFER) == _hash_of(3)
    part.close()


def test_what_is_hashed_is_what_the_disk_keeps(tmp_path: Path) -> None:
    """Bytes that went wrong on their way to the disk, or there, after they came."""
    part = with_grains(tmp_path, 0, 1, 2, 3)
    part.open()
    part.write(GRAIN_BYTES + 5, memoryview(b"!"))
    assert not part.publish()


def test_after_wrong_bytes_the_hash_begins_anew(tmp_path: Path) -> None:
    part = Part.found(tmp_path, FILE)
    for content in (b"\0" * len(CONTENT), CONTENT):
        part.open()
        part.write(0, memoryview(content))
        part.record(range(part.grains))
        assert part.publish() == (content == CONTENT)


def test_a_stop_leaves_the_rest_of_the_hash_for_later(tmp_path: Path) -> None:
    part = with_grains(tmp_path, 0, 1, 2, 3)
    part.open()
    assert part.hash_on(BUFFER, lambda: True) == _hash_of(0)
    assert part.hash_on(BUFFER) == FILE.blob
    part.close()


def test_a_published_blob_leaves_no_pages_behind(tmp_path: Path) -> None:
    """Those of serving pods are not pushed out."""
    if not can_drop(tmp_path):
        pytest.skip("files in this folder are in memory")
    part = with_grains(tmp_path, 0, 1, 2, 3)
    part.open()
    assert resident_bytes(part.path) > 0
    assert part.publish()
    assert resident_bytes(tmp_path / FILE.blob) == 0
