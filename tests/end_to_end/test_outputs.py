"""Outputs are the same as without the shim, and memory is given back."""
import itertools
import time
import unittest

from harness import Case, ON_GPU

SMALL = ["--layers", 3, "--pool-size", "64MiB", "--bursts", 3, "--requests", 3, "--tokens", 24,
         "--idle", 0.4]
# Under FIFO reuse these requests walk through the whole pool; no pause of theirs is idleness.
LIGHT = ["--layers", 3, "--pool-size", "64MiB", "--heads", 16, "--head-size", 256, "--bursts", 24,
         "--requests", 4, "--prefix", "--idle", 0.25]
# Bursts without a pause that read what earlier ones have left in other rows than those they write,
# and last long enough on a GPU, too, for it to be brought home (ReleaseSettings::short_spell).
BUSY = ["--layers", 3, "--pool-size", "64MiB", "--heads", 16, "--head-size", 256, "--bursts", 3,
        "--requests", 6, "--prompt", 64, "--tokens", 180, "--prefix", "--idle", 0.8, "--step", 0.01]


class Outputs(Case):
    def test_are_the_same_through_every_way_in(self):
        for entry, form in itertools.product(("linked", "dlsym", "getproc"), ([], ["--graphs"])):
            with self.subTest(entry=entry, form=form):
                run = self.assert_same([*SMALL, "--entry", entry, "--prefix", "--idle", 0.8, *form])
                self.assertEqual(len(run.device["pools"]), 0)  # freed at the end
                self.assertGreaterEqual(run.device["releases"], 3, run.log)
                self.assertGreater(run.device["dropped_fills"], 0)

    def test_are_the_same_when_idle_contents_are_disposable(self):
        for form in ([], ["--graphs"]):
            with self.subTest(form=form):
                self.assert_same([*SMALL, *form], {"contents": '"disposable"', "host_budget": "0"})

    def test_are_the_same_on_two_streams(self):
        for form in ([], ["--graphs"]):
            with self.subTest(form=form):
                self.assert_same([*SMALL, "--streams", 2, "--prefix", *form])

    def test_are_the_same_beside_a_kernel_that_no_profile_knows(self):
        run = self.assert_same([*SMALL, "--unknown", "--prefix"])
        self.assertTrue(run.report["unknown_kernels"])
        for kernel in run.report["unknown_kernels"]:
            self.assertIn(f"unknown kernel {kernel['name']} names", run.log)

    def test_are_the_same_whichever_free_block_comes_next(self):
        for order in ("fifo", "lifo"):
            with self.subTest(order=order):
                self.assert_same([*SMALL, "--order", order, "--prefix", "--graphs"])

    def test_are_the_same_without_read_ahead_and_without_restore(self):
        self.assert_same([*SMALL, "--prefix"], {"read_ahead_max": '"2MiB"'})
        self.assert_same([*SMALL, "--prefix"], {"restore_time": '"0s"'})

    def test_are_the_same_when_release_never_comes_to_rest(self):
        self.assert_same([*SMALL, "--prefix", "--bursts", 12, "--idle", 0.02],
                         {"idle_timeout": '"5ms"'})


class Memory(Case):
    def test_idle_contents_are_parked_and_counted(self):
        engine = self.start([*SMALL, "--bursts", 1, "--idle", 5])
        report = self.wait_for_report(engine.pid, lambda d: d["parked"] > 0 and d["resident"] == 0)
        device = report["devices"][0]
        self.assertEqual(device["parked"] + device["absent"], 3 * (64 << 20))
        self.assertEqual(self.finish(engine).status, 0)

    def light_traffic(self, cold_after, *more):
        """What was resident when it was last told, and the report at the end."""
        digests = self.static_digests([*LIGHT, *more])
        engine = self.start([*LIGHT, *more], {"idle_timeout": '"20s"', "cold_after": f'"{cold_after}"'})
        resident = 0
        while engine.poll() is None:
            try:
                report = self.report(engine.pid)
            except ValueError:
                continue
            if report and report["devices"] and report["devices"][0]["pools"]:
                resident = report["devices"][0]["resident"]
            time.sleep(0.05)
        run = self.finish(engine)
        self.assertEqual(run.status, 0, run.output + run.log)
        self.assertEqual(run.digests, digests, run.log)
        self.assertEqual(run.device["releases"], 0, "it was never idle")
        return resident, run.device

    def test_light_traffic_stays_small_with_cold_rows_and_grows_without(self):
        _, grown = self.light_traffic("0s")
        self.assertEqual(grown["parked_bytes_total"] + grown["cold_bytes_total"], 0)
        walked = grown["faults"]["granules"] * (2 << 20)
        self.assertGreater(walked, 96 << 20)
        self.assertEqual(grown["readers_answered"], 0)
        for form in ([], ["--graphs"]):
            with self.subTest(form=form):
                resident, device = self.light_traffic("200ms", *form)
                self.assertGreater(device["cold_bytes_total"] + device["moved_away_bytes"], 0)
                self.assertLess(resident, walked * 3 / 4)
                self.assertGreater(device["readers_answered"], 4)

    def test_what_is_read_comes_back_beside_work_without_pauses(self):
        options = {"idle_timeout": '"150ms"', "restore_time": '"0s"'}
        for form in ([], ["--graphs"]):
            with self.subTest(form=form):
                run = self.assert_same([*BUSY, *form], options)
                self.assertGreater(run.device["prefetched_bytes"], 0, run.log)
                faults = run.device["faults"]
                self.assertLessEqual(faults["swaps_of_moves_us"], faults["total_us"])
        run = self.assert_same(BUSY, {**options, "prefetch": "false"})
        self.assertEqual(run.device["prefetched_bytes"], 0)
        self.assertEqual(run.device["readers_answered"], 0)

    def test_disposable_contents_are_dropped_after_their_time(self):
        engine = self.start([*SMALL, "--bursts", 1, "--idle", 5],
                            {"contents": '"disposable"', "drop_after": '"200ms"'})
        self.wait_for_report(engine.pid, lambda d: d["dropped_bytes"] > 0 and d["parked"] == 0
                             and d["resident"] == 0)
        self.assertEqual(self.finish(engine).status, 0)

    def test_without_host_budget_contents_stay_and_it_is_said(self):
        run = self.assert_same([*SMALL, "--prefix"], {"host_budget": "0"})
        self.assertTrue(run.logged("host budget"))
        self.assertEqual(run.device["parked_bytes_total"], 0)

    def test_two_engines_sized_for_the_whole_gpu_share_it(self):
        size = ["--layers", 4, "--pool-size", "400MiB"] if not ON_GPU else SMALL[:4]
        rest = SMALL[4:]
        extra = {} if ON_GPU else {"KVSHIM_SIM_GPU": f"share-{self.folder.name}"}
        digests = self.static_digests([*size, *rest])
        pair = [self.start([*size, *rest], **extra) for _ in range(2)]
        for engine in pair:
            run = self.finish(engine)
            self.assertEqual(run.status, 0, run.output + run.log)
            self.assertEqual(run.digests, digests)

    @unittest.skipIf(ON_GPU, "needs a GPU of a chosen size")
    def test_rows_are_made_in_host_memory_when_the_gpu_is_full(self):
        # The floor of 512 MiB is never touched: nothing at all is left for pools.
        run = self.assert_same([*SMALL, "--prefix"], KVSHIM_SIM_MEMORY=400 << 20)
        self.assertGreater(run.device["faults"]["in_host_memory"], 0)
        self.assertTrue(run.logged("host memory"))

    @unittest.skipIf(ON_GPU, "needs a GPU of a chosen size")
    def test_a_pool_that_would_not_have_fitted_is_refused(self):
        arguments = ["--layers", 4, "--pool-size", "160MiB"]
        static = self.run_engine(arguments, preload=False, KVSHIM_SIM_MEMORY=512 << 20)
        elastic = self.run_engine(arguments, KVSHIM_SIM_MEMORY=512 << 20)
        self.assertNotEqual(static.status, 0)
        self.assertEqual(static.status, elastic.status)

    def test_an_engine_that_sizes_itself_gets_the_same_number_of_blocks(self):
        arguments = ["--layers", 2, "--utilization", 0.5, "--bursts", 1, "--tokens", 8]
        static = self.run_engine(arguments, preload=False)
        elastic = self.run_engine(arguments)
        self.assertEqual(static.output.splitlines()[0], elastic.output.splitlines()[0])
        self.assertEqual(static.digests, elastic.digests)


if __name__ == "__main__":
    unittest.main(verbosity=2)
