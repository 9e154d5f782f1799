"""What an engine that starts is told while a neighbour works: the neighbour's pools don't count."""
import time
import unittest

from servers import MIB, Servers

# As an engine's start-up does: it looks at the free memory, in the middle of whatever happens.
LOOK = '''
import ctypes, sys, time
cuda = ctypes.CDLL("libcuda.so.1")
context, free, total = ctypes.c_void_p(), ctypes.c_size_t(), ctypes.c_size_t()
assert cuda.cuInit(0) == 0
assert cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0) == 0
assert cuda.cuCtxSetCurrent(context) == 0
print("ready", flush=True)
seen, end = [], time.time() + float(sys.argv[1])
while time.time() < end:
    assert cuda.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total)) == 0
    seen.append(free.value)
    time.sleep(0.001)
print(len(seen), min(seen), max(seen), flush=True)
'''
# One handle of 32 MiB is counted before it is made and after it is released.
LARGEST_HANDLE = 32 * MIB


class PrivateView(Servers):
    MEMORY = 4096 * MIB

    def look(self, seconds):
        return self.start([seconds], {"idle_timeout": '"60s"'}, command=["python3", "-c", LOOK],
                          KVSHIM_SIM_GPU=self.gpu, KVSHIM_SIM_MEMORY=self.MEMORY)

    def test_a_neighbours_burst_takes_nothing_from_what_an_engine_sees_at_its_start(self):
        neighbour = self.server(["--requests", 12], {"idle_timeout": '"300ms"'})
        neighbour.burst(0)
        time.sleep(1.5)  # idle: its pages are in host memory
        for number in range(1, 4):
            looking = self.look(2)
            self.assertEqual(looking.stdout.readline().strip(), "ready")
            self.assertIsNotNone(neighbour.burst(number))
            answers = looking.communicate()[0].split()
            count, least, most = (int(each) for each in answers)
            self.assertGreater(count, 50)
            self.assertLessEqual(most - least, LARGEST_HANDLE)
        neighbour.close()


if __name__ == "__main__":
    unittest.main()
