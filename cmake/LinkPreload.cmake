# kvshim_link_preload(<target> [VERSION_SCRIPT <file>] [DYNAMIC_LIST <file>])
#
# Links a shared object that is preloaded into foreign programs: whatever it
# misses on a machine kills every process there, /bin/true too. So it needs only
# glibc's own libraries, of version 2.35 or older, and hides all of its own.
# The version script names the exports; everything else is local.

add_library(kvshim_older_glibc STATIC "${PROJECT_SOURCE_DIR}/cmake/older_glibc.cpp")
target_link_libraries(kvshim_older_glibc PRIVATE kvshim_warnings)

function(kvshim_link_preload target)
  cmake_parse_arguments(arg "" "VERSION_SCRIPT;DYNAMIC_LIST" "" ${ARGN})
  if(arg_VERSION_SCRIPT)
    target_link_options(${target} PRIVATE "-Wl,--version-script=${arg_VERSION_SCRIPT}")
    set_property(TARGET ${target} APPEND PROPERTY LINK_DEPENDS "${arg_VERSION_SCRIPT}")
  endif()
  if(arg_DYNAMIC_LIST)
    target_link_options(${target} PRIVATE "-Wl,--dynamic-list=${arg_DYNAMIC_LIST}")
    set_property(TARGET ${target} APPEND PROPERTY LINK_DEPENDS "${arg_DYNAMIC_LIST}")
  endif()
  target_link_options(${target} PRIVATE
    -Wl,--exclude-libs,ALL -Wl,-z,relro -Wl,-z,now -Wl,--as-needed -Wl,--build-id)
  if(NOT KVSHIM_SANITIZE)
    # Sanitized objects get what is missing from the sanitizer's runtime.
    target_link_options(${target} PRIVATE -Wl,-z,defs -static-libstdc++ -static-libgcc)
    kvshim_use_older_glibc(${target})
  endif()
endfunction()

# Before libstdc++ in link order, so that its reference is satisfied here.
function(kvshim_use_older_glibc target)
  target_link_libraries(${target} PRIVATE
    -Wl,--whole-archive kvshim_older_glibc -Wl,--no-whole-archive)
endfunction()
