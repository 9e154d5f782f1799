"""What the experiments need on this machine: programs, models, contestants, facts."""
import argparse
import dataclasses
import importlib.util
import json
import os
import pathlib
import shutil
import subprocess
import sys
import time

from processes import plain_environment

HERE = pathlib.Path(__file__).resolve().parent
SHAPES = {"A": "qwen2.5-0.5b", "B": "qwen2.5-1.5b"}
SIMULATED_BYTES = 2 << 30

RULES = """idle_timeout = "{idle}s"
min_size = "32MiB"
arena_size = "64GiB"
[[rules]]
action = "allow"
min_size = "32MiB"
"""


@dataclasses.dataclass
class Contestant:
    name: str
    label: str
    elastic: bool = False
    wrapper: list = dataclasses.field(default_factory=list)
    environment: dict = dataclasses.field(default_factory=dict)
    options: list = dataclasses.field(default_factory=list)


def has_gpu():
    return os.path.exists("/dev/nvidia0") or shutil.which("nvidia-smi") is not None


def find_one(folder, name):
    """A file of the build folder; tests have fakes of them."""
    found = sorted(f for f in pathlib.Path(folder).rglob(name)
                   if f.is_file() and "CMakeFiles" not in f.parts
                   and (name == "kvshim_engine" or "tests" not in f.relative_to(folder).parts))
    return found[0].resolve() if found else None


def default_build():
    for preset in ("release", "debug"):
        folder = HERE.parent.parent / "build" / preset
        if folder.exists():
            return folder
    return None


def make_settings(arguments, plan, work):
    settings = argparse.Namespace(plan=plan, site=None, models={}, vllm_options=[], vllm=None,
                                  engine=None, kvcached=None)
    settings.mode, settings.kind = arguments.mode, arguments.engine
    build = pathlib.Path(arguments.build).resolve() if arguments.build else default_build()
    wrapper = find_one(build, "kvwrap") if build else shutil.which("kvwrap")
    if not wrapper:
        sys.exit("run_all: no kvwrap: name a build folder with --build, or install kvshim")
    settings.shim = dict(item.split("=", 1) for item in arguments.set)
    library = find_one(build, "libkvshim.so") if build else None
    if library:
        settings.shim["KVSHIM_LIBRARY"] = str(library)
    settings.driver_environment, settings.engine_environment = {}, {}
    settings.watch = [sys.executable, str(HERE / "memory_watch.py"), "20"]
    if arguments.mode == "simulator":
        simulator = build / "tests" / "simulator" if build else None
        if not simulator or not (simulator / "kvshim_memory_watch").exists():
            sys.exit("run_all: the simulator needs a build folder (--build) with its tests")
        settings.driver_environment = {
            "LD_LIBRARY_PATH": str(simulator), "KVSHIM_SIM_GPU": f"experiments-{os.getpid()}",
            "KVSHIM_SIM_MEMORY": str(SIMULATED_BYTES)}
        settings.watch = [str(simulator / "kvshim_memory_watch"), "20"]
        settings.shim["KVSHIM_SEGMENT_DIR"] = str(work)  # a simulated GPU's goes with it
    if arguments.engine == "small":
        settings.engine = find_one(build, "kvshim_engine") if build else None
        if not settings.engine:
            sys.exit("run_all: no kvshim_engine under --build")
        config = work / "kvshim.toml"
        config.write_text(RULES.format(idle=plan.idle_timeout))
        settings.shim["KVSHIM_CONFIG"] = str(config)
        settings.engine_environment = dict(settings.driver_environment)
    else:
        prepare_vllm(arguments, settings)
    settings.contestants = make_contestants(arguments, settings, [str(wrapper)])
    return settings


def prepare_vllm(arguments, settings):
    """Unpacks vLLM and writes the models, all at the same time."""
    site = pathlib.Path(arguments.site) if arguments.site else None
    if arguments.archive and not site:
        site = pathlib.Path("/root/v/site")
    settings.site = site
    settings.vllm = site / "bin" / "vllm" if site else shutil.which("vllm")
    cache = pathlib.Path(arguments.cache_folder).expanduser()
    settings.engine_environment = {
        "PYTHONUNBUFFERED": "1", "VLLM_USE_FLASHINFER_SAMPLER": "0", "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "VLLM_CACHE_ROOT": str(cache)}
    if site:
        settings.engine_environment["PYTHONPATH"] = str(site)
    settings.cache = cache
    settings.vllm_options = list(arguments.vllm_option)
    if arguments.tutorial_flags:
        settings.vllm_options += ["--enforce-eager", "--no-enable-prefix-caching"]
    steps = []
    if arguments.archive and not (site / "vllm").exists():
        site.parent.mkdir(parents=True, exist_ok=True)
        steps.append(f"xz -T0 -dc '{arguments.archive}' | tar -C '{site.parent}' -x")
    if arguments.cache and not cache.exists():
        cache.mkdir(parents=True)
        steps.append(f"xz -T0 -dc '{arguments.cache}' | tar -C '{cache}' -x")
    run_all_steps([["bash", "-c", f"set -o pipefail; {step}"] for step in steps], {})
    makers = []
    for name, given in (("A", arguments.model_a), ("B", arguments.model_b)):
        settings.models[name] = given or f"/root/m/{SHAPES[name]}"
        config = pathlib.Path(settings.models[name]) / "config.json"
        if arguments.make_model and not config.exists():
            makers.append([sys.executable, arguments.make_model, settings.models[name], "--shape",
                           SHAPES[name], "--weights"])
    run_all_steps(makers, settings.engine_environment)
    if not settings.vllm or not pathlib.Path(settings.vllm).exists():
        sys.exit("run_all: no vllm on PATH; --site names the folder that it was installed to, "
                 "--archive a packed one, --engine small does without")


def run_all_steps(commands, environment):
    running = [subprocess.Popen(command, env={**plain_environment(), **environment})
               for command in commands]
    if any(step.wait(180) != 0 for step in running):
        sys.exit("run_all: preparing failed")


def kvcached_is_installed(settings):
    """Asked of the Python that the servers run in."""
    if settings.kind != "vllm":
        return False
    environment = {**plain_environment(), **settings.engine_environment}
    if settings.site:
        check = [sys.executable, "-c",
                 "import importlib.util, sys; sys.exit(not importlib.util.find_spec('kvcached'))"]
        return subprocess.run(check, env=environment, timeout=30, check=False).returncode == 0
    return importlib.util.find_spec("kvcached") is not None


def make_contestants(arguments, settings, wrapper):
    # On a busy machine a pause between two requests must not become idleness.
    light = {**settings.shim, "KVSHIM_IDLE_TIMEOUT": "3s"}
    contestants = {
        "elastic": Contestant("elastic", "kvshim", True, wrapper, settings.shim),
        "static": Contestant("static", "without"),
        # For light traffic: with cold rows, and when only what is idle is released.
        "cold": Contestant("cold", "kvshim, cold rows", True, wrapper,
                           {**light, "KVSHIM_COLD_AFTER": f"{settings.plan.cold_after}s"}),
        "warm": Contestant("warm", "kvshim, cold_after = 0", True, wrapper,
                           {**light, "KVSHIM_COLD_AFTER": "0s"}),
    }
    settings.kvcached = kvcached_is_installed(settings)
    if settings.kvcached and not arguments.no_kvcached:
        contestants["kvcached"] = Contestant(
            "kvcached", "kvcached", environment={"ENABLE_KVCACHED": "true",
                                                 "KVCACHED_AUTOPATCH": "1"},
            options=["--no-enable-prefix-caching"])
    return contestants


def machine_facts(settings):
    facts = {"time": time.strftime("%Y-%m-%d %H:%M:%S"), "python": sys.version.split()[0],
             "mode": settings.mode, "engine": settings.kind, "kvcached": settings.kvcached}
    if settings.kvcached is False:
        facts["kvcached_note"] = ("kvcached was not there" if settings.kind == "vllm"
                                  else "kvcached needs vLLM")
    if settings.mode == "simulator":
        return {**facts, "gpu": f"simulator, {SIMULATED_BYTES >> 20} MiB"}
    with_query = shutil.which("nvidia-smi")
    if with_query:
        asked = subprocess.run(
            [with_query, "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader",
             "--id=0"], capture_output=True, text=True, timeout=30, check=False)
        facts["gpu"] = asked.stdout.strip()
    for file in settings.site.glob("vllm-*.dist-info") if settings.site else []:
        facts["vllm"] = file.name.split("-")[1].removesuffix(".dist")
    facts["models"] = {name: str(folder) for name, folder in settings.models.items()}
    facts["vllm_options"] = settings.vllm_options
    return facts


def fingerprint(settings):
    """Two runs with the same one measured the same thing: what --resume goes by."""
    plan = dataclasses.asdict(settings.plan)
    plan.pop("start_seconds")
    shim = {name: value for name, value in settings.shim.items()
            if name not in ("KVSHIM_LIBRARY", "KVSHIM_CONFIG", "KVSHIM_SEGMENT_DIR")}
    return json.dumps([settings.mode, settings.kind, settings.vllm_options, shim, plan],
                      sort_keys=True)
