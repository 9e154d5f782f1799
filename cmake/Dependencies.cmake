# Third-party libraries as interface targets; all are linked into the shared
# object and hidden there.
#   kvshim_spdlog    spdlog, header-only, with the distribution's fmt, header-only
#   kvshim_toml      toml++, header-only
#   kvshim_cli11     CLI11, header-only
#   kvshim_libunwind the position-independent archive built by scripts/setup

find_path(KVSHIM_SPDLOG_INCLUDE spdlog/spdlog.h REQUIRED)
find_path(KVSHIM_FMT_INCLUDE fmt/core.h REQUIRED)
find_path(KVSHIM_TOML_INCLUDE toml++/toml.h HINTS "${PROJECT_SOURCE_DIR}/.deps/tomlplusplus/include"
          REQUIRED)
find_path(KVSHIM_CLI11_INCLUDE CLI/CLI.hpp REQUIRED)

add_library(kvshim_spdlog INTERFACE)
target_include_directories(kvshim_spdlog SYSTEM INTERFACE "${KVSHIM_SPDLOG_INCLUDE}"
                           "${KVSHIM_FMT_INCLUDE}")
target_compile_definitions(kvshim_spdlog INTERFACE SPDLOG_FMT_EXTERNAL FMT_HEADER_ONLY)
target_link_libraries(kvshim_spdlog INTERFACE Threads::Threads)

add_library(kvshim_toml INTERFACE)
target_include_directories(kvshim_toml SYSTEM INTERFACE "${KVSHIM_TOML_INCLUDE}")
target_compile_definitions(kvshim_toml INTERFACE TOML_EXCEPTIONS=0)
# toml++ 3.3 asserts before it checks that a key starts as one ("[[[" aborts), and
# with NDEBUG clang may assume it. Its own check behind the assertion is enough.
target_compile_options(kvshim_toml INTERFACE -UNDEBUG "-DTOML_ASSERT(expr)=static_cast<void>(0)")

add_library(kvshim_cli11 INTERFACE)
target_include_directories(kvshim_cli11 SYSTEM INTERFACE "${KVSHIM_CLI11_INCLUDE}")

set(KVSHIM_LIBUNWIND_ROOT "${PROJECT_SOURCE_DIR}/.deps/libunwind" CACHE PATH
    "Where scripts/setup installed the position-independent libunwind")
set(kvshim_libunwind_archive "${KVSHIM_LIBUNWIND_ROOT}/lib/libunwind.a")
if(NOT EXISTS "${kvshim_libunwind_archive}")
  message(FATAL_ERROR "No position-independent libunwind under ${KVSHIM_LIBUNWIND_ROOT}: "
                      "run scripts/setup.")
endif()
add_library(kvshim_libunwind INTERFACE)
target_include_directories(kvshim_libunwind SYSTEM INTERFACE "${KVSHIM_LIBUNWIND_ROOT}/include")
# Local unwinding only: UNW_LOCAL_ONLY picks the names that this archive defines.
target_compile_definitions(kvshim_libunwind INTERFACE UNW_LOCAL_ONLY)
target_link_libraries(kvshim_libunwind INTERFACE "${kvshim_libunwind_archive}")
