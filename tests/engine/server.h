// The engine as a server: bursts on demand, over lines on a loopback socket.
#pragma once

namespace kvshim::engine {

class Scheduler;

/// Serves one client after the other on 127.0.0.1:`port` (0: any) and says on standard output
/// where: "serving 127.0.0.1:PORT". Returns when a client says "end"; ends the process with 4
/// when the port can't be had. What a client says, and what it hears:
///
///   burst N    "first R" at the first token of request R, "done R" when it is finished, then
///              "burst N digest X tokens T prompt P hits H", as the engine prints it
///   end        "ended"
///   else       "error WHY"
///
/// A burst whose client has gone is still run to its end.
void serve_bursts(Scheduler& scheduler, int port);

}  // namespace kvshim::engine
