"""What crosses the GPU's PCIe, by NVML's counters (newer GPUs have them; not the simulator).

They count bytes in 32 bits, which 64 GB/s go round in 67 ms (measured on an H200: 4 GiB, copied in 78
ms, counted 320 MiB, and the driver's protocol adds 8 % to a copy's bytes). So a process of its own
looks at them all the time: this one. It prints "counts", then for each line of its input the bytes to
the GPU and from it since its start, and the longest time between two looks since the last line (ms); it
ends with its input, so with its parent.
"""
import ctypes
import os
import select
import sys
import time

from nvml import chosen_gpu, open_device

TO_GPU, FROM_GPU = 198, 197  # NVML_FI_DEV_PCIE_COUNT_RX_BYTES, ..._TX_BYTES
PERIOD = 0.01  # seconds; a look takes 0.3 ms
WRAP = 1 << 32


class FieldValue(ctypes.Structure):
    """nvmlFieldValue_t."""
    _fields_ = [("field", ctypes.c_uint), ("scope", ctypes.c_uint), ("time", ctypes.c_longlong),
                ("latency", ctypes.c_longlong), ("type", ctypes.c_uint), ("status", ctypes.c_uint),
                ("value", ctypes.c_ulonglong)]


def counters():
    """A function that reads (to the GPU, from the GPU), each modulo 2^32; OSError: nobody counts."""
    call, device = open_device(chosen_gpu())

    def read():
        values = (FieldValue * 2)(FieldValue(field=TO_GPU), FieldValue(field=FROM_GPU))
        call("nvmlDeviceGetFieldValues", device, ctypes.c_int(2), values)
        if any(value.status != 0 for value in values):
            raise OSError("this GPU does not count what crosses PCIe")
        return [value.value % WRAP for value in values]
    return read


def main():
    read = counters()
    last, sums = read(), [0, 0]
    looked, latest = time.monotonic(), 0
    print("counts", flush=True)
    while True:
        asked = select.select([sys.stdin], [], [], PERIOD)[0]
        now = read()
        latest = max(latest, time.monotonic() - looked)
        looked = time.monotonic()
        sums = [total + (new - old) % WRAP for total, new, old in zip(sums, now, last)]
        last = now
        if asked:
            if not sys.stdin.readline():
                return
            print(*sums, int(latest * 1000), flush=True)
            latest = 0


if __name__ == "__main__":
    try:
        main()
    except (BrokenPipeError, KeyboardInterrupt):
        os._exit(0)
    except OSError as problem:
        sys.exit(f"pcie_watch: {problem}")
