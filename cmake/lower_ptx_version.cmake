# cmake -DPTXAS= -DINPUT= -DOUTPUT= -P lower_ptx_version.cmake
# Writes OUTPUT: INPUT with the oldest `.version` with which ptxas takes it, on
# the oldest GPU that is supported and on a newer one.

file(READ "${INPUT}" text)
foreach(version 6.4 7.0 7.4 7.8 8.0 8.4)
  string(REGEX REPLACE "\n\\.version [0-9]+\\.[0-9]+" "\n.version ${version}" lowered "${text}")
  if(NOT lowered MATCHES "\n\\.version ${version}\n")
    message(FATAL_ERROR "${INPUT}: no .version line")
  endif()
  file(WRITE "${OUTPUT}.try" "${lowered}")
  set(taken TRUE)
  foreach(gpu sm_75 sm_90)
    execute_process(COMMAND "${PTXAS}" -arch=${gpu} -o /dev/null "${OUTPUT}.try"
                    RESULT_VARIABLE status OUTPUT_VARIABLE complaint ERROR_VARIABLE complaint)
    if(NOT status EQUAL 0)
      set(taken FALSE)
      break()
    endif()
  endforeach()
  if(taken)
    file(RENAME "${OUTPUT}.try" "${OUTPUT}")
    return()
  endif()
endforeach()
message(FATAL_ERROR "${INPUT}: ptxas takes it with no ISA version up to 8.4:\n${complaint}")
