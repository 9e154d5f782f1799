// A reader's block table in TOML: fields inside its parameters, and expressions of them.
#include "heuristics/table_parser.h"

#include <algorithm>
#include <iterator>
#include <string>
#include <utility>

namespace kvshim::heuristics {

std::vector<TemplateDemand> parse_demands(TomlReader& reader, const toml::table& table) {
  std::vector<TemplateDemand> demands;
  reader.each_table(table, "require", [&](const toml::table& demand) {
    reader.only_keys(demand, {"of", "argument", "matches"});
    demands.push_back({reader.text(demand, "of"), reader.text(demand, "argument", true),
                       reader.pattern(demand, "matches", nullptr, true)});
  });
  return demands;
}

std::optional<std::uint32_t> launch_dimension(std::string_view name) {
  static constexpr std::string_view kDimensions[] = {".x", ".y", ".z"};
  for (std::uint32_t d = 0; d < 3; ++d) {
    if (name == "grid" + std::string(kDimensions[d])) return ExpressionName::kGrid + d;
    if (name == "block" + std::string(kDimensions[d])) return ExpressionName::kBlock + d;
  }
  return std::nullopt;
}

namespace {

class TableParser {
 public:
  TableParser(TomlReader* reader, const toml::table& table) : reader_(*reader), table_(table) {}

  TableForm parse() {
    reader_.only_keys(table_, {"fields", "element", "require", "ids", "lengths", "row_stride",
                               "rows", "entries", "block", "equal", "part"});
    form_.element_path = reader_.text(table_, "element");
    form_.demands = parse_demands(reader_, table_);
    reader_.each_text(table_, "fields", [&](const toml::node& node, const std::string& text) {
      parse_field(node, text);
    });
    form_.ids = pointer(table_, "ids");
    if (table_.get("lengths") != nullptr) form_.lengths = pointer(table_, "lengths");
    form_.row_stride = expression(table_, "row_stride");
    form_.rows = expression(table_, "rows");
    form_.entries = expression(table_, "entries");
    form_.block = expression(table_, "block");
    reader_.each_text(table_, "equal", [&](const toml::node& item, const std::string& text) {
      const std::size_t sign = text.find(" == ");
      if (sign == std::string::npos) return reader_.error(item, "must read \"this == that\"");
      form_.equal.emplace_back(compile(item, text.substr(0, sign)),
                               compile(item, text.substr(sign + 4)));
    });
    reader_.each_table(table_, "part", [&](const toml::table& part) {
      reader_.only_keys(part, {"base", "block_stride", "length"});
      form_.parts.push_back(
          {pointer(part, "base"), expression(part, "block_stride"), expression(part, "length")});
    });
    if (form_.parts.empty() || form_.parts.size() > 4) {
      reader_.error(table_, "a block table has 1 to 4 parts");
    }
    return std::move(form_);
  }

 private:
  // "name: type at parameter+offset"
  void parse_field(const toml::node& node, const std::string& text) {
    static constexpr std::string_view kTypes[] = {"ptr", "i32", "u32", "i64", "u64"};
    const std::size_t colon = text.find(": "), at = text.find(" at "), plus = text.find('+');
    TableForm::Field field;
    bool fits = colon != std::string::npos && colon != 0 && at != std::string::npos && colon < at &&
                plus != std::string::npos && at < plus;
    if (fits) {
      field.name = text.substr(0, colon);
      const std::string type = text.substr(colon + 2, at - colon - 2);
      fits = std::find(std::begin(kTypes), std::end(kTypes), type) != std::end(kTypes);
      field.size = type == "i32" || type == "u32" ? 4 : 8;
      field.is_signed = type[0] == 'i';
      const auto number = [&](const std::string& digits, std::uint32_t* to) {
        if (digits.empty() || digits.size() > 4 ||
            digits.find_first_not_of("0123456789") != std::string::npos) {
          return false;
        }
        *to = static_cast<std::uint32_t>(std::stoul(digits));
        return true;
      };
      fits = fits && number(text.substr(at + 4, plus - at - 4), &field.param) &&
             number(text.substr(plus + 1), &field.offset) && field.offset % field.size == 0;
      field.is_pointer = type == "ptr";
    }
    if (!fits) {
      return reader_.error(node, "\"" + text +
                                     "\" is not \"name: type at parameter+offset\" with a type of "
                                     "ptr, i32, u32, i64, u64 and an aligned offset");
    }
    form_.fields.push_back(std::move(field));
  }
  std::optional<std::uint32_t> index_of(std::string_view name) const {
    for (std::size_t i = 0; i < form_.fields.size(); ++i) {
      if (form_.fields[i].name == name) return static_cast<std::uint32_t>(i);
    }
    return std::nullopt;
  }
  std::uint32_t pointer(const toml::table& table, std::string_view key) {
    const std::string name = reader_.text(table, key, true);
    const auto index = index_of(name);
    if (!name.empty() && (!index || !form_.fields[*index].is_pointer)) {
      reader_.error(*table.get(key), "\"" + name + "\" is not a field that holds an address");
    }
    return index.value_or(0);
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
        text,
        [this](std::string_view name) -> std::optional<std::uint32_t> {
          if (name == "element") {
            if (form_.element_path.empty()) return std::nullopt;
            return ExpressionName::kElement;
          }
          if (const auto index = index_of(name)) return ExpressionName::kField + *index;
          return launch_dimension(name);
        },
        &problem);
    if (!problem.empty()) reader_.error(node, problem);
    return result;
  }

  TomlReader& reader_;
  const toml::table& table_;
  TableForm form_;
};

}  // namespace

TableForm parse_table(TomlReader& reader, const toml::table& table) {
  return TableParser(&reader, table).parse();
}

}  // namespace kvshim::heuristics
