# The CUDA compiler and headers, nothing else of CUDA is used:
#   KVSHIM_NVCC, KVSHIM_PTXAS    programs
#   kvshim_cuda_headers          interface target with cuda.h
# From an installed toolkit (nvcc on PATH, 13.0 or newer: the table of entry points
# names functions that older headers lack), else from the Python packages that
# scripts/setup puts under .deps. Drivers may be older.

file(GLOB kvshim_pip_cuda "${PROJECT_SOURCE_DIR}/.deps/cuda/lib/python*/site-packages/nvidia/cu13")

function(kvshim_nvcc_is_usable result candidate)
  execute_process(COMMAND "${candidate}" --version OUTPUT_VARIABLE text ERROR_QUIET
                  RESULT_VARIABLE status)
  if(status EQUAL 0 AND text MATCHES "release ([0-9]+\\.[0-9]+)"
     AND CMAKE_MATCH_1 VERSION_GREATER_EQUAL 13.0)
    set(${result} TRUE PARENT_SCOPE)
  else()
    set(${result} FALSE PARENT_SCOPE)
  endif()
endfunction()

if(NOT KVSHIM_NVCC)
  find_program(kvshim_nvcc_on_path nvcc PATHS /usr/local/cuda/bin NO_CACHE)
  set(kvshim_usable FALSE)
  if(kvshim_nvcc_on_path)
    file(REAL_PATH "${kvshim_nvcc_on_path}" kvshim_nvcc_on_path)
    kvshim_nvcc_is_usable(kvshim_usable "${kvshim_nvcc_on_path}")
  endif()
  if(kvshim_usable)
    set(KVSHIM_NVCC "${kvshim_nvcc_on_path}" CACHE FILEPATH "The CUDA compiler, 13.0 or newer")
  else()
    foreach(root IN LISTS kvshim_pip_cuda)
      if(EXISTS "${root}/bin/nvcc")
        set(KVSHIM_NVCC "${root}/bin/nvcc" CACHE FILEPATH "The CUDA compiler, 13.0 or newer")
      endif()
    endforeach()
  endif()
endif()
if(NOT KVSHIM_NVCC)
  message(FATAL_ERROR "No nvcc of CUDA 13.0 or newer: run scripts/setup, or set KVSHIM_NVCC.")
endif()

get_filename_component(kvshim_cuda_bin "${KVSHIM_NVCC}" DIRECTORY)
get_filename_component(kvshim_cuda_root "${kvshim_cuda_bin}" DIRECTORY)
find_program(KVSHIM_PTXAS ptxas HINTS "${kvshim_cuda_bin}" REQUIRED)
find_path(KVSHIM_CUDA_INCLUDE cuda.h
          HINTS "${kvshim_cuda_root}/include"
                "${kvshim_cuda_root}/targets/${CMAKE_SYSTEM_PROCESSOR}-linux/include"
          REQUIRED)
message(STATUS "CUDA compiler: ${KVSHIM_NVCC}, headers: ${KVSHIM_CUDA_INCLUDE}")

add_library(kvshim_cuda_headers INTERFACE)
target_include_directories(kvshim_cuda_headers SYSTEM INTERFACE "${KVSHIM_CUDA_INCLUDE}")
