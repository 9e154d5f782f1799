"""What crosses the GPU's PCIe, by NVML's counters (newer GPUs have them; not the simulator).

They count bytes in 32 bits, which 64 GB/s go round in 67 ms (measured on an H200: 4 GiB, copied in 78
ms, counted 320 MiB, and the driver's protocol adds 8 % to a copy's bytes). So a process of its own
looks at them all the time: this file as a program, which ends with its parent or its input.
"""
import ctypes
import os
import select
import subprocess
import sys
import threading

TO_GPU, FROM_GPU = 198, 197  # NVML_FI_DEV_PCIE_COUNT_RX_BYTES, ..._TX_BYTES
MIB = 1 << 20
PERIOD = 0.01  # seconds; a look takes 0.3 ms
WRAP = 1 << 32


class FieldValue(ctypes.Structure):
    """nvmlFieldValue_t."""
    _fields_ = [("field", ctypes.c_uint), ("scope", ctypes.c_uint), ("time", ctypes.c_longlong),
                ("latency", ctypes.c_longlong), ("type", ctypes.c_uint), ("status", ctypes.c_uint),
                ("value", ctypes.c_ulonglong)]


def counters():
    """A function that reads (to the GPU, from the GPU), each modulo 2^32; OSError: nobody counts."""
    nvml, device = ctypes.CDLL("libnvidia-ml.so.1"), ctypes.c_void_p()

    def call(name, *arguments):
        function = getattr(nvml, name, None)
        if function is None or function(*arguments) != 0:
            raise OSError(f"{name} does not answer")

    gpu = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0].strip() or "0"
    call("nvmlInit_v2")
    if gpu.isdigit():
        call("nvmlDeviceGetHandleByIndex_v2", ctypes.c_uint(int(gpu)), ctypes.byref(device))
    else:
        call("nvmlDeviceGetHandleByUUID", gpu.encode(), ctypes.byref(device))

    def read():
        values = (FieldValue * 2)(FieldValue(field=TO_GPU), FieldValue(field=FROM_GPU))
        call("nvmlDeviceGetFieldValues", device, ctypes.c_int(2), values)
        if any(value.status != 0 for value in values):
            raise OSError("this GPU does not count what crosses PCIe")
        return [value.value % WRAP for value in values]
    return read


class PcieWatch:
    """Sums since the start, from the process; None where nobody counts."""

    def __init__(self):
        self._process = subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE,
                                         stdout=subprocess.PIPE, text=True)
        self._lock = threading.Lock()
        if self._process.stdout.readline() != "counts\n":
            self.close()

    def read(self):
        """[to the GPU, from the GPU] in MiB."""
        with self._lock:
            if self._process is None:
                return None
            try:
                self._process.stdin.write("\n")
                self._process.stdin.flush()
                return [int(word) / MIB for word in self._process.stdout.readline().split()] or None
            except OSError:
                return None

    def close(self):
        process, self._process = self._process, None
        if process:
            process.kill()
            process.communicate()


def main():
    read = counters()
    last, sums = read(), [0, 0]
    print("counts", flush=True)
    while True:
        asked = select.select([sys.stdin], [], [], PERIOD)[0]
        now = read()
        sums = [total + (new - old) % WRAP for total, new, old in zip(sums, now, last)]
        last = now
        if asked:
            if not sys.stdin.readline():
                return
            print(*sums, flush=True)


if __name__ == "__main__":
    try:
        main()
    except (BrokenPipeError, KeyboardInterrupt):
        os._exit(0)
    except OSError as problem:
        sys.exit(f"pcie: {problem}")
