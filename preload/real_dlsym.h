// The C library's dlsym. This library exports one of its own (resolver.cpp), so
// inside it the plain name must not be used.
#pragma once

namespace kvshim::preload {

/// As dlsym(3). Not for RTLD_NEXT and RTLD_DEFAULT, which look at their caller.
/// Any thread; takes the loader's lock.
void* real_dlsym(void* handle, const char* name) noexcept;

}  // namespace kvshim::preload
