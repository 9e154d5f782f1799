#include "tests/engine/server.h"

#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <charconv>
#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>

#include "tests/engine/scheduler.h"

namespace kvshim::engine {
namespace {

constexpr std::size_t kLongestLine = 256;

/// A client's lines; one at a time.
class Client {
 public:
  explicit Client(int socket) : socket_(socket) {}
  ~Client() { close(socket_); }
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  /// Without its end; false when the client has gone or sends no lines.
  bool read(std::string* line) {
    for (;;) {
      const auto end = buffer_.find('\n');
      if (end != std::string::npos) {
        *line = buffer_.substr(0, end);
        buffer_.erase(0, end + 1);
        return true;
      }
      if (buffer_.size() > kLongestLine) return false;
      std::array<char, kLongestLine> part{};
      const ssize_t got = recv(socket_, part.data(), part.size(), 0);
      if (got <= 0) return false;
      buffer_.append(part.data(), static_cast<std::size_t>(got));
    }
  }

  void write(std::string line) {
    line += '\n';
    for (std::string_view rest = line; !rest.empty();) {
      const ssize_t sent = send(socket_, rest.data(), rest.size(), MSG_NOSIGNAL);
      if (sent <= 0) return;
      rest.remove_prefix(static_cast<std::size_t>(sent));
    }
  }

 private:
  int socket_;
  std::string buffer_;
};

[[noreturn]] void no_port(const char* call, int port) {
  std::fprintf(stderr, "kvshim_engine: 127.0.0.1:%d can't be served: ", port);
  std::perror(call);
  std::exit(4);
}

int listen_on(int port) {
  const int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (listener < 0) no_port("socket", port);
  const int on = 1;
  setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(static_cast<std::uint16_t>(port));
  auto* const place = reinterpret_cast<sockaddr*>(&address);
  socklen_t size = sizeof address;
  if (bind(listener, place, size) != 0) no_port("bind", port);
  if (listen(listener, 8) != 0) no_port("listen", port);
  getsockname(listener, place, &size);
  std::printf("serving 127.0.0.1:%d\n", int{ntohs(address.sin_port)});
  std::fflush(stdout);
  return listener;
}

void burst(Scheduler& scheduler, unsigned number, Client& client) {
  const auto told = [&client](unsigned request, bool finished) {
    client.write((finished ? "done " : "first ") + std::to_string(request));
  };
  const BurstResult result = scheduler.run_burst(number, told);
  std::array<char, kLongestLine> text{};
  std::snprintf(text.data(), text.size(),
                "burst %u digest %016" PRIx64 " tokens %" PRIu64 " prompt %" PRIu64
                " hits %" PRIu64,
                number, result.digest, result.generated, result.prompt_tokens, result.prefix_hits);
  client.write(text.data());
}

/// False when the client wants the server to end.
bool serve(Scheduler& scheduler, Client& client) {
  for (std::string line; client.read(&line);) {
    constexpr std::string_view kBurst = "burst ";
    unsigned number = 0;
    if (line == "end") {
      client.write("ended");
      return false;
    }
    const char* const end = line.data() + line.size();
    if (!line.starts_with(kBurst)) {
      client.write("error unknown request");
    } else if (const auto read = std::from_chars(line.data() + kBurst.size(), end, number);
               read.ec != std::errc{} || read.ptr != end) {
      client.write("error no number of a burst");
    } else {
      burst(scheduler, number, client);
    }
  }
  return true;
}

}  // namespace

void serve_bursts(Scheduler& scheduler, int port) {
  const int listener = listen_on(port);
  for (bool wanted = true; wanted;) {
    const int socket = accept4(listener, nullptr, nullptr, SOCK_CLOEXEC);
    if (socket < 0) continue;
    Client client(socket);
    wanted = serve(scheduler, client);
  }
  close(listener);
}

}  // namespace kvshim::engine
