"""Which revisions go so that a model fits: never one that is held, never one too many."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain, combinations

from hypothesis import given
from hypothesis import strategies as st

from agent.model.cache import CachedModel
from agent.model.catalog import CatalogModel
from agent.model.revision import UNFINISHED, PodText, Revision, RevisionKey
from agent.plan.room import holders, make_room, old_revisions

NOW = 1_000_000.0
MODEL = CatalogModel("m", "org/m")


def revision(
    repository: str = "org/m", commit: str = "a", used: float = NOW - 100, parts: tuple[str, ...] = (), **blobs: int
) -> Revision:
    return Revision(RevisionKey(repository, commit), {**blobs, **dict.fromkeys(parts, 10)}, used)


@dataclass(frozen=True)
class Case:
    """Some revisions, what holds some of them, and how much has to be free."""

    revisions: tuple[Revision, ...]
    held: dict[RevisionKey, str]
    needed: int

    def freed(self, going: tuple[RevisionKey, ...]) -> int:
        """The slow way: what is on disk before and after."""
        return self._on_disk(self.revisions) - self._on_disk(tuple(r for r in self.revisions if r.key not in going))

    @staticmethod
    def _on_disk(revisions: tuple[Revision, ...]) -> int:
        return sum({(r.key.repository, b): size for r in revisions for b, size in r.blobs.items()}.values())


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Blobs of a repository have one size in whatever revision; commits share some of them."""
    sizes = {name: draw(st.integers(0, 50)) for name in "vwxyz"}
    keys = [RevisionKey(f"org/{r}", f"{c}") for r in "mn" for c in range(3)]
    chosen = draw(st.lists(st.sampled_from(keys), unique=True, max_size=6))
    revisions = tuple(
        Revision(
            key, {name: sizes[name] for name in draw(st.sets(st.sampled_from("vwxyz")))}, draw(st.floats(0.0, NOW))
        )
        for key in chosen
    )
    held = {key: "held" for key in draw(st.sets(st.sampled_from(keys))) if key in chosen}
    return Case(revisions, held, draw(st.integers(0, 150)))


@given(case=cases(), rate=st.sampled_from([None, 1.0, 1e9]))
def test_enough_goes_and_no_more_and_nothing_that_is_held(case: Case, rate: float | None) -> None:
    """Compared with every other choice that there is."""
    room = make_room(case.revisions, case.held, case.needed, NOW, rate)
    gone = tuple(going.key for going in room.going)
    free = [r.key for r in case.revisions if r.key not in case.held]
    possible = case.freed(tuple(free))
    assert not set(gone) & set(case.held)
    if possible < case.needed:
        assert (gone, room.short_bytes) == ((), case.needed - possible)
        return
    assert room.short_bytes == 0
    assert sum(going.freed_bytes for going in room.going) == case.freed(gone) >= case.needed
    fewer = chain.from_iterable(combinations(gone, count) for count in range(len(gone)))
    assert all(case.freed(subset) < case.needed for subset in fewer)


@given(case=cases())
def test_no_blob_goes_that_a_revision_which_stays_has(case: Case) -> None:
    room = make_room(case.revisions, case.held, case.needed, NOW)
    gone = {going.key for going in room.going}
    stays = {(r.key.repository, blob) for r in case.revisions if r.key not in gone for blob in r.blobs}
    goes = [(going.key.repository, blob) for going in room.going for blob in going.blobs]
    assert not stays & set(goes)
    assert len(goes) == len(set(goes))


def test_of_two_alike_the_one_goes_that_was_not_used_for_longer() -> None:
    old, new = revision("org/old", used=NOW - 5000, x=10), revision("org/new", used=NOW - 50, x=10)
    (going,) = make_room([new, old], {}, 10, NOW).going
    assert (going.key, going.because) == (old.key, "was not in use for 83 minutes")


def test_one_that_turns_out_not_to_be_needed_is_let_off() -> None:
    """The small one is chosen first, and then the large one alone would do."""
    small, large = revision("org/small", used=0.0, x=10), revision("org/large", used=NOW - 10, x=1000)
    assert [going.key for going in make_room([small, large], {}, 500, NOW).going] == [large.key]


def test_what_revisions_share_is_free_once_all_of_them_go() -> None:
    one, two = revision(commit="1", shared=1000), revision(commit="2", shared=1000, own=1)
    room = make_room([one, two], {}, 900, NOW)
    assert {going.key: going.freed_bytes for going in room.going} in (
        {one.key: 0, two.key: 1001},
        {two.key: 1, one.key: 1000},
    )


def test_where_nothing_can_go_it_is_said_what_holds_the_room() -> None:
    one, two = revision("org/one", x=10), revision("org/two", x=20)
    room = make_room([one, two], {one.key: "pinned", two.key: "open in a process"}, 5, NOW)
    assert room.short_bytes == 5
    assert room.held == ((two.key, 20, "open in a process"), (one.key, 10, "pinned"))


def held(*revisions: Revision, pods: tuple[PodText, ...] | None = (), pinned: bool = False) -> list[str | None]:
    here = {"m": CachedModel("a", 1, 1, None)}
    pins = [(CatalogModel("p", "org/p"), "a")] if pinned else []
    found = holders(revisions, here, [MODEL], pins, pods, {RevisionKey("org/open", "a")})
    return [found.get(r.key) for r in revisions]


def test_whoever_uses_a_revision_holds_it() -> None:
    pod = PodText("ml/llm-0", "vllm serve org/served --port 8000")
    asked = [revision(f"org/{name}") for name in ("m", "p", "served", "open", "other")]
    assert held(*asked, pods=(pod,), pinned=True) == [
        "wanted on this node",
        "pinned",
        "named by pod ml/llm-0",
        "open in a process",
        None,
    ]


def test_a_pod_that_mounts_the_folder_of_a_model_holds_it_too() -> None:
    pod = PodText("ml/llm-0", "/var/lib/warmslice/hub/models--org--served")
    assert held(revision("org/served"), pods=(pod,)) == ["named by pod ml/llm-0"]


def test_what_a_fetch_has_left_unfinished_is_held_while_the_model_is_wanted() -> None:
    assert held(revision(commit=UNFINISHED), revision("org/other", UNFINISHED)) == ["wanted on this node", None]


def test_while_the_pods_of_the_node_are_not_known_nothing_goes() -> None:
    assert held(revision("org/other"), pods=None) == ["perhaps used by a pod: those of this node are not known"]


def test_of_earlier_revisions_those_used_last_are_kept() -> None:
    now, old, older = revision(commit="a"), revision(commit="b", used=50.0, x=1), revision(commit="c", used=10.0, y=2)
    here = {"m": CachedModel("a", 1, 1, None)}
    going = old_revisions([now, old, older], {now.key: "wanted on this node"}, here, [MODEL], 1)
    assert [(one.key, one.freed_bytes, one.reason) for one in going] == [(older.key, 2, "old")]


def test_earlier_revisions_stay_until_the_wanted_one_is_complete() -> None:
    now, old = revision(commit="a"), revision(commit="b", x=1)
    here = {"m": CachedModel("a", 1, 0, "config.json is missing")}
    assert old_revisions([now, old], {}, here, [MODEL], 0) == ()
