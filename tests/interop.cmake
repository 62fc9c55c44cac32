option(QS_INTEROP "Load the output in the real engines (10 GB of packages)" OFF)
add_test(NAME layering COMMAND python3 ${CMAKE_CURRENT_SOURCE_DIR}/layering_test.py)
add_test(NAME readme_grpcurl COMMAND python3
  ${CMAKE_CURRENT_SOURCE_DIR}/e2e/grpcurl_test.py
  ${CMAKE_RUNTIME_OUTPUT_DIRECTORY})
set_tests_properties(readme_grpcurl PROPERTIES LABELS e2e SKIP_RETURN_CODE 77
  TIMEOUT 900)
if(QS_INTEROP)
  foreach(environment transformers vllm)
    add_test(NAME interop_setup_${environment} COMMAND
      ${CMAKE_CURRENT_SOURCE_DIR}/interop/setup.sh ${environment})
    set_tests_properties(interop_setup_${environment} PROPERTIES LABELS interop
      TIMEOUT 1800 FIXTURES_SETUP ${environment})
  endforeach()
  foreach(engine transformers gptqmodel hqq vllm)
    set(environment transformers)
    if(engine STREQUAL vllm)
      set(environment vllm)
    endif()
    add_test(NAME interop_${engine} COMMAND
      ${CMAKE_CURRENT_SOURCE_DIR}/interop/run.sh
      ${CMAKE_RUNTIME_OUTPUT_DIRECTORY} ${engine})
    set_tests_properties(interop_${engine} PROPERTIES LABELS interop
      TIMEOUT 1800 FIXTURES_REQUIRED ${environment})
  endforeach()
endif()
