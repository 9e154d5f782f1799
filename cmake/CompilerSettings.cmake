# Settings that hold for every target: the language, hidden visibility,
# sanitizers, invariant checks; and the warnings as an interface target.

if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 12)
  message(FATAL_ERROR "kvshim needs gcc 12 or newer, this is ${CMAKE_CXX_COMPILER_VERSION}; "
                      "set CMAKE_CXX_COMPILER (for instance to g++-12).")
elseif(CMAKE_CXX_COMPILER_ID STREQUAL "Clang" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 14)
  message(FATAL_ERROR "kvshim needs clang 14 or newer, this is ${CMAKE_CXX_COMPILER_VERSION}.")
endif()

set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_C_VISIBILITY_PRESET hidden)
set(CMAKE_CXX_VISIBILITY_PRESET hidden)
set(CMAKE_VISIBILITY_INLINES_HIDDEN ON)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)

find_package(Threads REQUIRED)

include_directories("${PROJECT_SOURCE_DIR}" "${PROJECT_BINARY_DIR}/generated")
add_compile_definitions(KVSHIM_VERSION="${PROJECT_VERSION}")

# A preloaded object is there from the start, so its thread-local variables fit
# in the static block: no call of __tls_get_addr on the launch path, and no
# allocation in a thread's first access.
add_compile_options(-fno-omit-frame-pointer -ftls-model=initial-exec)

if(KVSHIM_DEBUG_CHECKS STREQUAL "AUTO")
  add_compile_definitions($<$<CONFIG:Debug>:KVSHIM_CHECK_INVARIANTS=1>)
elseif(KVSHIM_DEBUG_CHECKS)
  add_compile_definitions(KVSHIM_CHECK_INVARIANTS=1)
endif()

if(KVSHIM_SANITIZE STREQUAL "address")
  add_compile_options(-fsanitize=address,undefined -fno-sanitize-recover=undefined)
  add_link_options(-fsanitize=address,undefined)
elseif(KVSHIM_SANITIZE STREQUAL "thread")
  add_compile_options(-fsanitize=thread)
  add_link_options(-fsanitize=thread)
  add_compile_definitions(KVSHIM_SANITIZE_THREAD=1)  # it can't follow threads of a forked child
elseif(KVSHIM_SANITIZE)
  message(FATAL_ERROR "KVSHIM_SANITIZE must be empty, address or thread")
endif()
if(KVSHIM_SANITIZE)
  add_compile_definitions(KVSHIM_SANITIZED=1)
endif()

add_library(kvshim_warnings INTERFACE)
target_compile_options(kvshim_warnings INTERFACE
  -Wall -Wextra -Wpedantic -Wshadow -Wnon-virtual-dtor
  $<$<COMPILE_LANGUAGE:CXX>:-Wconversion -Woverloaded-virtual>
  $<$<BOOL:${KVSHIM_WERROR}>:-Werror>)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
  # gcc bug 105651: "literal" + std::string is said to overlap itself.
  target_compile_options(kvshim_warnings INTERFACE -Wno-restrict)
endif()
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 15)
  # gcc 13 and 14 see a growing std::vector write past its end.
  target_compile_options(kvshim_warnings INTERFACE -Wno-stringop-overflow)
endif()
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND KVSHIM_SANITIZE)
  # gcc's flow analysis sees ghosts through the sanitizers' instrumentation.
  target_compile_options(kvshim_warnings INTERFACE -Wno-maybe-uninitialized -Wno-tsan)
endif()

if(KVSHIM_SANITIZE STREQUAL "thread")
  add_library(kvshim_tsan_clocklock STATIC "${PROJECT_SOURCE_DIR}/cmake/tsan_clocklock.cpp")
  link_libraries(kvshim_tsan_clocklock)
endif()
