"""Utilization per GPU instance, as GPM tells it on Hopper and later."""

from math import nan
from subprocess import CalledProcessError
from typing import Any

import pynvml
import pytest

from tests.contract.nvml_session import Session

A100 = "A100-SXM4-40GB"
on = pytest.mark.parametrize


class TestGpm:
    METRICS = {1: 0.5, 2: 0.4, 3: 0.3, 5: 0.2, 10: 0.1}

    def sample(self, session: Session, instance_id: int) -> Any:
        """Of an instance, later than the one before."""
        session.node.run("pass", "0.2")
        return pynvml.nvmlGpmMigSampleGet(session.gpu, instance_id, pynvml.nvmlGpmSampleAlloc())

    def of_the_whole(self, session: Session) -> list[Any]:
        """Two samples of the GPU, one after the other."""
        samples = [pynvml.nvmlGpmSampleAlloc() for _ in range(2)]
        for sample in samples:
            session.node.run("pass", "0.2")
            pynvml.nvmlGpmSampleGet(session.gpu, sample)
        return samples

    def metrics(self, older: Any, newer: Any, *ids: int) -> list[Any]:
        request = pynvml.c_nvmlGpmMetricsGet_t()
        request.version = pynvml.NVML_GPM_METRICS_GET_VERSION
        request.numMetrics = len(ids)
        request.sample1, request.sample2 = older, newer
        for position, metric in enumerate(ids):
            request.metrics[position].metricId = metric
        pynvml.nvmlGpmMetricsGet(request)
        return list(request.metrics[: len(ids)])

    def test_utilization_is_integrated_between_two_samples(self, session: Session) -> None:
        _, _, device = session.create_slice("1g.10gb", 0)
        names = ("--graphics", "--sm", "--occupancy", "--tensor", "--dram")
        words = [word for name, ratio in zip(names, self.METRICS.values(), strict=True) for word in (name, str(ratio))]
        session.node.run("util", "--device", pynvml.nvmlDeviceGetUUID(device), *words)
        older, newer = self.sample(session, 7), self.sample(session, 7)
        told = self.metrics(older, newer, *self.METRICS)
        assert [metric.value for metric in told] == pytest.approx([100 * ratio for ratio in self.METRICS.values()])
        pynvml.nvmlGpmSampleFree(older)
        pynvml.nvmlGpmSampleFree(newer)

    def test_samples_of_two_lives_of_an_instance_do_not_mix(self, session: Session) -> None:
        instance = session.create("1g.10gb", 0)
        older = self.sample(session, 7)
        pynvml.nvmlGpuInstanceDestroy(instance)
        session.create("1g.10gb", 0)
        newer = self.sample(session, 7)
        with pytest.raises(pynvml.NVMLError_InvalidArgument):
            self.metrics(older, newer, 1)

    def test_each_metric_has_its_own_result(self, session: Session) -> None:
        session.create("1g.10gb", 0)
        older, newer = self.sample(session, 7), self.sample(session, 7)
        results = [metric.nvmlReturn for metric in self.metrics(older, newer, 1, 60)]
        assert results == [pynvml.NVML_SUCCESS, pynvml.NVML_ERROR_NOT_SUPPORTED]

    def test_a_sample_that_comes_first_but_is_younger_makes_a_load_look_full(self, session: Session) -> None:
        """Seen on H100 and H200 with driver 580.159.04: nothing in the answer says that it is wrong."""
        _, _, device = session.create_slice("1g.10gb", 0)
        session.node.run("util", "--device", pynvml.nvmlDeviceGetUUID(device), "--sm", "0.25", "--dram", "0.1")
        older, newer = self.sample(session, 7), self.sample(session, 7)
        told = self.metrics(newer, older, 1, 2, 10)
        assert [row.nvmlReturn for row in told] == [pynvml.NVML_SUCCESS] * 3
        assert [row.value for row in told] == [0, 100, pytest.approx(nan, nan_ok=True)]

    def test_samples_that_are_too_close_tell_nothing_of_a_load(self, session: Session) -> None:
        """Seen 20 ms apart, as above."""
        _, _, device = session.create_slice("1g.10gb", 0)
        session.node.run("util", "--device", pynvml.nvmlDeviceGetUUID(device), "--sm", "0.25", "--dram", "0.1")
        older, newer = self.sample(session, 7), pynvml.nvmlGpmSampleAlloc()
        pynvml.nvmlGpmMigSampleGet(session.gpu, 7, newer)
        told = self.metrics(older, newer, 2, 10)
        assert [(row.nvmlReturn, row.value) for row in told] == [(0, 0), (0, pytest.approx(nan, nan_ok=True))]

    @on("session", [A100], indirect=True)
    def test_ampere_has_no_gpm(self, session: Session) -> None:
        session.create("1g.5gb", 0)
        with pytest.raises(pynvml.NVMLError_NotSupported):
            self.sample(session, 7)

    LINKS = {20: 100.0, 21: 200.0, 60: 300.0, 61: 400.0}

    def test_every_documented_metric_of_an_instance_has_a_value_but_those_of_links(self, session: Session) -> None:
        _, _, device = session.create_slice("1g.10gb", 0)
        kinds = ("graphics", "sm", "occupancy", "integer", "tensor", "dfma", "hmma", "dmma", "imma", "dram")
        ratios = {f"--{kind}": (place + 1) / 20 for place, kind in enumerate((*kinds, "fp64", "fp32", "fp16"))}
        words = [word for option, ratio in ratios.items() for word in (option, str(ratio))]
        session.node.run("util", "--device", pynvml.nvmlDeviceGetUUID(device), *words)
        told = self.metrics(self.sample(session, 7), self.sample(session, 7), *range(1, 14), *self.LINKS)
        assert [row.value for row in told[:13]] == pytest.approx([100 * ratio for ratio in ratios.values()])
        assert {row.nvmlReturn for row in told[:13]} == {pynvml.NVML_SUCCESS}
        assert {row.nvmlReturn for row in told[13:]} == {pynvml.NVML_ERROR_NOT_SUPPORTED}

    @on(
        ("session", "links"),
        [
            ("H100-80GB-SXM", {"PCIe", "NVLink"}),
            ("H100-80GB-PCIe", {"PCIe"}),
            ("GH200-144GB", {"PCIe", "NVLink", "C2C"}),
            ("B200-180GB", {"PCIe", "NVLink"}),
            ("RTX-PRO-6000-96GB", {"PCIe"}),
        ],
        indirect=["session"],
    )
    def test_a_metric_of_links_that_a_board_has_not_is_refused_alone(self, session: Session, links: set[str]) -> None:
        metrics = {"PCIe": [20, 21], "NVLink": [60, 61, 62, 97], "C2C": [100, 101, 102, 103, 104, 143]}
        for kind, ids in metrics.items():
            told = self.metrics(*self.of_the_whole(session), 1, *ids)
            expected = pynvml.NVML_SUCCESS if kind in links else pynvml.NVML_ERROR_NOT_SUPPORTED
            assert [row.nvmlReturn for row in told] == [pynvml.NVML_SUCCESS] + [expected] * len(ids), kind

    @on("session", ["GH200-144GB"], indirect=True)
    def test_a_single_link_has_its_share(self, session: Session) -> None:
        words = ("--nvlink-rx", "1800", "--nvlink-tx", "900", "--c2c-tx", "100", "--c2c-rx", "50")
        session.node.run("util", "--device", pynvml.nvmlDeviceGetUUID(session.gpu), *words)
        ids = {60: 1800, 61: 900, 62: 100, 63: 50, 96: 100, 97: 50, 100: 100, 101: 50, 102: 100, 103: 50}
        ids |= {104: 10, 105: 5, 106: 10, 107: 5, 142: 10, 143: 5}
        told = self.metrics(*self.of_the_whole(session), *ids)
        assert [row.value for row in told] == pytest.approx(list(ids.values()))
        beyond = self.metrics(*self.of_the_whole(session), 144, 159)
        assert {row.nvmlReturn for row in beyond} == {pynvml.NVML_ERROR_NOT_SUPPORTED}

    def test_a_rate_on_links_that_are_not_there_cannot_be_set(self, session: Session) -> None:
        with pytest.raises(CalledProcessError):
            session.node.run("util", "--device", pynvml.nvmlDeviceGetUUID(session.gpu), "--c2c-tx", "1")

    def test_links_are_told_of_the_whole_gpu_in_mib_per_second(self, session: Session) -> None:
        words = ("--pcie-tx", "100", "--pcie-rx", "200", "--nvlink-rx", "300", "--nvlink-tx", "400")
        session.node.run("util", "--device", pynvml.nvmlDeviceGetUUID(session.gpu), *words)
        told = self.metrics(*self.of_the_whole(session), *self.LINKS)
        assert [row.value for row in told] == pytest.approx(list(self.LINKS.values()))

    def test_a_gpu_is_as_busy_as_its_instances_by_their_share(self, session: Session) -> None:
        _, _, device = session.create_slice("3g.40gb", 0)
        session.node.run("util", "--device", pynvml.nvmlDeviceGetUUID(device), "--sm", "0.5")
        [told] = self.metrics(*self.of_the_whole(session), pynvml.NVML_GPM_METRIC_SM_UTIL)
        assert told.value == pytest.approx(100 * 0.5 * 4 / 8)
