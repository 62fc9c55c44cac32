qs_test(cli_test
  SOURCES cli/arguments_test.cc cli/calibration_command_test.cc
    cli/compare_test.cc cli/exit_code_test.cc cli/job_text_test.cc cli/output_place_test.cc cli/output_staging_test.cc
    checkpoint/planned_checkpoint_test.cc cli/report_test.cc cli/result_folder_test.cc
    checkpoint/slice_reader_test.cc
    cli/stream_receiver_test.cc cli/tensor_sink_test.cc cli/text_output_test.cc
    checkpoint/work_batch_test.cc cli/work_board_test.cc
  LIBS qs_cli nlohmann_json::nlohmann_json
  LABELS unit cli SEPARATE)
# Against a real server.
qs_test(job_watch_test
  SOURCES cli/job_watch_test.cc
  LIBS qs_cli
  LABELS cli service)

find_package(Python3 COMPONENTS Interpreter REQUIRED)
foreach(name quantctl quantctl_calibration quantctl_calibration_faults
    quantctl_calibrate quantctl_faults quantctl_files quantctl_jobs quantctl_results
    quantctl_safety quantctl_stacks
    quantctl_upload)
  add_test(NAME ${name}_e2e
    COMMAND Python3::Interpreter
      ${CMAKE_CURRENT_SOURCE_DIR}/e2e/${name}_test.py
      ${CMAKE_RUNTIME_OUTPUT_DIRECTORY})
  set_tests_properties(${name}_e2e PROPERTIES LABELS "e2e" TIMEOUT 600)
endforeach()
# The longest start first.
set_tests_properties(quantctl_jobs_e2e quantctl_e2e quantctl_calibration_e2e
  quantctl_calibration_faults_e2e PROPERTIES COST 100)
add_test(NAME install_e2e
  COMMAND ${CMAKE_CURRENT_SOURCE_DIR}/deploy/install_test.sh ${CMAKE_BINARY_DIR})
set_tests_properties(install_e2e PROPERTIES LABELS "e2e" TIMEOUT 120)
add_test(NAME configure_without_tests
  COMMAND ${CMAKE_CURRENT_SOURCE_DIR}/deploy/configure_test.sh)
set_tests_properties(configure_without_tests PROPERTIES LABELS "e2e" TIMEOUT 120)
# The end-to-end part of tests/gpu/run.sh, on a CPU here, with quantd and
# quantctl from the folder that a GPU's machine is given. Not under a sanitizer,
# whose library has to be found before all others: the tests above ask the same
# of the programs.
if(NOT QS_SANITIZE)
  set(bundle ${CMAKE_BINARY_DIR}/bundle)
  add_test(NAME gpu_bundle_e2e
    COMMAND ${CMAKE_CURRENT_SOURCE_DIR}/gpu/bundle.sh
      $<$<NOT:$<TARGET_EXISTS:qs_cuda_kernels>>:--cpu> ${bundle}
      ${CMAKE_RUNTIME_OUTPUT_DIRECTORY}
    COMMAND_EXPAND_LISTS)
  add_test(NAME gpu_stream_e2e
    COMMAND Python3::Interpreter ${CMAKE_CURRENT_SOURCE_DIR}/gpu/stream_test.py
      ${bundle} 1)
  set_tests_properties(gpu_bundle_e2e PROPERTIES LABELS "e2e"
    FIXTURES_SETUP gpu_bundle)
  set_tests_properties(gpu_stream_e2e PROPERTIES LABELS "e2e" TIMEOUT 600
    FIXTURES_REQUIRED gpu_bundle COST 100)
endif()
if(NOT TARGET qs_cuda_kernels)
  # A GPU's machine has no use for such a folder.
  add_test(NAME gpu_bundle_refused
    COMMAND ${CMAKE_CURRENT_SOURCE_DIR}/gpu/bundle.sh
      ${CMAKE_BINARY_DIR}/no_bundle ${CMAKE_RUNTIME_OUTPUT_DIRECTORY})
  set_tests_properties(gpu_bundle_refused PROPERTIES LABELS "e2e"
    PASS_REGULAR_EXPRESSION "(is built without CUDA|build it first, with nvcc)")
endif()
