# libFuzzer targets: `cmake --preset fuzz`, target `fuzzers`, `ctest -L fuzz`.
if(NOT CMAKE_CXX_COMPILER_ID MATCHES "Clang")
  message(FATAL_ERROR "QS_FUZZ needs clang, got ${CMAKE_CXX_COMPILER_ID}")
endif()
add_custom_target(fuzzers)

# qs_fuzz(name SOURCES... [LIBS...] [SEEDS folder] [DICTIONARY file]
#         [SECONDS n]): one target. What is fuzzed belongs in SOURCES: a library
# carries no coverage, so the fuzzer would be blind in it. What the run finds
# interesting stays in the build folder, for the next one to start from.
function(qs_fuzz name)
  cmake_parse_arguments(F "" "SEEDS;DICTIONARY;SECONDS" "SOURCES;LIBS" ${ARGN})
  if(NOT F_SECONDS)
    set(F_SECONDS 25)
  endif()
  add_executable(${name} EXCLUDE_FROM_ALL ${F_SOURCES})
  target_link_libraries(${name} PRIVATE qs_options ${F_LIBS})
  target_compile_options(${name} PRIVATE -fsanitize=fuzzer)
  target_link_options(${name} PRIVATE -fsanitize=fuzzer)
  add_dependencies(fuzzers ${name})

  set(work ${CMAKE_BINARY_DIR}/fuzz/${name})
  file(MAKE_DIRECTORY ${work}/corpus)
  set(inputs ${work}/corpus)
  if(F_SEEDS)
    list(APPEND inputs ${CMAKE_CURRENT_SOURCE_DIR}/${F_SEEDS})
  endif()
  set(dictionary)
  if(F_DICTIONARY)
    set(dictionary -dict=${CMAKE_CURRENT_SOURCE_DIR}/${F_DICTIONARY})
  endif()
  add_test(NAME ${name} COMMAND ${name} -max_total_time=${F_SECONDS}
    -timeout=10 -rss_limit_mb=2048 -max_len=65536 -print_final_stats=1
    -artifact_prefix=${work}/ ${dictionary} ${inputs})
  math(EXPR limit "${F_SECONDS} + 120")
  set_tests_properties(${name} PROPERTIES LABELS fuzz TIMEOUT ${limit})
endfunction()

set(formats ../quant/formats)
qs_fuzz(safetensors_fuzz
  SOURCES fuzz/safetensors_fuzz.cc
    ${formats}/awq_format.cc ${formats}/bitsandbytes.cc ${formats}/bitsandbytes_decode.cc
    ${formats}/checkpoint.cc ${formats}/checkpoint_files.cc
    ${formats}/checkpoint_index.cc ${formats}/compressed_tensors.cc
    ${formats}/file_opener.cc ${formats}/gptq_format.cc
    ${formats}/grid_pieces.cc
    ${formats}/hqq_decode.cc ${formats}/hqq_format.cc ${formats}/json.cc
    ${formats}/posix_file.cc ${formats}/python_repr.cc ${formats}/utf8.cc
    ${formats}/safetensors_file.cc ${formats}/safetensors_header.cc
    ${formats}/stored_tensors.cc
    ../kernels/base/buffer.cc ../kernels/base/dtype.cc ../kernels/nf4_tables.cc
  LIBS absl::status absl::statusor absl::strings absl::synchronization
    nlohmann_json::nlohmann_json
  SEEDS fuzz/seeds/safetensors DICTIONARY fuzz/safetensors.dict)

qs_fuzz(wire_fuzz
  SOURCES fuzz/wire_fuzz.cc ../service/stream/wire.cc
  LIBS qs_proto
  SEEDS fuzz/seeds/wire)

# Not a fuzzer, but a check that only this compiler can make. The generated
# headers have to be there.
add_dependencies(fuzzers qs_proto_grpc)
add_test(NAME thread_annotations COMMAND python3
  ${CMAKE_CURRENT_SOURCE_DIR}/thread_annotations_test.py ${CMAKE_BINARY_DIR})
set_tests_properties(thread_annotations PROPERTIES LABELS fuzz TIMEOUT 900)
