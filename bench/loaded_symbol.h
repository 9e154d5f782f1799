// A loaded library's own symbol, whatever is preloaded.
#pragma once

namespace kvshim::bench {

/// The address of `symbol` in the loaded object whose file name starts with
/// `library`, read from its symbol table: dlsym would answer with the shim's
/// wrapper. Null when there is none.
void* loaded_symbol(const char* library, const char* symbol);

}  // namespace kvshim::bench
