// Checked access to TOML tables, with errors that name their place. Brings all of
// toml++ along: for the parsers alone.
#pragma once

#include <toml++/toml.h>

#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "text/pattern.h"

namespace kvshim::heuristics {

using text::Pattern;

/// What is missing or wrong is noted, and a neutral value takes its place.
class TomlReader {
 public:
  TomlReader(std::string source, std::vector<std::string>* errors)
      : source_(std::move(source)), errors_(errors) {}

  void error(const toml::node& where, const std::string& message) {
    error(where.source(), message);
  }
  void error(const toml::source_region& where, const std::string& message) {
    errors_->push_back(source_ + ":" + std::to_string(where.begin.line) + ":" +
                       std::to_string(where.begin.column) + ": " + message);
  }
  void only_keys(const toml::table& table, std::initializer_list<std::string_view> known) {
    for (const auto& [key, node] : table) {
      if (std::find(known.begin(), known.end(), key.str()) == known.end()) {
        error(key.source(), "unknown key \"" + std::string(key.str()) + "\"");
      }
    }
  }
  std::string text(const toml::table& table, std::string_view key, bool required = false) {
    const toml::node* node = table.get(key);
    if (node == nullptr) {
      if (required) error(table, "\"" + std::string(key) + "\" is missing");
      return {};
    }
    if (const auto* value = node->as_string()) return value->get();
    error(*node, "\"" + std::string(key) + "\" must be a string");
    return {};
  }
  bool flag(const toml::table& table, std::string_view key, bool otherwise = false) {
    const toml::node* node = table.get(key);
    if (node == nullptr) return otherwise;
    if (const auto* value = node->as_boolean()) return value->get();
    error(*node, "\"" + std::string(key) + "\" must be true or false");
    return otherwise;
  }
  std::int64_t integer(const toml::table& table, std::string_view key, std::int64_t otherwise,
                       std::int64_t least) {
    const toml::node* node = table.get(key);
    if (node == nullptr) return otherwise;
    const auto* value = node->as_integer();
    if (value != nullptr && value->get() >= least) return value->get();
    error(*node,
          "\"" + std::string(key) + "\" must be an integer of at least " + std::to_string(least));
    return otherwise;
  }
  Pattern pattern(const toml::table& table, std::string_view key, bool* present = nullptr,
                  bool required = false) {
    const std::string expression = text(table, key, required);
    if (present != nullptr) *present = !expression.empty();
    if (expression.empty()) return {};
    std::string problem;
    std::optional<Pattern> result = Pattern::compile(expression, &problem);
    if (result) return *result;
    error(*table.get(key), problem);
    return Pattern::of_nothing();
  }
  std::vector<std::size_t> offsets(const toml::table& table, std::string_view key,
                                   std::size_t multiple) {
    std::vector<std::size_t> result;
    const toml::node* node = table.get(key);
    if (node == nullptr) return result;
    const toml::array* list = node->as_array();
    if (list == nullptr) {
      error(*node, "\"" + std::string(key) + "\" must be an array of integers");
      return result;
    }
    for (const toml::node& item : *list) {
      const auto* value = item.as_integer();
      if (value == nullptr || value->get() < 0 || value->get() > 4096 ||
          static_cast<std::size_t>(value->get()) % multiple != 0) {
        error(item, "must be a multiple of " + std::to_string(multiple) + " from 0 to 4096");
        continue;
      }
      result.push_back(static_cast<std::size_t>(value->get()));
    }
    return result;
  }
  // Calls `take` for each table of the array of tables `key`.
  template <class F>
  void each_table(const toml::table& table, std::string_view key, const F& take) {
    const toml::node* node = table.get(key);
    if (node == nullptr) return;
    const toml::array* list = node->as_array();
    if (list == nullptr) {
      error(*node, "\"" + std::string(key) + "\" must be written as [[" + std::string(key) + "]]");
      return;
    }
    for (const toml::node& item : *list) {
      if (const toml::table* entry = item.as_table()) {
        take(*entry);
      } else {
        error(item, "must be a table");
      }
    }
  }
  template <class F>
  void each_text(const toml::table& table, std::string_view key, const F& take) {
    const toml::node* node = table.get(key);
    if (node == nullptr) return;
    const toml::array* list = node->as_array();
    if (list == nullptr) {
      error(*node, "\"" + std::string(key) + "\" must be an array of strings");
      return;
    }
    for (const toml::node& item : *list) {
      if (const auto* value = item.as_string()) {
        take(item, value->get());
      } else {
        error(item, "must be a string");
      }
    }
  }

 private:
  std::string source_;
  std::vector<std::string>* errors_;
};

}  // namespace kvshim::heuristics
