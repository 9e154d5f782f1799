#include "tools/kvshim/metrics_server.h"

#include <event2/buffer.h>
#include <event2/event.h>
#include <event2/http.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <cerrno>
#include <charconv>
#include <cstring>
#include <memory>

#include "tools/kvshim/outcome.h"
#include "tools/kvshim/snapshot.h"

namespace kvshim::cli {
namespace {

constexpr const char* kContentType = "text/plain; version=0.0.4; charset=utf-8";
constexpr int kTimeout_s = 10;
constexpr int kMostHeader = 16 * 1024;

void answer(evhttp_request* request, int code, const char* type, const std::string& text) {
  evhttp_add_header(evhttp_request_get_output_headers(request), "Content-Type", type);
  evbuffer* body = evbuffer_new();
  if (body == nullptr) {
    evhttp_send_error(request, HTTP_INTERNAL, nullptr);
    return;
  }
  evbuffer_add(body, text.data(), text.size());
  evhttp_send_reply(request, code, nullptr, body);
  evbuffer_free(body);
}

void on_metrics(evhttp_request* request, void* data) {
  try {
    answer(request, HTTP_OK, kContentType, (*static_cast<std::function<std::string()>*>(data))());
  } catch (const std::exception& error) {  // a C library calls this
    answer(request, HTTP_INTERNAL, "text/plain", std::string(error.what()) + "\n");
  }
}

void on_other(evhttp_request* request, void*) {
  answer(request, HTTP_NOTFOUND, "text/plain", "the figures are at /metrics\n");
}

std::uint16_t port_of(evhttp_bound_socket* bound) {
  sockaddr_storage address{};
  socklen_t length = sizeof address;
  if (::getsockname(evhttp_bound_socket_get_fd(bound), reinterpret_cast<sockaddr*>(&address),
                    &length) != 0) {
    return 0;
  }
  const auto* four = reinterpret_cast<const sockaddr_in*>(&address);
  const auto* six = reinterpret_cast<const sockaddr_in6*>(&address);
  return ntohs(address.ss_family == AF_INET6 ? six->sin6_port : four->sin_port);
}

}  // namespace

ListenAddress parse_listen(const std::string& text) {
  ListenAddress address;
  std::string port = text;
  const std::size_t colon = text.rfind(':');
  if (colon != std::string::npos) {
    if (colon > 0) address.host = text.substr(0, colon);
    port = text.substr(colon + 1);
  }
  if (address.host.starts_with('[') && address.host.ends_with(']')) {
    address.host = address.host.substr(1, address.host.size() - 2);
  }
  if (address.host == "localhost") address.host = "127.0.0.1";
  unsigned number = 0;
  const auto [end, error] = std::from_chars(port.data(), port.data() + port.size(), number);
  if (error != std::errc() || end != port.data() + port.size() || number > 65535) {
    throw Failure(Exit::kUsage,
                  "--listen: '" + printable(text) + "' names no port; say for instance :9401");
  }
  address.port = static_cast<std::uint16_t>(number);
  return address;
}

bool is_loopback(const ListenAddress& address) {
  return address.host.starts_with("127.") || address.host == "::1";
}

void serve_metrics(const ListenAddress& address, const std::function<std::string()>& page,
                   const std::function<void(std::uint16_t)>& listening) {
  const std::unique_ptr<event_base, void (*)(event_base*)> base(event_base_new(), event_base_free);
  if (base == nullptr) throw std::bad_alloc();
  const std::unique_ptr<evhttp, void (*)(evhttp*)> server(evhttp_new(base.get()), evhttp_free);
  if (server == nullptr) throw std::bad_alloc();
  evhttp_set_allowed_methods(server.get(), EVHTTP_REQ_GET | EVHTTP_REQ_HEAD);
  evhttp_set_max_headers_size(server.get(), kMostHeader);
  evhttp_set_max_body_size(server.get(), 0);
  evhttp_set_timeout(server.get(), kTimeout_s);
  std::function<std::string()> held = page;
  evhttp_set_cb(server.get(), "/metrics", on_metrics, &held);
  evhttp_set_gencb(server.get(), on_other, nullptr);
  errno = 0;
  evhttp_bound_socket* bound =
      evhttp_bind_socket_with_handle(server.get(), address.host.c_str(), address.port);
  if (bound == nullptr) {
    throw Failure(Exit::kCannotWrite, "can't listen on " + printable(address.host) + ":" +
                                          std::to_string(address.port) + ": " +
                                          (errno != 0 ? std::strerror(errno) : "no such address") +
                                          "; choose another with --listen");
  }
  listening(port_of(bound));
  event_base_dispatch(base.get());
}

}  // namespace kvshim::cli
