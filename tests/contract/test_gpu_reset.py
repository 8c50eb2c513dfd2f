"""``nvidia-smi --gpu-reset``: the one deed that NVML does not offer, by its exit status."""

from pathlib import Path

from tests.contract.nvml_session import Session
from tests.fakes.simgpu import H100, SimulatedGpus

A100 = "A100-SXM4-40GB"


class TestReset:
    """``nvidia-smi --gpu-reset -i`` by its exit status."""

    def reset(self, node: SimulatedGpus, which: str = "0") -> int:
        return node.nvidia_smi("--gpu-reset", "-i", which).returncode

    def test_a_reset_takes_the_instances_of_that_gpu_alone(self, tmp_path: Path) -> None:
        node = SimulatedGpus.create(tmp_path, f"{H100}:2", mig=True)
        node.nvidia_smi("mig", "-cgi", "9", "-C")
        assert self.reset(node, node.gpu_uuids()[1]) == 0
        assert [len(gpu["instances"]) for gpu in node.show()["gpus"]] == [1, 0]
        assert node.log()[-1]["function"] == "nvidia-smi --gpu-reset"

    def test_not_while_a_client_is_attached(self, session: Session) -> None:
        assert self.reset(session.node) == 255

    def test_not_in_a_guest(self, tmp_path: Path) -> None:
        node = SimulatedGpus.create(tmp_path, A100)
        node.run("virtualization", "--gpu", node.gpu_uuids()[0], "--kind", "passthrough")
        assert self.reset(node) == 3

    def test_not_without_the_right(self, tmp_path: Path) -> None:
        node = SimulatedGpus.create(tmp_path, A100)
        node.run("permission", "nobody")
        assert self.reset(node) == 4

    def test_not_of_a_gpu_that_is_not_there(self, tmp_path: Path) -> None:
        assert self.reset(SimulatedGpus.create(tmp_path, A100), "7") == 6

    def test_not_of_a_lost_gpu(self, tmp_path: Path) -> None:
        node = SimulatedGpus.create(tmp_path, f"{A100}:2")
        lost, _ = node.gpu_uuids()
        node.run("lost", "--gpu", lost)
        assert [self.reset(node, which) for which in (lost, "00000000:0F:00.0")] == [15, 15]
        assert self.reset(node, "0") == 0  # the next one, which has moved up

    def test_not_without_a_driver(self, tmp_path: Path) -> None:
        node = SimulatedGpus.create(tmp_path, A100)
        node.state.unlink()
        assert self.reset(node) == 9

    def test_all_of_a_list_or_none(self, tmp_path: Path) -> None:
        node = SimulatedGpus.create(tmp_path, f"{A100}:2")
        node.attach(node.gpu_uuids()[1])
        assert self.reset(node, "0,1") == 255
        assert node.log() == []

    def test_a_reset_and_a_reboot_are_in_the_log(self, tmp_path: Path) -> None:
        node = SimulatedGpus.create(tmp_path, A100)
        node.run("reset", "--gpu", node.gpu_uuids()[0])
        node.run("reboot")
        assert [(entry["function"], entry["gpu"]) for entry in node.log()] == [
            ("reset", node.gpu_uuids()[0]),
            ("reboot", ""),
        ]


class TestPeers:
    """GPUs joined by NVSwitches."""

    def board(self, directory: Path, fabric: str, *boards: str) -> SimulatedGpus:
        node = SimulatedGpus.create(directory, *(boards or (f"{A100}:4",)), mig=True)
        node.run("nvswitch", fabric)
        return node

    def reset(self, node: SimulatedGpus, *words: str) -> int:
        return node.nvidia_smi("--gpu-reset", *words).returncode

    def test_with_fabric_manager_each_is_reset_alone(self, tmp_path: Path) -> None:
        node = self.board(tmp_path, "managed")
        assert self.reset(node, "-i", "0") == 0

    def test_without_it_ampere_is_not_reset_alone(self, tmp_path: Path) -> None:
        node = self.board(tmp_path, "unmanaged")
        refused = node.nvidia_smi("--gpu-reset", "-i", "0,1,2")
        assert (refused.returncode, "connected to it by NVLink" in refused.stdout) == (3, True)
        assert node.log() == []

    def test_but_all_peers_in_one_command_are(self, tmp_path: Path) -> None:
        node = self.board(tmp_path, "unmanaged")
        assert self.reset(node, "-i", f"3,2,1,{node.gpu_uuids()[0]}") == 0
        assert self.reset(node) == 0  # without a list: every GPU
        assert len(node.log()) == 8

    def test_later_generations_are_reset_alone_without_it_too(self, tmp_path: Path) -> None:
        assert self.reset(self.board(tmp_path, "unmanaged", f"{H100}:2"), "-i", "0") == 0

    def test_a_card_without_nvlink_is_nobodys_peer(self, tmp_path: Path) -> None:
        node = self.board(tmp_path, "unmanaged", f"{A100}:2", "A30")
        assert self.reset(node, "-i", "2") == 0
        assert self.reset(node, "-i", "0,1") == 0

    def test_nor_is_one_that_fell_off_the_bus(self, tmp_path: Path) -> None:
        node = self.board(tmp_path, "unmanaged", f"{A100}:2")
        lost, left = node.gpu_uuids()
        node.run("lost", "--gpu", lost)
        assert self.reset(node, "-i", left) == 0

    def test_a_peer_in_use_keeps_all_from_being_reset(self, tmp_path: Path) -> None:
        node = self.board(tmp_path, "unmanaged", f"{A100}:2")
        node.attach(node.gpu_uuids()[1])
        assert self.reset(node, "-i", "0,1") == 255
        assert node.log() == []

    def test_show_draws_who_is_joined(self, tmp_path: Path) -> None:
        node = self.board(tmp_path, "unmanaged", A100, "A30", A100)
        first, _, last = node.gpu_uuids()
        assert node.run("show").splitlines()[0] == "NVSwitch  0--2  Fabric Manager does not run"
        shown = node.show()
        assert shown["nvswitch"] == "unmanaged"
        assert [gpu["peers"] for gpu in shown["gpus"]] == [[last], [], [first]]
