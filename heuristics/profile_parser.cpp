// TOML to profile data. Everything of toml++ stays here and in toml_reader.h.
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "heuristics/profile_data.h"
#include "heuristics/table_parser.h"
#include "heuristics/toml_reader.h"

namespace kvshim::heuristics {
namespace {

std::optional<ParameterSpec> parse_parameter(const std::string& text) {
  ParameterSpec spec;
  const std::size_t colon = text.find(": ");
  if (colon == std::string::npos || colon == 0) return std::nullopt;
  spec.name = text.substr(0, colon);
  const std::string type = text.substr(colon + 2);
  using Kind = ParameterSpec::Kind;
  if (type == "ptr") {
    spec.kind = Kind::kPointer;
    spec.size = 8;
  } else if (type == "const ptr") {
    spec.kind = Kind::kConstPointer;
    spec.size = 8;
  } else if (type == "i8" || type == "i16" || type == "i32" || type == "i64" || type == "u8" ||
             type == "u16" || type == "u32" || type == "u64") {
    spec.kind = Kind::kInteger;
    spec.is_signed = type[0] == 'i';
    spec.size = static_cast<std::size_t>(std::stoul(type.substr(1)) / 8);
  } else if (type == "element") {
    spec.kind = Kind::kElement;
  } else if (type == "f32") {
    spec.size = 4;
  } else if (type == "f64") {
    spec.size = 8;
  } else if (type.starts_with("bytes ") && type.size() > 6 && type.size() < 12 &&
             type.find_first_not_of("0123456789", 6) == std::string::npos) {
    spec.size = static_cast<std::size_t>(std::stoul(type.substr(6)));
  } else {
    return std::nullopt;
  }
  return spec;
}

class KernelParser {
 public:
  KernelParser(TomlReader* reader, const toml::table& table) : reader_(*reader), table_(table) {}

  KernelEntry parse(const std::string& profile) {
    reader_.only_keys(table_, {"name", "match", "role", "stays_in_written", "parameters", "require",
                               "element", "writer", "fill", "table", "words", "read_only_words"});
    entry_.label = profile + ": " + reader_.text(table_, "name", true);
    entry_.match = reader_.pattern(table_, "match", nullptr, true);
    entry_.element_path = reader_.text(table_, "element");
    parse_role();
    parse_parameters();
    entry_.demands = parse_demands(reader_, table_);
    if (entry_.element_path.starts_with('*') && !parameter_index(entry_.element_path.substr(1))) {
      reader_.error(*table_.get("element"),
                    "\"" + entry_.element_path + "\" does not name one of the parameters");
    }
    parse_writer();
    parse_fill();
    reader_.each_table(table_, "table", [&](const toml::table& form) {
      if (entry_.role != KernelRole::kReader) {
        return reader_.error(form, "only a reader can have a block table");
      }
      entry_.tables.push_back(parse_table(reader_, form));
    });
    parse_words("words", false);
    parse_words("read_only_words", true);
    return std::move(entry_);
  }

 private:
  void parse_role() {
    const std::string role = reader_.text(table_, "role", true);
    if (role == "reader") {
      entry_.role = KernelRole::kReader;
    } else if (role == "writer") {
      entry_.role = KernelRole::kWriter;
    } else if (role == "zero_fill") {
      entry_.role = KernelRole::kZeroFill;
    } else if (role != "layout" && !role.empty()) {
      reader_.error(*table_.get("role"),
                    "\"" + role + "\" is not a role (reader, writer, zero_fill, layout)");
    }
    entry_.stays_in_written = reader_.flag(table_, "stays_in_written");
    if (entry_.stays_in_written && role != "reader") {
      reader_.error(*table_.get("stays_in_written"), "only a reader can stay in what is written");
    }
    // A writer or fill that matched by its name alone could be an older form.
    if ((role == "writer" || role == "zero_fill") && table_.get("parameters") == nullptr) {
      reader_.error(table_, "a " + role + " must list its parameters");
    }
  }
  void parse_parameters() {
    if (table_.get("parameters") == nullptr) return;
    entry_.parameters.emplace();
    reader_.each_text(table_, "parameters", [&](const toml::node& node, const std::string& text) {
      if (auto spec = parse_parameter(text)) {
        if (spec->kind == ParameterSpec::Kind::kElement && entry_.element_path.empty()) {
          reader_.error(node, "\"" + text + "\" needs \"element\" (a template argument)");
        }
        entry_.parameters->push_back(*spec);
      } else {
        reader_.error(node, "\"" + text +
                                "\" is not \"name: type\" with a type of ptr, const ptr, "
                                "i8 to i64, u8 to u64, f32, f64, element, bytes N");
      }
    });
  }
  std::optional<std::uint32_t> parameter_index(std::string_view name) const {
    if (!entry_.parameters) return std::nullopt;
    for (std::size_t i = 0; i < entry_.parameters->size(); ++i) {
      if ((*entry_.parameters)[i].name == name) return static_cast<std::uint32_t>(i);
    }
    return std::nullopt;
  }
  std::uint32_t parameter(const toml::table& table, std::string_view key) {
    const std::string name = reader_.text(table, key, true);
    const auto index = parameter_index(name);
    if (!index && !name.empty()) {
      reader_.error(*table.get(key), "\"" + name + "\" is not one of the parameters");
    }
    return index.value_or(0);
  }
  std::uint32_t pointer_parameter(const toml::table& table, std::string_view key) {
    const std::uint32_t index = parameter(table, key);
    if (entry_.parameters && index < entry_.parameters->size() &&
        (*entry_.parameters)[index].size != 8 && table.get(key) != nullptr) {
      reader_.error(*table.get(key), "must name a parameter that holds an address");
    }
    return index;
  }
  Expression expression(const toml::table& table, std::string_view key) {
    const toml::node* node = table.get(key);
    if (node != nullptr && node->is_integer()) {
      return compile(*node, std::to_string(node->as_integer()->get()));
    }
    const std::string text = reader_.text(table, key, true);
    return text.empty() ? Expression{} : compile(*node, text);
  }
  Expression compile(const toml::node& node, const std::string& text) {
    std::string problem;
    Expression result = Expression::compile(
        text, [this](std::string_view name) { return expression_name(name); }, &problem);
    if (!problem.empty()) reader_.error(node, problem);
    return result;
  }
  std::optional<std::uint32_t> expression_name(std::string_view name) const {
    if (name == "element") {
      if (entry_.element_path.empty() && !form_has_element_) return std::nullopt;
      return ExpressionName::kElement;
    }
    if (const auto dimension = launch_dimension(name)) return dimension;
    const auto index = parameter_index(name);
    if (!index) return std::nullopt;
    const ParameterSpec& spec = (*entry_.parameters)[*index];
    // Addresses are values too: a distance between two may be a stride.
    const bool has_value =
        spec.kind != ParameterSpec::Kind::kOther && spec.kind != ParameterSpec::Kind::kElement;
    return has_value ? index : std::nullopt;
  }
  void parse_writer() {
    const toml::node* node = table_.get("writer");
    if ((node != nullptr) != (entry_.role == KernelRole::kWriter)) {
      reader_.error(table_, "role \"writer\" and a writer table belong together");
      return;
    }
    if (node == nullptr) return;
    const toml::table* only = node->as_table();
    if (only != nullptr) return parse_writer_form(*only);
    if (!node->is_array_of_tables()) return reader_.error(*node, "\"writer\" must be a table");
    reader_.each_table(table_, "writer", [&](const toml::table& form) { parse_writer_form(form); });
  }
  void parse_writer_form(const toml::table& table) {
    reader_.only_keys(table, {"element", "slots", "slot_type", "count", "skip_below", "block",
                              "equal", "destination"});
    WriterForm form;
    // In itself "element" is the entry's, if that has one.
    if (table.get("element") != nullptr) form.element = expression(table, "element");
    form_has_element_ = form.element.has_value();
    form.slots = pointer_parameter(table, "slots");
    const std::string slot_type = reader_.text(table, "slot_type", true);
    if (slot_type == "i32") {
      form.slot_bytes = 4;
    } else if (slot_type != "i64" && !slot_type.empty()) {
      reader_.error(*table.get("slot_type"), "\"slot_type\" must be i32 or i64");
    }
    form.skip_below = reader_.integer(table, "skip_below", 0, INT64_MIN);
    form.count = expression(table, "count");
    form.block = expression(table, "block");
    reader_.each_text(table, "equal", [&](const toml::node& item, const std::string& text) {
      const std::size_t sign = text.find(" == ");
      if (sign == std::string::npos) return reader_.error(item, "must read \"this == that\"");
      form.equal.emplace_back(compile(item, text.substr(0, sign)),
                              compile(item, text.substr(sign + 4)));
    });
    reader_.each_table(table, "destination", [&](const toml::table& target) {
      reader_.only_keys(target, {"base", "block_stride", "slot_stride", "length"});
      WriterForm::Destination destination;
      destination.base = pointer_parameter(target, "base");
      destination.block_stride = expression(target, "block_stride");
      destination.slot_stride = expression(target, "slot_stride");
      destination.length = expression(target, "length");
      form.destinations.push_back(std::move(destination));
    });
    if (form.destinations.empty() || form.destinations.size() > 4) {
      reader_.error(table, "a writer has 1 to 4 destinations");
    }
    entry_.writers.push_back(std::move(form));
    form_has_element_ = false;
  }
  void parse_fill() {
    const toml::node* node = table_.get("fill");
    if ((node != nullptr) != (entry_.role == KernelRole::kZeroFill)) {
      reader_.error(table_, "role \"zero_fill\" and a fill table belong together");
      return;
    }
    if (node == nullptr) return;
    const toml::table* table = node->as_table();
    if (table == nullptr) return reader_.error(*node, "\"fill\" must be a table");
    reader_.only_keys(*table, {"address", "bytes", "value"});
    FillForm form;
    form.address = pointer_parameter(*table, "address");
    form.value = parameter(*table, "value");
    form.bytes = expression(*table, "bytes");
    entry_.fill = std::move(form);
  }
  // "parameter+offset"
  void parse_words(std::string_view key, bool read_only) {
    reader_.each_text(table_, key, [&](const toml::node& node, const std::string& text) {
      const std::size_t plus = text.find('+');
      const auto index = parameter_index(text.substr(0, plus));
      const std::string digits = plus == std::string::npos ? "" : text.substr(plus + 1);
      if (!index || digits.empty() || digits.size() > 4 ||
          digits.find_first_not_of("0123456789") != std::string::npos) {
        return reader_.error(node, "\"" + text + "\" is not \"parameter+offset\"");
      }
      const auto offset = static_cast<std::size_t>(std::stoul(digits));
      if (offset % 8 != 0 || offset + 8 > (*entry_.parameters)[*index].size) {
        return reader_.error(node, "\"" + text + "\" is not an aligned word of its parameter");
      }
      entry_.words.push_back(
          {{static_cast<std::uint16_t>(*index), static_cast<std::uint16_t>(offset)}, read_only});
      entry_.parameters_with_words.push_back(*index);
    });
  }

  TomlReader& reader_;
  const toml::table& table_;
  KernelEntry entry_;
  bool form_has_element_ = false;  // the writer form that is being parsed
};

TypeLayout parse_layout(TomlReader& reader, const toml::table& table, const std::string& profile) {
  reader.only_keys(table,
                   {"name", "type", "sizes", "words", "words_from_end", "read_only_words",
                    "read_only_words_from_end", "count", "const_argument", "read_only", "live"});
  TypeLayout layout;
  layout.label = profile + ": " + reader.text(table, "name", true);
  layout.type = reader.pattern(table, "type", nullptr, true);
  layout.sizes = reader.offsets(table, "sizes", 1);
  layout.words = reader.offsets(table, "words", 8);
  layout.words_from_end = reader.offsets(table, "words_from_end", 8);
  layout.read_only_words = reader.offsets(table, "read_only_words", 8);
  layout.read_only_words_from_end = reader.offsets(table, "read_only_words_from_end", 8);
  layout.count_path = reader.text(table, "count");
  layout.const_path = reader.text(table, "const_argument");
  layout.read_only = reader.flag(table, "read_only");
  const std::string live = reader.text(table, "live");
  if (live == "grid.x" || live == "grid.y" || live == "grid.z") {
    layout.live_grid_dimension = live.back() - 'x';
  } else if (!live.empty()) {
    reader.error(*table.get("live"), "\"live\" must be grid.x, grid.y or grid.z");
  }
  return layout;
}

PoolEvidence parse_evidence(TomlReader& reader, const toml::table& table, bool pool) {
  reader.only_keys(table, {"name", "python_innermost", "python", "python_not", "native", "process",
                           "min_size", "equal_in_a_row", "role"});
  PoolEvidence evidence;
  evidence.pool = pool;
  evidence.name = reader.text(table, "name", true);
  evidence.innermost_python =
      reader.pattern(table, "python_innermost", &evidence.has_innermost_python);
  evidence.any_python = reader.pattern(table, "python", &evidence.has_any_python);
  evidence.none_python = reader.pattern(table, "python_not", &evidence.has_none_python);
  evidence.any_native = reader.pattern(table, "native", &evidence.has_any_native);
  evidence.process = reader.flag(table, "process");
  evidence.min_size = static_cast<std::size_t>(reader.integer(table, "min_size", 0, 0));
  evidence.equal_in_a_row = static_cast<std::size_t>(reader.integer(table, "equal_in_a_row", 1, 1));
  const std::string role = reader.text(table, "role");
  if (!role.empty()) evidence.role = role;
  if (!evidence.has_innermost_python && !evidence.has_any_python && !evidence.has_any_native &&
      !evidence.process) {
    reader.error(table, "needs a call-site pattern or process = true");
  }
  return evidence;
}

Obstacle parse_obstacle(TomlReader& reader, const toml::table& table) {
  reader.only_keys(table, {"name", "command_line", "environment", "environment_value", "process",
                           "leaves_pools", "effect", "remedy"});
  Obstacle obstacle;
  obstacle.name = reader.text(table, "name", true);
  obstacle.command_line = reader.pattern(table, "command_line", &obstacle.has_command_line);
  reader.each_text(table, "environment", [&](const toml::node&, const std::string& variable) {
    obstacle.environment.push_back(variable);
  });
  obstacle.environment_value = reader.pattern(table, "environment_value");
  obstacle.process = reader.flag(table, "process");
  obstacle.leaves_pools = reader.flag(table, "leaves_pools");
  obstacle.effect = reader.text(table, "effect", true);
  obstacle.remedy = reader.text(table, "remedy", true);
  if (!obstacle.has_command_line && obstacle.environment.empty()) {
    reader.error(table, "needs a command_line pattern or environment names");
  }
  return obstacle;
}

}  // namespace

std::optional<Profile> parse_profile(const std::string& text, const std::string& source,
                                     std::vector<std::string>* errors) {
  const std::size_t errors_before = errors->size();
  TomlReader reader(source, errors);
  const toml::parse_result parsed = toml::parse(text);
  if (!parsed) {
    reader.error(parsed.error().source(), std::string(parsed.error().description()));
    return std::nullopt;
  }
  const toml::table& root = parsed.table();
  reader.only_keys(
      root, {"name", "process", "skip_python", "pool", "not_pool", "obstacle", "kernel", "layout"});
  Profile profile;
  profile.source = source;
  profile.name = reader.text(root, "name", true);
  profile.skip_python = reader.pattern(root, "skip_python", &profile.has_skip_python);
  reader.each_table(root, "process", [&](const toml::table& table) {
    reader.only_keys(table, {"command_line", "loaded_object"});
    bool present = false;
    Pattern pattern = reader.pattern(table, "command_line", &present);
    if (present) profile.process_command_line.push_back(std::move(pattern));
    pattern = reader.pattern(table, "loaded_object", &present);
    if (present) profile.process_object.push_back(std::move(pattern));
  });
  // Evidence against comes first: it is there to hold the weaker rules back.
  reader.each_table(root, "not_pool", [&](const toml::table& table) {
    profile.evidence.push_back(parse_evidence(reader, table, false));
  });
  reader.each_table(root, "pool", [&](const toml::table& table) {
    profile.evidence.push_back(parse_evidence(reader, table, true));
  });
  reader.each_table(root, "obstacle", [&](const toml::table& table) {
    profile.obstacles.push_back(parse_obstacle(reader, table));
  });
  reader.each_table(root, "kernel", [&](const toml::table& table) {
    profile.kernels.push_back(KernelParser(&reader, table).parse(profile.name));
  });
  reader.each_table(root, "layout", [&](const toml::table& table) {
    profile.layouts.push_back(parse_layout(reader, table, profile.name));
  });
  if (errors->size() != errors_before) return std::nullopt;
  return profile;
}

}  // namespace kvshim::heuristics
