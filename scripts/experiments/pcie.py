"""What crosses the GPU's PCIe, by NVML's counters (newer GPUs have them; not the simulator)."""
import ctypes
import os

TO_GPU, FROM_GPU = 198, 197  # NVML_FI_DEV_PCIE_COUNT_RX_BYTES, ..._TX_BYTES
MIB = 1 << 20


class FieldValue(ctypes.Structure):
    """nvmlFieldValue_t."""
    _fields_ = [("field", ctypes.c_uint), ("scope", ctypes.c_uint), ("time", ctypes.c_longlong),
                ("latency", ctypes.c_longlong), ("type", ctypes.c_uint), ("status", ctypes.c_uint),
                ("value", ctypes.c_ulonglong)]


class PcieCounters:
    def __init__(self):
        self._nvml, self._device = None, ctypes.c_void_p()
        gpu = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0].strip() or "0"
        try:
            nvml = ctypes.CDLL("libnvidia-ml.so.1")
            if nvml.nvmlInit_v2() != 0:
                return
            found = (nvml.nvmlDeviceGetHandleByIndex_v2(int(gpu), ctypes.byref(self._device))
                     if gpu.isdigit()
                     else nvml.nvmlDeviceGetHandleByUUID(gpu.encode(), ctypes.byref(self._device)))
            if found == 0 and hasattr(nvml, "nvmlDeviceGetFieldValues"):
                self._nvml = nvml
        except (OSError, AttributeError):
            pass

    def read(self):
        """(to the GPU, from the GPU) in MiB since some moment; None where nobody counts."""
        if self._nvml is None:
            return None
        values = (FieldValue * 2)(FieldValue(field=TO_GPU), FieldValue(field=FROM_GPU))
        if self._nvml.nvmlDeviceGetFieldValues(self._device, 2, values) != 0:
            return None
        if any(value.status != 0 for value in values):
            return None
        return tuple(value.value / MIB for value in values)
