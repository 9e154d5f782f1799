// Three ways, by version: _Py_DumpTraceback where it is exported (3.11, 3.12,
// some 3.10), the published offsets of _PyRuntime (3.13 on), and fixed offsets
// (3.9 and 3.10, whose structures no longer change). Offsets: CPython's
// Include/internal/pycore_debug_offsets.h, Include/cpython/{code,frameobject}.h.
#include "heuristics/python_callsite.h"

#include <dlfcn.h>
#include <link.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string_view>

#include "heuristics/own_memory.h"

namespace kvshim::heuristics {
namespace {

constexpr int kMaxFrames = 64;
constexpr std::size_t kMaxText = 1024;

// libpython may have been loaded without making its symbols global.
void* python_symbol(const char* name) {
  if (void* found = dlsym(RTLD_DEFAULT, name)) return found;
  struct Search {
    const char* name;
    void* found;
  } search{name, nullptr};
  dl_iterate_phdr(
      [](dl_phdr_info* info, std::size_t, void* data) {
        if (std::strstr(info->dlpi_name, "libpython3") == nullptr) return 0;
        auto* result = static_cast<Search*>(data);
        void* library = dlopen(info->dlpi_name, RTLD_LAZY | RTLD_NOLOAD);
        if (library == nullptr) return 0;
        result->found = dlsym(library, result->name);
        dlclose(library);
        return result->found != nullptr ? 1 : 0;
      },
      &search);
  return search.found;
}

std::string read_all(int file) {
  std::string text;
  char buffer[4096];
  lseek(file, 0, SEEK_SET);
  ssize_t got = 0;
  while ((got = read(file, buffer, sizeof buffer)) > 0) {
    text.append(buffer, static_cast<std::size_t>(got));
  }
  return text;
}

std::vector<std::string> dumped_frames(void* dump, void* thread_state, std::string* why) {
  // A file in memory: a pipe could fill up, and nobody would empty it.
  const int file = memfd_create("kvshim-callsite", MFD_CLOEXEC);
  if (file < 0) {
    *why = "memfd_create failed";
    return {};
  }
  reinterpret_cast<void (*)(int, void*)>(dump)(file, thread_state);
  const std::string text = read_all(file);
  close(file);
  std::vector<std::string> frames = parse_traceback(text);
  if (frames.empty()) *why = "the thread runs no Python code";
  return frames;
}

// Where things lie in the interpreter's structures, in bytes.
struct Offsets {
  std::uint64_t current_frame = 0;                                // of the thread state
  std::uint64_t previous = 0, executable = 0;                     // of a frame
  std::optional<std::uint64_t> instruction, owner;                // of a frame
  std::uint64_t file = 0, name = 0, first_line = 0;               // of a code object
  std::uint64_t line_table = 0, code_units = 0;                   // of a code object
  std::uint64_t type = 8;                                         // of an object
  std::uint64_t text_state = 0, text_length = 0, ascii_size = 0;  // of a string
  unsigned kind_shift = 2;                                        // within the string's state
  std::uint64_t bytes_size = 16, bytes_data = 32;                 // of a bytes object
};

// CPython 3.9 and 3.10: PyThreadState.frame, PyFrameObject, PyCodeObject.
Offsets fixed_offsets() {
  Offsets offsets;
  offsets.current_frame = 24;
  offsets.previous = 24;
  offsets.executable = 32;
  offsets.first_line = 40;
  offsets.file = 104;
  offsets.name = 112;
  offsets.text_length = 16;
  offsets.text_state = 32;
  offsets.ascii_size = 48;
  return offsets;
}

std::optional<Offsets> published_offsets(OwnMemory& memory, void* runtime, std::string* why) {
  std::array<std::uint64_t, 96> word{};
  const auto address = reinterpret_cast<std::uint64_t>(runtime);
  if (!memory.read(address, word.data(), sizeof word) ||
      std::memcmp(word.data(), "xdebugpy", 8) != 0) {
    *why = "this CPython publishes no offsets";
    return std::nullopt;
  }
  const std::uint64_t version = word[1] >> 16;
  if (version != 0x030d && version != 0x030e) {
    *why = "the offsets of CPython " + std::to_string(version >> 8) + "." +
           std::to_string(version & 0xff) + " have an unknown form";
    return std::nullopt;
  }
  const bool is_314 = version == 0x030e;
  // Groups in words: header 3, runtime 3, interpreter 13 (3.14: 16), thread 9,
  // frame 6 (8), code 10 (11), object 2, type 4, tuple 3, list 3, (3.14: set 4,)
  // dict 3, float 2, long 3, bytes 3, string 4.
  const std::size_t thread = 6 + (is_314 ? 16U : 13U);
  const std::size_t frame = thread + 9;
  const std::size_t code = frame + (is_314 ? 8U : 6U);
  const std::size_t object = code + (is_314 ? 11U : 10U);
  const std::size_t bytes = object + 2 + 4 + 3 + 3 + (is_314 ? 4U : 0U) + 3 + 2 + 3;
  const std::size_t text = bytes + 3;
  Offsets offsets;
  offsets.current_frame = word[thread + 4];
  offsets.previous = word[frame + 1];
  offsets.executable = word[frame + 2];
  offsets.instruction = word[frame + 3];
  offsets.owner = word[frame + 5];
  offsets.file = word[code + 1];
  offsets.name = word[code + 2];
  offsets.line_table = word[code + 4];
  offsets.first_line = word[code + 5];
  offsets.code_units = word[code + 9];
  offsets.type = word[object + 1];
  offsets.bytes_size = word[bytes + 1];
  offsets.bytes_data = word[bytes + 2];
  offsets.text_state = word[text + 1];
  offsets.text_length = word[text + 2];
  offsets.ascii_size = word[text + 3];
  offsets.kind_shift = is_314 ? 16 : 2;
  return offsets;
}

class FrameWalk {
 public:
  FrameWalk(OwnMemory* memory, const Offsets& offsets, std::uint64_t code_type)
      : memory_(*memory), at_(offsets), code_type_(code_type) {}

  std::vector<std::string> walk(std::uint64_t thread_state, std::string* why) {
    std::vector<std::string> frames;
    std::uint64_t frame = 0;
    if (!memory_.read(thread_state + at_.current_frame, &frame)) {
      *why = "the thread state can't be read";
      return {};
    }
    for (int i = 0; frame != 0 && i < kMaxFrames; ++i) {
      // The last owner kinds (C stack, interpreter) mark frames of no Python code.
      constexpr char kFirstForeignOwner = 3;
      char owner = 0;
      std::uint64_t code = 0;
      if ((at_.owner && !memory_.read(frame + *at_.owner, &owner)) ||
          !memory_.read(frame + at_.executable, &code)) {
        *why = "a frame can't be read";
        return {};
      }
      if (owner < kFirstForeignOwner) {
        code &= ~std::uint64_t{7};  // 3.14 tags references
        const auto text = describe(frame, code);
        if (!text) {
          *why = "the interpreter's structures are not as expected";
          return {};
        }
        frames.push_back(*text);
      }
      if (!memory_.read(frame + at_.previous, &frame)) break;
    }
    if (frames.empty()) *why = "the thread runs no Python code";
    return frames;
  }

 private:
  std::optional<std::string> describe(std::uint64_t frame, std::uint64_t code) {
    std::uint64_t type = 0;
    std::uint64_t file = 0;
    std::uint64_t name = 0;
    int first_line = 0;
    // The type is the proof that the offsets fit this interpreter.
    if (!memory_.read(code + at_.type, &type) || type != code_type_ ||
        !memory_.read(code + at_.file, &file) || !memory_.read(code + at_.name, &name) ||
        !memory_.read(code + at_.first_line, &first_line)) {
      return std::nullopt;
    }
    const auto file_text = text_of(file);
    const auto name_text = text_of(name);
    if (!file_text || !name_text) return std::nullopt;
    return *name_text + " " + *file_text + ":" + std::to_string(line_of(frame, code, first_line));
  }
  int line_of(std::uint64_t frame, std::uint64_t code, int first_line) {
    std::uint64_t instruction = 0;
    std::uint64_t table = 0;
    std::int64_t size = 0;
    if (!at_.instruction || !memory_.read(frame + *at_.instruction, &instruction) ||
        !memory_.read(code + at_.line_table, &table) ||
        !memory_.read(table + at_.bytes_size, &size) || size <= 0 || size > (1 << 20)) {
      return first_line;
    }
    std::vector<unsigned char> bytes(static_cast<std::size_t>(size));
    if (!memory_.read(table + at_.bytes_data, bytes.data(), bytes.size())) return first_line;
    const auto distance = static_cast<std::int64_t>(instruction - (code + at_.code_units));
    return line_of_instruction(bytes, first_line, distance / 2);
  }
  std::optional<std::string> text_of(std::uint64_t object) {
    std::int64_t length = 0;
    std::uint32_t state = 0;
    if (!memory_.read(object + at_.text_length, &length) ||
        !memory_.read(object + at_.text_state, &state) || length < 0) {
      return std::nullopt;
    }
    const unsigned width = state >> at_.kind_shift & 7U;
    const bool compact = (state >> (at_.kind_shift + 3) & 1U) != 0;
    const bool ascii = (state >> (at_.kind_shift + 4) & 1U) != 0;
    if (!compact || (width != 1 && width != 2 && width != 4)) return std::nullopt;
    const std::size_t count = std::min(static_cast<std::size_t>(length), kMaxText);
    std::string raw(count * width, '\0');
    // PyCompactUnicodeObject adds a length and a pointer (and before 3.12 a
    // second length) to PyASCIIObject.
    const std::uint64_t wide_header = at_.ascii_size + (at_.ascii_size == 48 ? 24 : 16);
    if (!memory_.read(object + (ascii ? at_.ascii_size : wide_header), raw.data(), raw.size())) {
      return std::nullopt;
    }
    std::string text(count, '?');
    for (std::size_t i = 0; i < count; ++i) {
      std::uint32_t character = 0;
      std::memcpy(&character, raw.data() + i * width, width);
      if (character >= 0x20 && character < 0x7f) text[i] = static_cast<char>(character);
    }
    return text;
  }

  OwnMemory& memory_;
  const Offsets& at_;
  std::uint64_t code_type_;
};

std::vector<std::string> walked_frames(void* thread_state, std::string* why) {
  const void* code_type = python_symbol("PyCode_Type");
  if (code_type == nullptr) {
    *why = "PyCode_Type is not exported";
    return {};
  }
  OwnMemory memory;
  std::optional<Offsets> offsets;
  const auto version = reinterpret_cast<const char* (*)()>(python_symbol("Py_GetVersion"));
  const std::string_view text = version != nullptr ? version() : "";
  if (text.starts_with("3.9.") || text.starts_with("3.10.")) {
    offsets = fixed_offsets();
  } else if (void* runtime = python_symbol("_PyRuntime")) {
    offsets = published_offsets(memory, runtime, why);
  } else {
    *why = "_PyRuntime is not exported";
  }
  if (!offsets) return {};
  return FrameWalk(&memory, *offsets, reinterpret_cast<std::uint64_t>(code_type))
      .walk(reinterpret_cast<std::uint64_t>(thread_state), why);
}

}  // namespace

std::vector<std::string> parse_traceback(const std::string& text) {
  std::vector<std::string> frames;
  std::size_t begin = 0;
  while (begin < text.size()) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    const std::string_view line(text.data() + begin, end - begin);
    begin = end + 1;
    constexpr std::string_view kFile = "  File \"";
    constexpr std::string_view kLine = "\", line ";
    constexpr std::string_view kIn = " in ";
    const std::size_t number = line.rfind(kLine);
    if (!line.starts_with(kFile) || number == std::string_view::npos) continue;
    const std::size_t name = line.find(kIn, number);
    if (name == std::string_view::npos) continue;
    const std::string_view file = line.substr(kFile.size(), number - kFile.size());
    const std::size_t digits = number + kLine.size();
    frames.push_back(std::string(line.substr(name + kIn.size())) + " " + std::string(file) + ":" +
                     std::string(line.substr(digits, name - digits)));
  }
  return frames;
}

int line_of_instruction(const std::vector<unsigned char>& table, int first, long offset) {
  // Objects/locations.md of CPython: entries start with a byte whose top bit is
  // set: 4 bits of kind, 3 bits of length - 1 in code units.
  int line = first;
  long covered = 0;
  std::size_t at = 0;
  const auto signed_varint = [&](std::size_t from) {
    unsigned value = 0;
    for (unsigned shift = 0; from < table.size() && shift < 30; shift += 6) {
      const unsigned byte = table[from++];
      value |= (byte & 63U) << shift;
      if ((byte & 64U) == 0) break;
    }
    const int magnitude = static_cast<int>(value >> 1U);
    return (value & 1U) != 0 ? -magnitude : magnitude;
  };
  while (at < table.size()) {
    const unsigned kind = table[at] >> 3U & 15U;
    covered += (table[at] & 7U) + 1;
    bool has_line = true;
    if (kind == 13 || kind == 14) {
      line += signed_varint(at + 1);
    } else if (kind >= 10 && kind <= 12) {
      line += static_cast<int>(kind) - 10;
    } else if (kind == 15) {
      has_line = false;
    }
    if (offset < covered) return has_line ? line : first;
    ++at;
    while (at < table.size() && (table[at] & 0x80U) == 0) ++at;
  }
  return first;
}

std::vector<std::string> python_frames(std::string* why_empty) noexcept {
  std::string unused;
  std::string* why = why_empty != nullptr ? why_empty : &unused;
  try {
    const auto current =
        reinterpret_cast<void* (*)()>(python_symbol("PyGILState_GetThisThreadState"));
    if (current == nullptr) {
      *why = "no Python in this process";
      return {};
    }
    void* thread_state = current();
    if (thread_state == nullptr) {
      *why = "not a Python thread";
      return {};
    }
    if (void* dump = python_symbol("_Py_DumpTraceback")) {
      return dumped_frames(dump, thread_state, why);
    }
    return walked_frames(thread_state, why);
  } catch (...) {
    return {};
  }
}

}  // namespace kvshim::heuristics
