#!/usr/bin/env python3
"""Everything that comes from the tables of entry points.

    exports      the exported wrappers (C++) and the linker's export map
    recorder     hooks that note their name and forward (for the resolver's tests)
    fake-driver  a libcuda.so.1 that notes what was called (for the same tests)
    check        coverage: every function of cuda.h is in one of the tables
    docs         docs/entry_points.md, written or (--check) compared

Reads entry_points.def and passed_through.def beside this file, and cuda.h after
the C preprocessor (with -D__CUDA_API_VERSION_INTERNAL: exact export names).
Needs nothing but Python 3.8.
"""

import argparse
import fnmatch
import pathlib
import re
import sys

HERE = pathlib.Path(__file__).resolve().parent
TABLE = HERE / "entry_points.def"
PASSED = HERE / "passed_through.def"
NVML = HERE / "nvml_entry_points.def"

ROLES = {
    "kManage": "manage",
    "kObserve": "observe",
    "kRefuse": "refuse",
    "kResolve": "resolve",
}
AREAS = {
    "kLifetime": "Life of the driver and of contexts",
    "kResolver": "Pointers to entry points",
    "kAllocation": "Allocation and freeing",
    "kQuery": "Address queries",
    "kSharing": "Sharing, and what only other kinds of memory can do",
    "kCopy": "Copies",
    "kFill": "Fills",
    "kStreamMemory": "Memory operations on streams",
    "kOpaque": "Addresses baked into opaque data",
    "kLaunch": "Launches",
    "kCapture": "Captures",
    "kStream": "Streams",
    "kGraph": "Graphs",
    "kModule": "Modules and libraries",
}

# These hooks are called whether or not the shim is active: cuInit wakes it up,
# and pointers are resolved before cuInit.
ALWAYS_HOOKED = {"cuInit", "cuGetProcAddress", "cuGetProcAddress_v2"}

# What can allocate, free, describe, share, write, launch or capture must be
# named one by one. By name, and by what it takes or gives.
NAMED_ONE_BY_ONE = re.compile(
    r"^cuMem|Alloc|Free|^cuPointer|^cuIpc|Export|Import|Memcpy|Memset|Launch|^cuParamSet|Capture"
    r"|Instantiate|^cuGraph(Add|Remove|Create|Clone|Destroy|Upload|Conditional)"
    r"|^cuGraph.*(SetParams|Update|SetEnabled|NodeSetAttribute|CopyAttributes)"
    r"|TensorMap|^cuTexObjectCreate|^cuTexRef(SetAddress|GetAddress|SetArray|SetMipmappedArray)(_|2D|$)"
    r"|^cuSurf(Object|Ref)(Create|SetArray)|^cuMulticast(Bind|Unbind|Create|Add)"
    r"|WriteValue|WaitValue|WaitEvent|BatchMemOp|Decompress|Mapped|MapResources|MapArray|SetMapFlags"
    r"|ExternalSemaphores|^cuStream(AddCallback|AttachMem|Destroy)|GetGlobal|GetManaged"
    r"|GetUnifiedFunction|^cuGetProcAddress|^cuCtx(Create|Destroy|Detach|.*PeerAccess|FromGreen)"
    r"|^cuDevicePrimaryCtx(Retain|Release|Reset)|^cuGreenCtx(Create|Destroy)$"
    r"|^cu(Module|Library)(Load|Unload)|^cuArray(3D)?Create|^cuMipmappedArray(Create|Destroy)"
    r"|^cuArrayDestroy|^cuCheckpointProcess(Checkpoint|Restore)|GraphMemTrim|RDMA")
TAKES_MEMORY = re.compile(
    r"\bCUdeviceptr(_v\d)?\b|\bCUmemGenericAllocationHandle\w*\b|\bCUDA_MEMCPY\w+|\bCUlaunchConfig\b"
    r"|\bCUmemDecompressParams\b|\bCUtensorMap\b")
# Reads a node's parameters, or computes from a launch's shape; exempt from the rule above.
ONLY_DESCRIBES = re.compile(r"^cuGraph\w*Get\w+$|^cuOccupancy")


class TableError(Exception):
    pass


def macro_rows(path, macro, fields):
    """The rows `macro(a, b, "text")` of a table, literals joined, #define'd texts resolved."""
    text = re.sub(r"^\s*//.*$", "", path.read_text(), flags=re.M)
    texts = dict(re.findall(r'^#define\s+(\w+)\s+"([^"]*)"\s*$', text, flags=re.M))
    text = re.sub(r"^#.*$", "", text, flags=re.M)
    rows = []
    for match in re.finditer(macro + r'\(((?:[^"()]|"[^"]*")*)\)', text):
        parts = re.findall(r'\s*((?:"[^"]*"\s*)+|[^,"]+)\s*(?:,|$)', match.group(1))
        parts = [part.strip() for part in parts]
        if len(parts) != fields:
            raise TableError(f"{path.name}: {macro}({match.group(1)}): {fields} fields expected")
        reason = parts[-1]
        if reason.startswith('"'):
            reason = "".join(re.findall(r'"([^"]*)"', reason))
        else:
            reason = texts.get(reason, reason)
        rows.append((*parts[:-1], reason))
    return rows


def entry_points():
    rows = macro_rows(TABLE, "KVSHIM_ENTRY_POINT", 4)
    for name, role, area, note in rows:
        if role not in ROLES or area not in AREAS or not note:
            raise TableError(f"{TABLE.name}: {name}: unknown role {role}, area {area}, or no note")
    return rows


def declarations(path):
    """name -> list of (type, parameter name) from preprocessed cuda.h."""
    text = re.sub(r"\s+", " ", path.read_text())
    text = re.sub(r"__attribute__\s*\(\(.*?\)\)", " ", text)
    found = {}
    for name, inside in re.findall(r"\bCUresult (cu\w+)\s*\(((?:[^()]|\([^()]*\))*)\)\s*;", text):
        parameters = []
        for item in inside.split(","):
            item = item.strip()
            if item in ("", "void"):
                continue
            match = re.fullmatch(r"(.*?[\s*])(\w+)((?:\[\w*\])*)", item)
            if match is None:
                raise TableError(f"{name}: parameter not understood: {item}")
            kind, word, array = match.groups()
            parameters.append((kind.strip(), word, array))
        found[name] = parameters
    if len(found) < 500:
        raise TableError(f"{path}: only {len(found)} functions found: not preprocessed cuda.h")
    return found


def signature(parameters):
    return ", ".join(f"{kind} {word}{array}" for kind, word, array in parameters) or "void"


def arguments(parameters):
    return ", ".join(word for _, word, _ in parameters)


def write_exports(args):
    declared = declarations(args.declarations)
    rows = entry_points()
    out = [
        "// Generated by generate_entry_points.py from entry_points.def and cuda.h.",
        '#include "preload/exports.h"',
        '#include "preload/hooks.h"',
        '#include "preload/shim.h"',
        "",
        "using namespace kvshim::preload;  // NOLINT: nothing but the wrappers stands here",
        "",
        'extern "C" {',
    ]
    for name, _, _, _ in rows:
        if name not in declared:
            raise TableError(f"{TABLE.name}: cuda.h has no {name}")
        parameters = declared[name]
        passed = arguments(parameters)
        # While active the table of the driver is there, so nothing is called before
        # the hook and its arguments stay where they are; the rest is out of line.
        always = name in ALWAYS_HOOKED
        out.append(
            f"[[gnu::noinline]] static CUresult asleep_{name}({signature(parameters)}) {{\n"
            f"  const auto function = real().{name};\n"
            f"  if (function == nullptr) return answer_missing();\n"
            f"  return {f'hook_{name}' if always else 'function'}({passed});\n"
            f"}}\n"
            f"KVSHIM_EXPORT CUresult CUDAAPI {name}({signature(parameters)}) {{\n"
            f"  if (!shim_active()) return asleep_{name}({passed});\n"
            f"  if (found_driver().{name} == nullptr) [[unlikely]] return answer_missing();\n"
            f"  return hook_{name}({passed});\n"
            f"}}")
    out += ['}  // extern "C"', "", "namespace kvshim::preload {",
            "void* const kExportedWrappers[] = {"]
    out += [f"    reinterpret_cast<void*>(&::{name})," for name, _, _, _ in rows]
    out += ["};", "}  // namespace kvshim::preload", ""]
    args.cpp.write_text("\n".join(out))
    nvml = [name for name, _, _ in macro_rows(NVML, "KVSHIM_NVML_ANSWERED", 3)]
    names = [name for name, _, _, _ in rows] + nvml + ["dlsym"] + args.also
    args.map.write_text("{\n  global:\n" + "".join(f"    {n};\n" for n in names) + "  local: *;\n};\n")


def write_recorder(args):
    declared = declarations(args.declarations)
    out = [
        "// Generated by generate_entry_points.py: hooks that note their name and forward.",
        '#include "preload/hooks.h"',
        "",
        'extern "C" {',
        '__attribute__((visibility("default"))) const char* kvshim_last_hook = "";',
        "}",
        "",
        "namespace kvshim::preload {",
    ]
    for name, role, _, _ in entry_points():
        if role == "kResolve" or name == "cuInit":
            continue
        parameters = declared[name]
        out.append(f"CUresult hook_{name}({signature(parameters)}) noexcept {{\n"
                   f'  kvshim_last_hook = "{name}";\n'
                   f"  return real().{name}({arguments(parameters)});\n}}")
    out += ["}  // namespace kvshim::preload", ""]
    args.cpp.write_text("\n".join(out))


def write_fake_driver(args):
    """A libcuda.so.1 that notes what was called and resolves as libcudart's look-ups say."""
    declared = declarations(args.declarations)
    lookups = []
    for line in args.lookups.read_text().splitlines():
        words = line.split(" ")
        if len(words) == 4 and words[3] != "NULL":
            lookups.append((words[0], int(words[1]), int(words[2]), words[3]))
    lookups += [(name.split("_")[0], 99000, 0, name) for name in args.newer]
    out = ["// Generated by generate_entry_points.py.", "#include <cuda.h>", "#include <cstring>", "",
           '#define FAKE extern "C" __attribute__((visibility("default")))',
           'extern "C" {',
           '__attribute__((visibility("default"))) const char* fake_last_call = "";',
           '__attribute__((visibility("default"))) CUresult fake_result = CUDA_SUCCESS;', "}", ""]
    resolvers = ("cuGetProcAddress", "cuGetProcAddress_v2")
    names = [n for n in declared if n not in args.without and n not in resolvers]
    others = sorted({export for _, _, _, export in lookups} - set(declared))
    for name in names:
        out.append(f"FAKE CUresult {name}({signature(declared[name])}) {{\n"
                   f"  {''.join(f'(void){word}; ' for _, word, _ in declared[name])}\n"
                   f'  fake_last_call = "{name}";\n  return fake_result;\n}}')
    for name in others:
        out.append(f'FAKE CUresult {name}() {{\n  fake_last_call = "{name}";\n'
                   "  return fake_result;\n}")
    for name in resolvers:
        out.append(f"FAKE CUresult {name}({signature(declared[name])});")
    out += ["", "namespace {", "struct Lookup {", "  const char* symbol;", "  int version;",
            "  cuuint64_t flags;", "  void* function;", "};", "const Lookup kLookups[] = {"]
    for symbol, version, flags, export in lookups:
        if export not in args.without:
            out.append(f'    {{"{symbol}", {version}, {flags}, reinterpret_cast<void*>(&{export})}},')
    out += ["};", "void* resolve(const char* symbol, int version, cuuint64_t flags) {",
            "  for (const Lookup& lookup : kLookups) {",
            "    if (std::strcmp(lookup.symbol, symbol) == 0 && lookup.version == version &&",
            "        lookup.flags == flags) {", "      return lookup.function;", "    }", "  }",
            "  return nullptr;", "}", "}  // namespace", "",
            "CUresult cuGetProcAddress(const char* symbol, void** pfn, int cudaVersion,",
            "                          cuuint64_t flags) {",
            "  *pfn = resolve(symbol, cudaVersion, flags);",
            "  return *pfn != nullptr ? CUDA_SUCCESS : CUDA_ERROR_NOT_FOUND;", "}",
            "CUresult cuGetProcAddress_v2(const char* symbol, void** pfn, int cudaVersion,",
            "                             cuuint64_t flags,",
            "                             CUdriverProcAddressQueryResult* symbolStatus) {",
            "  *pfn = resolve(symbol, cudaVersion, flags);",
            "  if (symbolStatus != nullptr) {",
            "    *symbolStatus = *pfn != nullptr ? CU_GET_PROC_ADDRESS_SUCCESS",
            "                                    : CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND;", "  }",
            "  return CUDA_SUCCESS;", "}", ""]
    args.cpp.write_text("\n".join(out))


def classify(declared):
    """(problems, {name: reason}) for the functions that are passed through."""
    hooked = {row[0] for row in entry_points()}
    named = dict(macro_rows(PASSED, "KVSHIM_PASSED_THROUGH", 2))
    patterns = macro_rows(PASSED, "KVSHIM_HARMLESS", 2)
    problems = []
    reasons = {}
    used = set()
    for table, names in ((TABLE.name, [r[0] for r in entry_points()]),
                         (PASSED.name, [r[0] for r in macro_rows(PASSED, "KVSHIM_PASSED_THROUGH", 2)])):
        for name in sorted({n for n in names if names.count(n) > 1}):
            problems.append(f"{table} names {name} twice")
        for name in names:
            if name not in declared:
                problems.append(f"{table} names {name}, which cuda.h lacks")
    for name in sorted(hooked & set(named)):
        problems.append(f"{name} is in both tables")
    for name, parameters in sorted(declared.items()):
        if name in hooked:
            continue
        if name in named:
            reasons[name] = named[name]
            continue
        one_by_one = ((NAMED_ONE_BY_ONE.search(name) or TAKES_MEMORY.search(signature(parameters)))
                      and not ONLY_DESCRIBES.match(name))
        if one_by_one:
            problems.append(f"{name} may allocate, free, describe, share, write, launch or capture, "
                            f"and is neither in {TABLE.name} nor in {PASSED.name}")
            continue
        matches = [(p, r) for p, r in patterns if fnmatch.fnmatchcase(name, p)]
        if not matches:
            problems.append(f"{name} is in no table and matches no pattern of {PASSED.name}")
            continue
        reasons[name] = matches[0][1]
        used.update(p for p, _ in matches)
    for pattern, _ in patterns:
        if pattern not in used:
            problems.append(f"{PASSED.name}: the pattern {pattern} matches nothing")
    return problems, reasons


def check(args):
    declared = declarations(args.declarations)
    problems, reasons = classify(declared)
    for problem in problems:
        print(problem, file=sys.stderr)
    print(f"{len(declared)} functions of cuda.h: {len(entry_points())} intercepted, "
          f"{len(reasons)} passed through, {len(problems)} problems")
    return 1 if problems else 0


def families(rows):
    """Rows with the same text, names joined: [(names, ...rest)]."""
    grouped = []
    for name, *rest in rows:
        if grouped and grouped[-1][1] == rest:
            grouped[-1][0].append(name)
        else:
            grouped.append(([name], rest))
    return grouped


def page():
    rows = entry_points()
    out = [
        "# Entry points", "",
        "Generated from preload/entry_points.def and preload/passed_through.def by",
        "`preload/generate_entry_points.py docs`; a test compares. Do not edit.", "",
        f"kvshim intercepts {len(rows)} entry points of the CUDA driver, under their complete export",
        "names (`_v2` and the like are generations, `_ptsz` and `_ptds` the variants for the",
        "per-thread default stream). Each is reached in three ways: as exported symbol, through `dlsym`",
        "on a handle of libcuda.so.1, and through `cuGetProcAddress`. Roles:", "",
        "- **manage**: pools are handled: the driver sees a guarded, converted or dropped call.",
        "- **observe**: always forwarded; the shim takes note before or after.",
        "- **refuse**: forwarded, except for a pool: then answered with the driver's own error.",
        "- **resolve**: returns pointers to entry points, and so to the hooks.", "",
        "Until a process's first successful cuInit, and with `KVSHIM_DISABLE=1`, all of them forward.", "",
    ]
    for area, title in AREAS.items():
        mine = [(n, ROLES[r], note) for n, r, a, note in rows if a == area]
        out += [f"## {title}", "", "| Entry points | Role | Note |", "|---|---|---|"]
        for names, (role, note) in families(mine):
            out.append(f"| {', '.join(f'`{n}`' for n in names)} | {role} | {note} |")
        out.append("")
    out += ["## Deliberately passed through", "",
            "What could allocate, free, describe, share, write, launch or capture and is left alone:", "",
            "| Entry points | Reason |", "|---|---|"]
    for names, (reason,) in families(macro_rows(PASSED, "KVSHIM_PASSED_THROUGH", 2)):
        out.append(f"| {', '.join(f'`{n}`' for n in names)} | {reason} |")
    out += ["", "The rest of cuda.h, by pattern:", "", "| Pattern | Reason |", "|---|---|"]
    for names, (reason,) in families(macro_rows(PASSED, "KVSHIM_HARMLESS", 2)):
        out.append(f"| {', '.join(f'`{n}`' for n in names)} | {reason} |")
    out += ["", (HERE / "entry_points_notes.md").read_text().rstrip()]
    return "\n".join(out) + "\n"


def docs(args):
    text = page()
    if not args.check:
        args.out.write_text(text)
        return 0
    if not args.out.exists() or args.out.read_text() != text:
        print(f"{args.out.name} is out of date: run preload/generate_entry_points.py docs",
              file=sys.stderr)
        return 1
    print(f"{args.out.name} is up to date")
    return 0


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, function, wants in (("exports", write_exports, ("declarations", "cpp", "map")),
                                  ("recorder", write_recorder, ("declarations", "cpp")),
                                  ("fake-driver", write_fake_driver, ("declarations", "cpp")),
                                  ("check", check, ("declarations",)),
                                  ("docs", docs, ())):
        command = commands.add_parser(name)
        for want in wants:
            command.add_argument(f"--{want}", type=pathlib.Path, required=True)
        command.set_defaults(function=function)
        if name == "exports":
            command.add_argument("--also", nargs="*", default=[], help="more names for the map")
        if name == "fake-driver":
            command.add_argument("--lookups", type=pathlib.Path, required=True)
            command.add_argument("--without", nargs="*", default=[], help="functions it lacks")
            command.add_argument("--newer", nargs="*", default=[],
                                 help="functions beyond cuda.h, resolved at version 99000")
        if name == "docs":
            command.add_argument("--check", action="store_true")
            command.add_argument("--out", type=pathlib.Path,
                                 default=HERE.parent / "docs" / "entry_points.md")
    args = parser.parse_args()
    try:
        return args.function(args) or 0
    except TableError as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
