// An HTTP server for one page.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

namespace kvshim::cli {

struct ListenAddress {
  std::string host = "127.0.0.1";
  std::uint16_t port = 0;  // 0: any free one
};

/// Reads "HOST:PORT", ":PORT", "[IPV6]:PORT" or "PORT". Throws Failure(kUsage).
ListenAddress parse_listen(const std::string& text);

/// Whether only this machine can reach the address.
bool is_loopback(const ListenAddress& address);

/// Serves GET /metrics with what `page` returns, until the process is ended.
/// `listening` is called with the port once connections are taken. Throws
/// Failure(kCannotWrite) when the address can't be listened on.
void serve_metrics(const ListenAddress& address, const std::function<std::string()>& page,
                   const std::function<void(std::uint16_t)>& listening);

}  // namespace kvshim::cli
