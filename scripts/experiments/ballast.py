"""Holds GPU memory, so that others find a small GPU.

usage: ballast.py POOLS_MIB
Takes plain device memory until POOLS_MIB are free beyond what pools leave free, prints "holds N MiB,
pools may take P MiB", and keeps it until its standard input ends. Speaks only libcuda.so.1; must not be
preloaded.
"""
import ctypes
import sys

MIB = 1 << 20
PIECES = (1024 * MIB, 64 * MIB, 2 * MIB)


class Driver:
    def __init__(self):
        self.library = ctypes.CDLL("libcuda.so.1")

    def __getattr__(self, name):
        function = getattr(self.library, name)

        def call(*arguments):
            status = function(*arguments)
            if status != 0:
                raise OSError(f"{name}: CUDA error {status}")
        return call


def for_pools(driver):
    """Free bytes beyond those that pools never take: max(512 MiB, 1 %), as docs/sharing.md says."""
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    driver.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total))
    return free.value - max(512 * MIB, total.value // 100)


def fill(driver, leave):
    """Largest pieces first; a piece that the driver refuses is tried smaller."""
    held = 0
    for piece in PIECES:
        while for_pools(driver) >= leave + piece:
            address = ctypes.c_uint64()
            try:
                driver.cuMemAlloc_v2(ctypes.byref(address), ctypes.c_size_t(piece))
            except OSError:
                break
            held += piece
    return held


def main():
    driver, device, context = Driver(), ctypes.c_int(), ctypes.c_void_p()
    driver.cuInit(0)
    driver.cuDeviceGet(ctypes.byref(device), 0)
    driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), device)
    driver.cuCtxSetCurrent(context)
    held = fill(driver, int(float(sys.argv[1]) * MIB))
    print(f"holds {held // MIB} MiB, pools may take {for_pools(driver) // MIB} MiB", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    try:
        main()
    except (OSError, IndexError, ValueError) as problem:
        sys.exit(f"ballast: {problem}")
