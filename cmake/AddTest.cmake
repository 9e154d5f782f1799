# kvshim_add_test(<name> SOURCES <file>... [LIBRARIES <target>...]
#                 [TIMEOUT <seconds for each test>] [ENVIRONMENT <name=value>...]
#                 [SERIAL] [FILLS_GPU])
# A GoogleTest program whose tests ctest knows one by one (but for disabled ones,
# which other tests start in processes of their own). FILLS_GPU: alone on a real GPU; each
# test has a simulated one for itself.
#
# kvshim_use_preload_objects(<target> <name>...)
# Links single sources of preload/ (without .cpp) into a test that brings fakes in
# place of the others; they are compiled once, for the library itself, each alone in unity
# builds too.

find_package(GTest REQUIRED)
include(GoogleTest)

function(kvshim_add_test name)
  cmake_parse_arguments(arg "SERIAL;FILLS_GPU" "TIMEOUT" "SOURCES;LIBRARIES;ENVIRONMENT" ${ARGN})
  if(NOT arg_TIMEOUT)
    set(arg_TIMEOUT 60)
  endif()
  if(KVSHIM_SANITIZE)
    math(EXPR arg_TIMEOUT "${arg_TIMEOUT} * 4")
    # gcc 12's ThreadSanitizer can't take the default arena of 1 TiB reliably.
    list(APPEND arg_ENVIRONMENT "KVSHIM_ARENA_SIZE=64GiB")
    # Preloaded objects come before the sanitizer's runtime.
    list(APPEND arg_ENVIRONMENT "ASAN_OPTIONS=verify_asan_link_order=0")
    # Some tests start threads in a forked child, as engines do.
    list(APPEND arg_ENVIRONMENT
         "TSAN_OPTIONS=die_after_fork=0:suppressions=${PROJECT_SOURCE_DIR}/cmake/tsan.suppressions")
  endif()
  add_executable(${name} ${arg_SOURCES})
  # Half of a build is the tests' own code, which needs no optimisation: with address
  # and undefined behaviour checked it would take twice as long to compile. (Threads:
  # not shorter by much, and then it would run much slower.)
  target_compile_options(${name} PRIVATE
    $<$<STREQUAL:${KVSHIM_SANITIZE},address>:-O0> $<$<CONFIG:Release>:-O1>)
  target_link_libraries(${name} PRIVATE kvshim_warnings ${arg_LIBRARIES} GTest::gmock
                        GTest::gtest GTest::gtest_main)
  set(properties TIMEOUT ${arg_TIMEOUT})
  if(arg_SERIAL)
    list(APPEND properties RUN_SERIAL ON)
  endif()
  if(arg_FILLS_GPU)
    list(APPEND properties LABELS fills_gpu)
  endif()
  gtest_discover_tests(${name} DISCOVERY_MODE PRE_TEST DISCOVERY_TIMEOUT 60
                       TEST_PREFIX "${name}." TEST_FILTER "-*DISABLED_*" PROPERTIES ${properties})
  if(arg_ENVIRONMENT)
    # gtest_discover_tests takes no property that is a list; ctest reads this
    # file after the one that lists the tests. Generator expressions hold.
    file(GENERATE OUTPUT "${CMAKE_CURRENT_BINARY_DIR}/${name}_environment.cmake" CONTENT
"if(${name}_TESTS)
  set_tests_properties(\${${name}_TESTS} PROPERTIES ENVIRONMENT \"${arg_ENVIRONMENT}\")
endif()
")
    set_property(DIRECTORY APPEND PROPERTY TEST_INCLUDE_FILES
                 "${CMAKE_CURRENT_BINARY_DIR}/${name}_environment.cmake")
  endif()
endfunction()

function(kvshim_use_preload_objects target)
  list(TRANSFORM ARGN PREPEND "${PROJECT_SOURCE_DIR}/preload/" OUTPUT_VARIABLE sources)
  list(TRANSFORM sources APPEND ".cpp")
  set_source_files_properties(${sources} TARGET_DIRECTORY kvshim_preload_objects
                              PROPERTIES SKIP_UNITY_BUILD_INCLUSION ON)
  list(JOIN ARGN "|" names)
  target_sources(${target} PRIVATE
    "$<FILTER:$<TARGET_OBJECTS:kvshim_preload_objects>,INCLUDE,/(${names})\\.cpp\\.o$>")
endfunction()
