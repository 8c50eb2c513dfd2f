"""The journal of finished grains: what it promises after a crash."""

from __future__ import annotations

import hashlib
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.adapters.hub_cache import ModelFolder
from agent.execute.fetch_blob import GRAIN_BYTES, GrainRecorder, Part, Piece
from agent.execute.fetch_hash import Buffers, Hasher
from agent.model.catalog import RepositoryFile
from tests.fakes.page_cache import can_drop, resident_bytes

CONTENT = bytes(range(256)) * (3 * GRAIN_BYTES // 256) + b"tail"
FILE = RepositoryFile("weights", len(CONTENT), hashlib.sha256(CONTENT).hexdigest())


def found_in(top: Path) -> Part:
    """As a fetch into the cache ``top`` finds it."""
    folder = ModelFolder(top, "acme/tiny")
    folder.blobs.mkdir(parents=True, exist_ok=True)
    return Part.found(folder, FILE)


def blobs_in(top: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in ModelFolder(top, "acme/tiny").blobs.iterdir()}


def with_grains(top: Path, *grains: int) -> Part:
    """A part left behind with these grains written and recorded."""
    part = found_in(top)
    part.open()
    buffer = Buffers().take()
    for grain in grains:
        start, end = part.span(grain)
        buffer[: end - start] = CONTENT[start:end]
        part.write(start, buffer[: end - start])
    part.record(grains)
    part.close()
    return part


def test_recorded_grains_are_found_again(tmp_path: Path) -> None:
    with_grains(tmp_path, 0, 3)
    found = found_in(tmp_path)
    assert (found.done, found.done_bytes) == ({0, 3}, GRAIN_BYTES + 4)
    assert found.missing(2 * GRAIN_BYTES) == [Piece(GRAIN_BYTES, 3 * GRAIN_BYTES)]


def test_a_line_that_a_crash_cut_short_does_not_count(tmp_path: Path) -> None:
    part = with_grains(tmp_path, 0)
    with part.journal_path.open("a") as journal:
        journal.write("1")  # the beginning of "12"
    found = found_in(tmp_path)
    assert found.done == {0}
    found.open()
    found.close()
    assert found_in(tmp_path).done == {0}


def test_what_was_written_counts_in_the_same_boot_before_it_is_synced(tmp_path: Path) -> None:
    """After kill -9 the kernel has it still; after power loss only what was synced is sure to be there."""
    with_grains(tmp_path, 0)
    part = found_in(tmp_path)
    part.open()
    part.note_written(2)
    part.close()
    assert found_in(tmp_path).done == {0, 2}
    this_boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    part.journal_path.write_text(part.journal_path.read_text().replace(this_boot, "another-boot"))
    assert found_in(tmp_path).done == {0}


def test_a_journal_without_its_part_file_says_nothing(tmp_path: Path) -> None:
    part = with_grains(tmp_path, 0, 1)
    part.path.unlink()
    assert found_in(tmp_path).done == set()


def test_a_part_of_another_length_is_not_gone_on_with(tmp_path: Path) -> None:
    part = with_grains(tmp_path, 0, 1)
    with part.path.open("ab") as stream:
        stream.write(b"more")
    assert found_in(tmp_path).done == set()


@pytest.mark.parametrize("noise", ["", "warmslice-grains 9 1 1\n0\n", "\0\0\0\n1\n", "99\n-1\nx\n"])
def test_a_journal_that_is_not_ours_says_nothing(noise: str, tmp_path: Path) -> None:
    part = with_grains(tmp_path, 0)
    part.journal_path.write_text(noise)
    assert found_in(tmp_path).done == set()


def publish(part: Part) -> bool:
    """As a fetch does it once every grain is there."""
    hasher = Hasher(Buffers(), 1, 2)
    part.open()
    assert hasher.finished(part)
    hasher.stop()
    return part.publish()


def test_a_whole_part_gets_its_name_and_leaves_nothing_behind(tmp_path: Path) -> None:
    with_grains(tmp_path, 0, 1, 2, 3)
    assert publish(found_in(tmp_path))
    assert blobs_in(tmp_path) == {FILE.blob: CONTENT}


def test_a_part_with_wrong_bytes_is_thrown_away(tmp_path: Path) -> None:
    with_grains(tmp_path, 0, 1, 2)  # the last grain is recorded, but was never written
    part = found_in(tmp_path)
    part.open()
    part.record([3])
    assert not publish(part)
    assert blobs_in(tmp_path) == {}


@given(
    size=st.integers(0, 40 * GRAIN_BYTES),
    done=st.sets(st.integers(0, 39)),
    longest=st.integers(GRAIN_BYTES, 16 * GRAIN_BYTES),
)
def test_missing_pieces_and_finished_grains_are_the_whole_file(size: int, done: set[int], longest: int) -> None:
    part = Part.found(ModelFolder(Path("/nowhere"), "acme/tiny"), RepositoryFile("f", size, "0" * 64))
    part.done = {grain for grain in done if grain < part.grains}
    pieces = part.missing(longest)
    assert sum(p.end - p.start for p in pieces) + part.done_bytes == size
    assert all(0 < p.end - p.start <= longest and p.start % GRAIN_BYTES == 0 for p in pieces)
    assert all(a.end <= b.start for a, b in pairwise(pieces))


PIECES = [memoryview(CONTENT)[grain * GRAIN_BYTES :][:GRAIN_BYTES] for grain in range(4)]


@settings(max_examples=25)  # a grain that is let go was waited for
@given(order=st.permutations(range(4)), most_kept=st.integers(1, 4), earlier=st.integers(0, 3))
def test_in_whatever_order_grains_come_the_hash_is_that_of_the_content(
    order: list[int], most_kept: int, earlier: int
) -> None:
    """However few of them may wait in memory, and with the first ones from an earlier fetch."""
    with TemporaryDirectory() as folder:
        part = with_grains(Path(folder), *order[:earlier])
        part.open()
        buffers = Buffers()
        hasher = Hasher(buffers, most_kept, 2)
        recorder = GrainRecorder(hasher.grown)
        hasher.follow(part)
        for grain in order[earlier:]:
            buffer, content = buffers.take(), PIECES[grain]
            buffer[: len(content)] = content
            part.write(grain * GRAIN_BYTES, buffer[: len(content)])
            hasher.keep(part, grain, buffer)
            recorder.finished(part, grain)
        recorder.flush()
        assert hasher.finished(part)
        recorder.stop()
        hasher.stop()
        assert part.publish()
        assert blobs_in(Path(folder)) == {FILE.blob: CONTENT}


def test_what_an_earlier_fetch_left_is_hashed_as_the_disk_has_it(tmp_path: Path) -> None:
    """Bytes that went wrong there."""
    part = with_grains(tmp_path, 0, 1, 2, 3)
    with part.path.open("r+b") as stream:
        stream.seek(GRAIN_BYTES + 5)
        stream.write(b"!")
    assert not publish(found_in(tmp_path))


def test_after_wrong_bytes_the_hash_begins_anew(tmp_path: Path) -> None:
    part = found_in(tmp_path)
    for content in (b"\0" * len(CONTENT), CONTENT):
        part.open()
        with part.path.open("r+b") as stream:
            stream.write(content)
        part.record(range(part.grains))
        assert publish(part) == (content == CONTENT)


def test_a_grain_is_claimed_once(tmp_path: Path) -> None:
    """One that an earlier fetch wrote never, until the part was thrown away."""
    part = with_grains(tmp_path, 0)
    found = found_in(tmp_path)
    assert [found.claim(0), found.claim(1), found.claim(1)] == [False, True, False]
    part.discard()
    assert part.claim(0)


def test_a_hasher_that_is_stopped_leaves_the_rest(tmp_path: Path) -> None:
    part = with_grains(tmp_path, 0)
    part.open()
    hasher = Hasher(Buffers(), 1, 2)
    hasher.stop()
    assert not hasher.finished(part)
    part.close()


def test_a_published_blob_leaves_no_pages_behind(tmp_path: Path) -> None:
    """Those of serving pods are not pushed out."""
    if not can_drop(tmp_path):
        pytest.skip("files in this folder are in memory")
    with_grains(tmp_path, 0, 1, 2, 3)
    assert publish(found_in(tmp_path))
    assert resident_bytes(ModelFolder(tmp_path, "acme/tiny").blob(FILE.blob)) == 0
