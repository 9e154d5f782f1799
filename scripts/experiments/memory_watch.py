"""GPU memory in use, every 20 ms, from a process that never uses CUDA: lines "time bytes".

usage: memory_watch.py [MILLISECONDS] [--ctypes]
Ends with its parent. NVML through pynvml where it is there (unless --ctypes), else through
libnvidia-ml.so.1 itself. The GPU is the first of CUDA_VISIBLE_DEVICES, else number 0.
"""
import ctypes
import os
import sys
import time

from nvml import chosen_gpu, open_device


class Memory(ctypes.Structure):
    """nvmlMemory_t: version 1, bytes."""
    _fields_ = [("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong),
                ("used", ctypes.c_ulonglong)]


def pynvml_reader(gpu):
    import pynvml
    pynvml.nvmlInit()
    device = (pynvml.nvmlDeviceGetHandleByIndex(int(gpu)) if gpu.isdigit()
              else pynvml.nvmlDeviceGetHandleByUUID(gpu))
    return lambda: pynvml.nvmlDeviceGetMemoryInfo(device).used


def ctypes_reader(gpu):
    (call, device), memory = open_device(gpu), Memory()

    def read():
        call("nvmlDeviceGetMemoryInfo", device, ctypes.byref(memory))
        return memory.used
    return read


def reader(through_ctypes):
    if not through_ctypes:
        try:
            return pynvml_reader(chosen_gpu())
        except ImportError:
            pass
    return ctypes_reader(chosen_gpu())


def main():
    numbers = [word for word in sys.argv[1:] if word.isdigit()]
    period = (int(numbers[0]) if numbers else 20) / 1000
    read, parent = reader("--ctypes" in sys.argv), os.getppid()
    due = time.monotonic()
    while os.getppid() == parent:
        print(f"{time.time():.3f} {read()}", flush=True)
        due = max(due + period, time.monotonic())
        time.sleep(max(0.0, due - time.monotonic()))


if __name__ == "__main__":
    try:
        main()
    except (BrokenPipeError, KeyboardInterrupt):
        os._exit(0)
    except (OSError, ValueError) as problem:
        sys.exit(f"memory_watch: {problem}")
