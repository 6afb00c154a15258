"""GPU metrics from the driver (NVML), read at each scrape; nothing without a driver.

The GPU is identified by its UUID: CUDA_VISIBLE_DEVICES renumbers devices, NVML does not.
"""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pynvml
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from workers.contract.observability.metrics_server import counters, gauges

_WAIT_MILLISECONDS = 5000

log = logging.getLogger(__name__)

#: Metric name, help, and the function that reads it.
_READINGS: tuple[tuple[str, str, Callable[[Any], float]], ...] = (
    ("gdsr_gpu_utilization_ratio", "Share of time in which a kernel ran.",
     lambda gpu: pynvml.nvmlDeviceGetUtilizationRates(gpu).gpu / 100),
    ("gdsr_gpu_memory_used_bytes", "Used memory, of all processes.",
     lambda gpu: pynvml.nvmlDeviceGetMemoryInfo(gpu).used),
    ("gdsr_gpu_memory_total_bytes", "Total memory.",
     lambda gpu: pynvml.nvmlDeviceGetMemoryInfo(gpu).total),
    ("gdsr_gpu_temperature_celsius", "Temperature.",
     lambda gpu: pynvml.nvmlDeviceGetTemperature(gpu, pynvml.NVML_TEMPERATURE_GPU)),
    ("gdsr_gpu_power_watts", "Power draw.",
     lambda gpu: pynvml.nvmlDeviceGetPowerUsage(gpu) / 1000),
)  # fmt: skip


class GPUCollector(Collector):
    """Metrics of the GPU with this UUID, and its critical errors (Xid) since the start."""

    def __init__(self, uuid: str) -> None:
        self.uuid = uuid
        self.xid_errors = 0
        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError as failure:
            log.warning("no GPU metrics: %s", failure)
            self._present = False
            return
        self._present = True
        threading.Thread(target=self._count_xids, name="xid", daemon=True).start()

    def collect(self) -> Iterator[Metric]:
        if not self._present:
            return
        names, labels = ["gpu", "uuid"], ["", self.uuid]
        gpu = None
        with suppress(pynvml.NVMLError):
            gpu = pynvml.nvmlDeviceGetHandleByUUID(self.uuid)
            labels[0] = str(pynvml.nvmlDeviceGetIndex(gpu))
        is_up = bool(labels[0])
        about = "1 if the driver reports the GPU."
        yield gauges("gdsr_gpu_up", about, names, [(labels, float(is_up))])
        if not is_up:
            return
        about = "Critical errors reported by the driver."
        yield counters("gdsr_gpu_xid_errors", about, names, [(labels, self.xid_errors)])
        for name, about, read in _READINGS:
            try:
                value = read(gpu)
            except pynvml.NVMLError:
                continue  # not every GPU has every sensor
            yield gauges(name, about, names, [(labels, value)])

    def _count_xids(self) -> None:
        try:
            events = pynvml.nvmlEventSetCreate()
            gpu = pynvml.nvmlDeviceGetHandleByUUID(self.uuid)
            pynvml.nvmlDeviceRegisterEvents(gpu, pynvml.nvmlEventTypeXidCriticalError, events)
        except pynvml.NVMLError as failure:
            log.info("the driver does not report critical errors: %s", failure)
            return
        while True:
            try:
                event = pynvml.nvmlEventSetWait_v2(events, _WAIT_MILLISECONDS)
            except pynvml.NVMLError_Timeout:
                continue
            except pynvml.NVMLError as failure:
                log.warning("the driver stopped reporting critical errors: %s", failure)
                return
            self.xid_errors += 1
            log.error("the GPU reported Xid %d", event.eventData)
