#include "tools/kvshim/screen_order.h"

#include <algorithm>
#include <array>

namespace kvshim::cli {
namespace {

struct Order {
  const char* name;
  bool (*before)(const Row& a, const Row& b);
};

constexpr std::array<Order, 10> kOrders{{
    {"kv", [](const Row& a, const Row& b) { return a.figures.resident > b.figures.resident; }},
    {"other", [](const Row& a, const Row& b) { return a.figures.other > b.figures.other; }},
    {"parked", [](const Row& a, const Row& b) { return a.figures.parked > b.figures.parked; }},
    {"absent", [](const Row& a, const Row& b) { return a.figures.absent > b.figures.absent; }},
    {"faults", [](const Row& a, const Row& b) { return a.rates.faults > b.rates.faults; }},
    {"released", [](const Row& a, const Row& b) { return a.rates.released > b.rates.released; }},
    {"limit", [](const Row& a, const Row& b) { return a.figures.limit > b.figures.limit; }},
    {"idle",
     [](const Row& a, const Row& b) { return a.figures.idle_seconds > b.figures.idle_seconds; }},
    {"pid", [](const Row& a, const Row& b) { return a.figures.pid < b.figures.pid; }},
    {"name", [](const Row& a, const Row& b) { return a.figures.name < b.figures.name; }},
}};

const Order& order_named(const std::string& name) {
  const auto found = std::find_if(kOrders.begin(), kOrders.end(),
                                  [&](const Order& order) { return name == order.name; });
  return found == kOrders.end() ? kOrders.front() : *found;
}

}  // namespace

std::vector<std::string> sort_names() {
  std::vector<std::string> names;
  for (const Order& order : kOrders) names.emplace_back(order.name);
  return names;
}

std::string next_sort(const std::string& name) {
  const auto at = static_cast<std::size_t>(&order_named(name) - kOrders.data());
  return kOrders[(at + 1) % kOrders.size()].name;
}

void sort_rows(std::vector<Row>& rows, const std::string& name) {
  const Order& order = order_named(name);
  std::sort(rows.begin(), rows.end(),
            [](const Row& a, const Row& b) { return a.figures.pid < b.figures.pid; });
  std::stable_sort(rows.begin(), rows.end(), order.before);
}

}  // namespace kvshim::cli
