"""A story, drawn as a whole and then played: what happens when is known before the agent begins."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import strategies as st

from agent.model import labels
from agent.model.errors import AgentError
from agent.model.mig import Gpu, GpuInstance
from agent.reconcile.partition import PartitionPass
from tests.fakes.world import Kill, Killed, Moment, NodeWorld, agent_on
from tests.scenario.laws.hardware import nodes
from tests.scenario.laws.judge import Judge
from tests.scenario.laws.tenants import STAYS, Tenants, settle_in, tenants
from tests.scenario.laws.weather import End, Event, Stage, begin, events
from tests.scenario.laws.wishes import Wish, wishes

PASSES_PER_WISH = 30
MOST_PASSES = 600


@dataclass(frozen=True)
class Beginning:
    """A node as it is found. ``guard``: an autoscaler's annotation that was there before. ``shy`` GPUs list no profiles while
    MIG is off."""

    gpus: tuple[Gpu, ...]
    deploy_labels: bool
    plugin: bool
    cordoned: bool
    guard: str
    shy: bool
    tenants: Tenants

    def world(self) -> NodeWorld:
        """The node before the first wish."""
        world = self.bare(self.gpus, self.deploy_labels, self.plugin)
        world.gpus.shy = set(world.gpus.gpus) if self.shy else set()
        if self.cordoned:
            world.cordon()
        if self.guard:
            world.annotate(sorted(labels.AUTOSCALER_GUARDS)[0], self.guard)
        settle_in(world, self.tenants)
        return world

    @staticmethod
    def bare(gpus: tuple[Gpu, ...], deploy_labels: bool, plugin: bool) -> NodeWorld:
        """The node without anybody."""
        return NodeWorld(*gpus, deploy_labels=deploy_labels, plugin=plugin)


@dataclass(frozen=True)
class Story:
    """``wishes`` come at these passes, ``kills`` one after the other: so many effects on, and when in it."""

    beginning: Beginning
    wishes: tuple[tuple[int, Wish], ...]
    events: tuple[Event, ...]
    kills: tuple[tuple[int, Moment], ...]

    def in_words(self) -> str:
        """For whoever has to find out why it ends wrong."""
        begun = self.beginning
        lines = [
            f"GPU {gpu.index} {gpu.name}, MIG {gpu.mig_enabled}: {' '.join(_in_words(i) for i in gpu.instances)}"
            for gpu in begun.gpus
        ]
        lines += [
            f"deploy labels {begun.deploy_labels}, plugin {begun.plugin}, cordoned {begun.cordoned}, guard {begun.guard!r}, "
            f"shy {begun.shy}",
            *map(str, begun.tenants.pods),
            f"strangers {begun.tenants.strangers}, ghosts {begun.tenants.ghosts}, budgets {begun.tenants.budgets}",
            *(f"before pass {at}: {dict(wish.labels)}" for at, wish in self.wishes),
            *map(str, self.events),
            f"kills {self.kills}",
        ]
        return "\n".join(lines)


def _in_words(instance: GpuInstance) -> str:
    held = "".join(f" {compute.uuid}" for compute in instance.compute)
    return f"{instance.shape or 'orphan ' + instance.profile}@{instance.placement} ({instance.id}{held})"


@st.composite
def beginnings(draw: st.DrawFn) -> Beginning:
    """Some node."""
    gpus = draw(nodes())
    deploy_labels = draw(st.booleans())
    # A node whose label promises a device plugin that never comes ends failed: another story.
    plugin = deploy_labels or draw(st.booleans())
    world = Beginning.bare(gpus, deploy_labels, plugin)
    return Beginning(
        gpus,
        deploy_labels,
        plugin,
        cordoned=draw(st.booleans()),
        guard=draw(st.sampled_from(("", "", "true", "false"))),
        shy=draw(st.integers(0, 3)) == 0,
        tenants=draw(tenants(world)),
    )


@st.composite
def stories(draw: st.DrawFn) -> Story:
    """Wishes come while earlier ones are still being worked on; half of the stories are calm."""
    beginning = draw(beginnings())
    people = beginning.tenants
    stays = frozenset(d for pod in people.pods if pod.kind.name.startswith(STAYS) for d in pod.devices)
    count = draw(st.sampled_from((1, 1, 2, 3)))
    moments = [0, *sorted(draw(st.lists(st.integers(0, PASSES_PER_WISH), min_size=count - 1, max_size=count - 1)))]
    calm = draw(st.booleans())
    happens = [] if calm else draw(st.lists(events(moments), min_size=1, max_size=6))
    kills = draw(st.lists(st.tuples(st.integers(0, 12), st.sampled_from(_MOMENTS)), max_size=2))
    wanted = [draw(wishes(beginning.gpus, stays | frozenset(people.ghosts))) for _ in moments]
    return Story(
        beginning,
        tuple(zip(moments, wanted, strict=True)),
        tuple(sorted(happens, key=lambda event: event.at)),
        tuple(kills),
    )


_MOMENTS: tuple[Moment, ...] = ("before", "after", "middle")


async def told(story: Story) -> str:
    """Play it to its end; what the end is."""
    return await _Play(story).to_its_end()


class _Play:
    def __init__(self, story: Story) -> None:
        self._story = story
        self._world = story.beginning.world()
        metadata = self._world.node["metadata"]
        self._stage = Stage(
            self._world,
            dict(metadata["labels"]),
            dict(metadata["annotations"]),
            bool(self._world.node["spec"].get("unschedulable")),
        )
        # What a shy GPU can be shows only when nobody is left on it; and who is leaving already may make room first.
        self._stage.upset = story.beginning.shy or any(pod.ending for pod in story.beginning.tenants.pods)
        self._judge = Judge(self._stage)
        self._kills = list(story.kills)
        self._ends: list[tuple[int, End]] = []
        self._agent = self._started()

    async def to_its_end(self) -> str:
        story = self._story
        last = max([at for at, _ in story.wishes] + [event.at + event.lasts for event in story.events])
        for number in range(last + 1):
            self._happens(number)
            await self._turn(5.0)
        self._all_is_quiet()
        calm = 0
        for _ in range(MOST_PASSES):
            before = dict(self._world.gpus.gpus)
            await self._turn(300.0)
            calm = calm + 1 if self._settled() and before == self._world.gpus.gpus else 0
            if calm == 3:
                return self._judge.verdict()
        raise AssertionError(f"it does not end: {self._world.reports[-1]} {self._world.node['metadata']}")

    def _happens(self, number: int) -> None:
        for at, wish in self._story.wishes:
            if at == number:
                for key in [
                    k for k in self._stage.labels if k == labels.CONFIG or k.endswith(labels.GPU_LAYOUT_SUFFIX)
                ]:
                    self._stage.label(key, None)
                for key, value in wish.labels.items():
                    self._stage.label(key, value)
                self._judge.wishes(wish)
        for ends, end in [one for one in self._ends if one[0] == number]:
            self._ends.remove((ends, end))
            end()
        for event in self._story.events:
            if event.at == number:
                self._ends.append((number + event.lasts, begin(event, self._stage)))

    def _all_is_quiet(self) -> None:
        for _, end in self._ends:
            end()
        for budget in self._world.budgets_list:
            budget["status"]["disruptionsAllowed"] = 99
        if self._stage.by_hand:
            # Who cuts GPUs by hand starts the device plugin anew: the agent does so only for the GPUs that it is asked for.
            self._world.restart_plugin()

    async def _turn(self, longest: float) -> None:
        """One pass, and the time until the next."""
        try:
            wait = await self._agent()
        except Killed:
            self._agent = self._started()
            wait = 1.0
        except AgentError:
            wait = 1.0
        self._judge.looks()
        self._world.tick(min(max(wait, 0.5), longest))
        self._stage.admit()

    def _started(self) -> PartitionPass:
        """A new process of the agent, and when it will die."""
        self._world.gpus.restarted()
        self._world.effects.kill = None
        if self._kills:
            ahead, moment = self._kills.pop(0)
            self._world.effects.kill = Kill(len(self._world.effects.names) + ahead, moment)
        return agent_on(self._world, sees=self._stage.sees, sees_pods=self._stage.sees_pods)[0]

    def _settled(self) -> bool:
        if not self._world.reports:
            return False
        report = self._world.reports[-1]
        ending = any("deletionTimestamp" in pod["metadata"] for pod in self._world.pods.values())
        return not self._stage.busy() and not ending and not report.error and report.waits_for in ("", "blocked")
