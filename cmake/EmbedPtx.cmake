# kvshim_embed_ptx(<target> <file.cu>...)
#
# Compiles each CUDA file to PTX for compute_75 (every GPU from Turing on
# compiles it to its own code at load), lowers its ISA version to the oldest
# that assembles (older drivers refuse newer versions, whatever the text uses),
# and links the text into <target> as the hidden symbol
#   extern "C" const char kvshim_ptx_<name>[];   // NUL terminated

function(kvshim_embed_ptx target)
  foreach(source IN LISTS ARGN)
    get_filename_component(source "${source}" ABSOLUTE)
    get_filename_component(name "${source}" NAME_WE)
    set(folder "${CMAKE_CURRENT_BINARY_DIR}/ptx")
    file(MAKE_DIRECTORY "${folder}")
    set(raw "${folder}/${name}.raw.ptx")
    set(ptx "${folder}/${name}.ptx")
    set(assembly "${folder}/${name}.S")

    add_custom_command(
      OUTPUT "${ptx}"
      COMMAND "${KVSHIM_NVCC}" -ptx -arch=compute_75 -std=c++20 -O3 -I "${PROJECT_SOURCE_DIR}"
              -I "${KVSHIM_CUDA_INCLUDE}" -MD -MF "${ptx}.d" -MT "${ptx}" -o "${raw}" "${source}"
      COMMAND "${CMAKE_COMMAND}" -DPTXAS=${KVSHIM_PTXAS} -DINPUT=${raw} -DOUTPUT=${ptx}
              -P "${PROJECT_SOURCE_DIR}/cmake/lower_ptx_version.cmake"
      DEPENDS "${source}" "${PROJECT_SOURCE_DIR}/cmake/lower_ptx_version.cmake"
      DEPFILE "${ptx}.d"
      COMMENT "PTX of ${name}.cu"
      VERBATIM)

    file(CONFIGURE OUTPUT "${assembly}" CONTENT [[
.section .rodata
.global kvshim_ptx_@name@
.hidden kvshim_ptx_@name@
.type kvshim_ptx_@name@, %object
.balign 16
kvshim_ptx_@name@:
.incbin "@ptx@"
.byte 0
.size kvshim_ptx_@name@, . - kvshim_ptx_@name@
.section .note.GNU-stack, "", %progbits
]] @ONLY)
    set_source_files_properties("${assembly}" PROPERTIES OBJECT_DEPENDS "${ptx}")
    target_sources(${target} PRIVATE "${assembly}")
  endforeach()
endfunction()
