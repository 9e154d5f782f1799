"""NVML through libnvidia-ml.so.1 itself, for a process that never uses CUDA."""
import ctypes
import os


def chosen_gpu():
    """The first of CUDA_VISIBLE_DEVICES, a number or a UUID, else number 0."""
    return os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0].strip() or "0"


def open_device(gpu):
    """(call(function's name, arguments...), the device); OSError: NVML can't, which call() says
    as well."""
    nvml = ctypes.CDLL("libnvidia-ml.so.1")

    def call(name, *arguments):
        function = getattr(nvml, name, None)
        if function is None:
            raise OSError(f"{name}: this NVML lacks it")
        status = function(*arguments)
        if status != 0:
            raise OSError(f"{name}: NVML error {status}")

    device = ctypes.c_void_p()
    call("nvmlInit_v2")
    if gpu.isdigit():
        call("nvmlDeviceGetHandleByIndex_v2", ctypes.c_uint(int(gpu)), ctypes.byref(device))
    else:
        call("nvmlDeviceGetHandleByUUID", gpu.encode(), ctypes.byref(device))
    return call, device
